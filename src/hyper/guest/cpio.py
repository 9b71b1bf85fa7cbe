"""A deterministic writer of "newc" cpio archives, the format of an initramfs.

Same entries, same bytes: times are 0, inode numbers count up, owners are root. Written against the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst. Neighbour: ``initramfs``.
"""

from __future__ import annotations

import stat
from typing import BinaryIO

_MAGIC = b"070701"
_ALIGN = 4
_END = "TRAILER!!!"
_MAX_FIELD = 0xFFFF_FFFF


class CpioWriter:
    """Writes one archive to an open binary file; parents must be written before what they hold. Not reusable after
    close."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._inode = 0
        self._position = 0

    def directory(self, path: str, mode: int = 0o755) -> None:
        self._entry(path, stat.S_IFDIR | mode, links=2)

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self._entry(path, stat.S_IFREG | mode, data)

    def symlink(self, path: str, target: str) -> None:
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        self._entry(path, stat.S_IFCHR | mode, device=(major, minor))

    def close(self) -> None:
        """Write the trailer. The file itself stays open."""
        self._inode = -1
        self._entry(_END, 0)

    def _entry(
        self, path: str, mode: int, data: bytes = b"", *, links: int = 1, device: tuple[int, int] = (0, 0)
    ) -> None:
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"archive paths are relative to the root: {path!r}")
        if len(data) > _MAX_FIELD:
            raise ValueError(f"{path!r} is larger than a cpio entry can be")
        self._inode += 1
        name = path.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name), 0)
        self._write(_MAGIC + b"".join(b"%08x" % field for field in fields) + name)
        self._pad()
        self._write(data)
        self._pad()

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._position += len(data)

    def _pad(self) -> None:
        self._write(b"\0" * (-self._position % _ALIGN))
