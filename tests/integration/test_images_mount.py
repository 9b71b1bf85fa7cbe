"""The kernel's own view of an image against the tar it was made from: every file's metadata and content.

Here the host's kernel is asked, about images that the test itself made. ``image_listing.SCRIPT`` asks the same of a guest's.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

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
    """Every kind of file, and values at the edges."""
    path = tmp_path / "root.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape") as archive:

        def add(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: object) -> None:
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(content))

        add("./", tarfile.DIRTYPE, mode=0o755, mtime=1_700_000_000)
        add("./d", tarfile.DIRTYPE, mode=0o2775, uid=1000, gid=70_000, mtime=1_700_000_000, pax_headers={"mtime": "1700000001.123456789"})
        add("./tmp", tarfile.DIRTYPE, mode=0o1777)
        for number in range(700):
            add(f"./d/file-{number}", content=os.urandom(number * 13 % 9000), mode=0o644, mtime=number)
        add("./suid", content=b"#!", mode=0o6755)
        add("./big-owner", content=b"x", uid=4_000_000_000, gid=3_000_000_000)
        add("./before-1970", content=b"x", mtime=-86_400)
        add("./after-2038", content=b"x", mtime=5_000_000_000)
        add("./large", content=os.urandom(3_000_001))
        add("./" + "n" * 255, content=b"long")
        add("./d/hard-1", tarfile.LNKTYPE, linkname="./large")
        add("./d/hard-2", tarfile.LNKTYPE, linkname="./d/hard-1")
        add("./link", tarfile.SYMTYPE, linkname="d/" + "t" * 300)
        add("./hard-to-link", tarfile.LNKTYPE, linkname="./link")
        add("./null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3)
        add("./disk", tarfile.BLKTYPE, mode=0o660, devmajor=259, devminor=70_000)
        add("./fifo", tarfile.FIFOTYPE, mode=0o600)
        capability = "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
        add("./with-xattrs", content=b"x" * 5000, pax_headers={"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.a": "b"})
        add("./empty", content=b"")
        add("./deep/" * 1 + "/".join("d" * 20 for _ in range(60)), content=b"deep")
    return path


def test_the_kernel_sees_what_the_tar_says(root_tar: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0 or "erofs" not in Path("/proc/filesystems").read_text():
        pytest.skip("mounting EROFS needs root and a kernel that has it")
    sys.path.insert(0, str(HERE))
    from image_listing import expected

    image = tmp_path / "image.erofs"
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT, 0o600)
    build_disk([Layer(root_tar, "", False)], descriptor, tmp_path, Budget(ImageLimits(), tmp_path), lambda number, count: None)
    os.close(descriptor)
    mount_point = tmp_path / "mnt"
    mount_point.mkdir()
    script = 'mount --make-rprivate / && mount -t erofs -o loop,ro "$1" "$2" && exec "$3" -c "$4" "$5" "$2"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", image, mount_point, sys.executable, _LOOK, HERE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {key: value for key, value in json.loads(done.stdout)}
    implied = {repr(b"deep" + b"/" + b"/".join([b"d" * 20] * count)).replace("/'", "'") for count in range(60)}
    wanted = {repr(key): repr(value) for key, value in expected(root_tar).items()}
    # Directories that the tar only implies have no metadata there, and the root counts one of them.
    differences = {key: (found.get(key), wanted.get(key)) for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)}
    assert set(differences) - implied == {"b''"}
    assert found["b''"] == wanted["b''"].replace(", 4, 0,", ", 5, 0,", 1)
