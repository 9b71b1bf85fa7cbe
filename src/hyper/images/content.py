"""Files of the image store on disk: blobs and disks by digest, and scratch space for work in progress.

A file is written under ``tmp``, and renamed to its final name when it is complete; so whatever has a final name is
whole, also after ``kill -9``. What no record names is removed when the store is opened. Bringing files safely to the
*platters* takes longer than making them and is done behind the acknowledgement (``records.py`` keeps the list, see
docs/storage.md).

Layout: ``blobs/sha256/<hex>``, ``disks/<chain hex>.erofs``, ``tmp/<random>/``. Neighbours: ``archives.py``,
``store.py``.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hyper.errors import ResourceExhausted
from hyper.images.limits import Budget
from hyper.oci import digest

_IN_MEMORY_BYTES = 128 << 10


@dataclass(frozen=True)
class Spooled:
    """A file taken in: its digest and size in bytes; small ones have their content in ``data`` as well. ``head``:
    first bytes.
    """

    path: Path
    digest: str
    size: int
    head: bytes
    data: bytes | None


class ContentStore:
    """The folder ``<data root>/images``. All methods block; they are called in worker threads " "but for the cheap
    ones.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._disks = root / "disks"
        self._tmp = root / "tmp"
        for directory in (self._blobs, self._disks, self._tmp):
            directory.mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)

    def blob_path(self, blob: str) -> Path:
        return self._blobs / digest.hex_of(blob)

    def disk_path(self, disk_id: str) -> Path:
        return self._disks / f"{digest.hex_of(disk_id)}.erofs"

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory for one operation, removed with all that is in it at the end."""
        path = self._tmp / secrets.token_hex(8)
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def spool(self, pieces: Iterable[bytes | memoryview], scratch: Path, budget: Budget) -> Spooled:
        """Write ``pieces`` to a new file in ``scratch``, hashing them. ResourceExhausted when the disk is full."""
        path = scratch / secrets.token_hex(8)
        sha256 = hashlib.sha256()
        size = 0
        head = b""
        small = bytearray()
        with disk_full(path, lambda: size), path.open("xb", buffering=0) as file:
            for piece in pieces:
                budget.add_written(len(piece))
                sha256.update(piece)
                if len(head) < 8:
                    head += bytes(piece[:8])
                view = memoryview(piece)
                while view:
                    view = view[file.write(view) :]
                size += len(piece)
                if size <= _IN_MEMORY_BYTES:
                    small += piece
        return Spooled(
            path, f"sha256:{sha256.hexdigest()}", size, head[:8], bytes(small) if size <= _IN_MEMORY_BYTES else None
        )

    def keep_blob(self, spooled: Spooled) -> Path:
        """Give a spooled file its final name. Cheap; the same content twice is one file."""
        path = self.blob_path(spooled.digest)
        try:
            os.rename(spooled.path, path)
        except FileNotFoundError:
            if not path.exists():
                raise
        return path

    def keep_disk(self, temporary: Path, disk_id: str) -> Path:
        """Give a finished disk its final name."""
        path = self.disk_path(disk_id)
        os.chmod(temporary, 0o444)
        os.rename(temporary, path)
        return path

    def remove_strays(self, blobs: set[str], disk_ids: set[str]) -> list[Path]:
        """Remove every file that is none of these; returns them. Only when nothing is being worked on."""
        removed = []
        wanted_blobs = {digest.hex_of(blob) for blob in blobs}
        wanted_disks = {self.disk_path(disk_id).name for disk_id in disk_ids}
        for directory, wanted in ((self._blobs, wanted_blobs), (self._disks, wanted_disks)):
            for path in directory.iterdir():
                if path.name not in wanted:
                    path.unlink()
                    removed.append(path)
        for path in self._tmp.iterdir():
            shutil.rmtree(path)
            removed.append(path)
        return removed


def sync(path: Path) -> None:
    """Bring a file and its name to stable storage."""
    for target in (path, path.parent):
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def disk_full(path: Path, written_bytes: Callable[[], int]) -> Iterator[None]:
    """Turn "no space" into ResourceExhausted, telling how far it came."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ResourceExhausted(
            f"no space left in {path.parent.parent}: {written_bytes() >> 20} MiB were written and more is needed; "
            "free some space (for instance remove unused images) and try again"
        ) from error
