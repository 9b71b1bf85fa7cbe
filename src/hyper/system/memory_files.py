"""Memory files with holes: copied, hashed, and sealed so that nobody can change them any more.

memfd_create(2), and fcntl(2) for the seals. Neighbour: :mod:`hyper.sandboxes.template_store` (a template's memory).
All calls block; a file of 70 MB takes about 50 ms.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator

from hyper.errors import ResourceExhausted

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_CHUNK = 4 << 20

Extent = tuple[int, int]
"""Offset and length in bytes."""


def create(name: str, size_bytes: int) -> int:
    """An empty memory file of that size, as a descriptor. ResourceExhausted when the host has no room for one."""
    try:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise ResourceExhausted(f"no memory file can be made: {error.strerror}") from error
    try:
        os.ftruncate(fd, size_bytes)
    except OSError as error:
        os.close(fd)
        raise ResourceExhausted(f"no memory file of {size_bytes >> 20} MiB can be made: {error.strerror}") from error
    return fd


def seal(fd: int) -> None:
    """Nobody can write to it from now on, nor change its size. OSError with EBUSY while somebody has it mapped for
    writing."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)


def stored_bytes(fd: int) -> int:
    """How much of it is really there."""
    return os.fstat(fd).st_blocks * 512


def extents(fd: int) -> list[Extent]:
    """Where there is data, in order."""
    found: list[Extent] = []
    size = os.fstat(fd).st_size
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        position = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, position - start))
    return found


def copy(source: int, target: int, parts: list[Extent], target_offset: int | None = None) -> None:
    """Copy these parts of a file to the same places of another; with ``target_offset``, one behind the other from there
    on. ResourceExhausted when there is no room."""
    for offset, length in parts:
        to = offset if target_offset is None else target_offset
        for start in range(offset, offset + length, _CHUNK):
            data = os.pread(source, min(_CHUNK, offset + length - start), start)
            write(target, data, to + start - offset)
        if target_offset is not None:
            target_offset += length


def write(fd: int, data: bytes, offset: int) -> None:
    """All of ``data``. ResourceExhausted when there is no room."""
    view = memoryview(data)
    while view:
        try:
            written = os.pwrite(fd, view, offset)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT):
                raise
            raise ResourceExhausted(
                f"no room for a template of {len(data) >> 10} KiB more: {error.strerror}"
            ) from error
        view, offset = view[written:], offset + written


def digest(fd: int, parts: list[Extent]) -> str:
    """SHA-256 of these parts, one behind the other; a part that ends early counts with what there is."""
    sha256 = hashlib.sha256()
    for data in _read(fd, parts):
        sha256.update(data)
    return sha256.hexdigest()


def _read(fd: int, parts: list[Extent]) -> Iterator[bytes]:
    for offset, length in parts:
        for start in range(offset, offset + length, _CHUNK):
            yield os.pread(fd, min(_CHUNK, offset + length - start), start)
