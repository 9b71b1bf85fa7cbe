"""The images that docker-py's tests use, made here instead of pulled: Docker Hub cannot be reached from everywhere.

``alpine`` is busybox with the account and the folder of the real one that the tests name. Neighbour: ``run.py``.
"""

from __future__ import annotations

import io
import subprocess
import tarfile

from tests.hyperd import Door

from hyper.images import builtin

MIRROR = "127.0.0.1:5000"
NAMES = ("alpine:3.10", "alpine:latest", "hello-world:latest")
_ACCOUNT = ("postgres", 70, 70, "/var/lib/postgresql", "/bin/sh")


def bring(door: Door) -> None:
    """Into the engine behind the door, which has ``busybox`` already, and to the mirror beside it."""
    first = NAMES[0]
    door.docker("import", "--change", 'CMD ["/bin/sh"]', "-", first, input=_alpine())
    for name in NAMES[1:]:
        door.docker("tag", first, name)
    for name in ("busybox:latest", *NAMES):
        copy = f"{MIRROR}/library/{name}"
        door.docker("tag", name, copy)
        door.docker("push", "-q", copy)
        door.docker("rmi", copy)


def _alpine() -> bytes:
    listed = subprocess.run([builtin.BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    base = io.BytesIO(builtin.root_tar(builtin.BUSYBOX.read_bytes(), listed))
    output = io.BytesIO()
    with tarfile.open(fileobj=base) as source, tarfile.open(fileobj=output, mode="w") as target:
        for member in source.getmembers():
            content = source.extractfile(member) if member.isreg() else None
            data = content.read() if content is not None else b""
            if member.name == "etc/passwd":
                name, uid, gid, home, shell = _ACCOUNT
                data += f"{name}:x:{uid}:{gid}::{home}:{shell}\n".encode()
                member.size = len(data)
            target.addfile(member, io.BytesIO(data))
        folder = tarfile.TarInfo("var/opt")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        target.addfile(folder)
    return output.getvalue()
