"""The kernel's own view of an image against the tar it was made from: every file's metadata and content.

Here the host's kernel is asked, about images that the test itself made; test_images_vm.py asks a guest's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.image_listing import IMPLIED, expected, make_root_tar

from hyper.images.layers.build import Layer, build_disk
from hyper.images.limits import Budget, ImageLimits

HERE = Path(__file__).parent
_LOOK = """
import json, sys
sys.path.insert(0, sys.argv[1])
from image_listing import mounted
from pathlib import Path
print(json.dumps(sorted((repr(k), repr(v)) for k, v in mounted(Path(sys.argv[2])).items())))
"""


@pytest.fixture
def root_tar(tmp_path: Path) -> Path:
    return make_root_tar(tmp_path / "root.tar", small_files=700)


def test_the_kernel_sees_what_the_tar_says(root_tar: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0 or "erofs" not in Path("/proc/filesystems").read_text():
        pytest.skip("mounting EROFS needs root and a kernel that has it")
    image = tmp_path / "image.erofs"
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT, 0o600)
    build_disk(
        [Layer(root_tar, "", False)],
        descriptor,
        tmp_path,
        Budget(ImageLimits(), tmp_path),
        lambda number, expanded, read: None,
    )
    os.close(descriptor)
    mount_point = tmp_path / "mnt"
    mount_point.mkdir()
    script = 'mount --make-rprivate / && mount -t erofs -o loop,ro "$1" "$2" && exec "$3" -c "$4" "$5" "$2"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", image, mount_point, sys.executable, _LOOK, HERE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = dict(json.loads(done.stdout))
    implied = {repr(path) for path in IMPLIED}
    wanted = {repr(key): repr(value) for key, value in expected(root_tar).items()}
    # Directories that the tar only implies have no metadata there, and the root counts one of them.
    differences = {
        key: (found.get(key), wanted.get(key))
        for key in found.keys() | wanted.keys()
        if found.get(key) != wanted.get(key)
    }
    assert set(differences) - implied == {"b''"}
    assert found["b''"] == wanted["b''"].replace(", 4, 0,", ", 5, 0,", 1)
