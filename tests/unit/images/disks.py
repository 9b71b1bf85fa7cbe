"""Building disks from layers in tests, and looking into them with the tools of erofs-utils."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from hyper.images.layers.build import BuiltDisk, Layer, build_disk
from hyper.images.limits import Budget, ImageLimits
from hyper.oci import digest


def build(
    tmp_path: Path, layers: list[bytes], limits: ImageLimits | None = None, name: str = "image.erofs"
) -> tuple[Path, BuiltDisk]:
    """One disk of uncompressed or compressed layers, lowest first."""
    sources = []
    for number, content in enumerate(layers):
        path = tmp_path / f"layer-{number}"
        path.write_bytes(content)
        sources.append(Layer(path, "", False, f"layer {number}"))
    image = tmp_path / name
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        built = build_disk(
            sources,
            descriptor,
            tmp_path,
            Budget(limits or ImageLimits(), tmp_path),
            lambda number, expanded, read: None,
        )
    finally:
        os.close(descriptor)
    assert built.diff_ids == tuple(digest.of(content) for content in layers) or any(map(_compressed, layers))
    return image, built


def extract(image: Path, target: Path) -> dict[str, tuple[object, ...]]:
    """What fsck.erofs finds: path → (kind, mode, content or target, mtime in s)."""
    done = subprocess.run(
        ["fsck.erofs", f"--extract={target}", "--overwrite", image], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(target):
        for name in names + files:
            path = Path(directory, name)
            status = path.lstat()
            mode = stat.S_IMODE(status.st_mode)
            key = str(path.relative_to(target))
            if path.is_symlink():
                found[key] = ("symlink", 0o777, os.readlink(path))
            elif path.is_dir():
                found[key] = ("directory", mode)
            else:
                found[key] = ("file", mode, path.read_bytes().decode("latin-1"))
    return found


def read_by_kernel(image: Path, mount_point: Path) -> dict[str, tuple[object, ...]]:
    """What the host's kernel finds: path → (kind, mode, content or target, mtime in s). Only for trusted images."""
    if os.geteuid() != 0 or "erofs" not in Path("/proc/filesystems").read_text():
        pytest.skip("mounting EROFS needs root and a kernel that has it")
    mount_point.mkdir(exist_ok=True)
    script = 'mount --make-rprivate / && mount -t erofs -o loop,ro "$1" "$2" && tar -C "$2" --hard-dereference -cf - .'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", image, mount_point], capture_output=True, check=True
    )
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        for member in archive:
            name = os.path.normpath(member.name)
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None:
                found[name] = ("file", member.mode, content.read().decode("latin-1"), int(member.mtime))
            elif member.issym():
                found[name] = ("symlink", member.mode, member.linkname, int(member.mtime))
            elif member.isdir() and name != ".":
                found[name] = ("directory", member.mode, "", int(member.mtime))
    return found


def _compressed(content: bytes) -> bool:
    return content[:2] in (b"\x1f\x8b", b"\x28\xb5", b"\xfd7", b"BZ")
