"""Writable layers: sparse ext4 disks cloned from a pre-formatted one, in milliseconds and a fraction of a megabyte
each.

mke2fs runs once per size. A clone is a reflink where the file system has them, else only the extents that hold data
are copied inside the kernel. The template says that its unwritten inode tables and journal are zero (a sparse file's
holes are), so that the guest's kernel does not fill them in the background, which would cost every clone hundreds of
megabytes.

Source: mke2fs(8), ext4's ``assume_storage_prezeroed``. Neighbours: the engine (one disk a container), the sandbox
(attaches it).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import secrets
import subprocess
from pathlib import Path

from hyper.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from hyper.system import blocking

DEFAULT_SIZE_BYTES = 16 << 30
_SIZE_MIN_BYTES = 16 << 20
_SIZE_MAX_BYTES = 16 << 40
_JOURNAL_SMALL_MIB = 4
_JOURNAL_MIB = 16
_FICLONE = 0x40049409
_TIMEOUT_S = 60
_TEMPLATE_VERSION = 1
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_DISK_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


class WritableDisks:
    """The folder ``<root>/writable``: one file per disk, the templates beside them."""

    def __init__(self, root: Path) -> None:
        self._disks = root / "writable"
        self._templates = root / "writable-templates"
        self._formatting = asyncio.Lock()

    @classmethod
    async def open(cls, root: Path) -> WritableDisks:
        """Under ``root`` (the data root). Clears half-made files of a crash."""
        disks = cls(root)

        def prepare() -> None:
            for directory in (disks._disks, disks._templates):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                for path in directory.glob(".new-*"):
                    path.unlink()

        await blocking.run(prepare)
        return disks

    async def create(self, disk_id: str, size_bytes: int = DEFAULT_SIZE_BYTES) -> Path:
        """A fresh, empty ext4 disk. AlreadyExists, InvalidArgument for a bad size, ResourceExhausted when the disk is
        full.
        """
        if not _SIZE_MIN_BYTES <= size_bytes <= _SIZE_MAX_BYTES:
            raise InvalidArgument(
                f"a writable layer of {size_bytes} bytes cannot be made: 16 MiB to 16 TiB are possible"
            )
        size_bytes = -(-size_bytes // (1 << 20)) << 20
        path = self._path(disk_id)
        template = self._template(size_bytes)
        if not template.exists():
            async with self._formatting:
                if not template.exists():
                    await blocking.run(_format, template, size_bytes)
        # A clone takes about a millisecond: cheaper than handing it to a thread and back under load, but it may block
        # on a busy disk.
        await blocking.run(_clone, template, path)
        return path

    async def remove(self, disk_id: str) -> None:
        """Idempotent."""
        await blocking.run(self._path(disk_id).unlink, missing_ok=True)

    def path(self, disk_id: str) -> Path:
        """Where the disk is. NotFound when there is none."""
        path = self._path(disk_id)
        if not path.exists():
            raise NotFound(f"there is no writable layer {disk_id}")
        return path

    def used_bytes(self, disk_id: str) -> int:
        """What the host stores for it beyond a fresh one. NotFound when there is none."""
        status = self.path(disk_id).stat()
        template = self._template(status.st_size)
        fresh_blocks = template.stat().st_blocks if template.exists() else 0
        return max(0, status.st_blocks - fresh_blocks) * 512

    def list(self) -> list[str]:
        """The IDs of all disks."""
        return sorted(path.name for path in self._disks.iterdir() if not path.name.startswith("."))

    def _template(self, size_bytes: int) -> Path:
        return self._templates / f"ext4-v{_TEMPLATE_VERSION}-{size_bytes}"

    def _path(self, disk_id: str) -> Path:
        if _DISK_ID.fullmatch(disk_id) is None:
            raise InvalidArgument(f"{disk_id[:100]!r} cannot name a disk")
        return self._disks / disk_id


def _format(template: Path, size_bytes: int) -> None:
    """Make the template by mke2fs; needs no root."""
    temporary = template.with_name(f".new-{secrets.token_hex(8)}")
    journal_mib = _JOURNAL_MIB if size_bytes >= 1 << 30 else _JOURNAL_SMALL_MIB
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "hyper-writable"]
    command += ["-O", "^resize_inode", "-J", f"size={journal_mib}"]
    command += ["-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1,assume_storage_prezeroed=1,root_owner=0:0"]
    try:
        with temporary.open("xb") as file:
            file.truncate(size_bytes)
        subprocess.run(
            [*command, str(temporary)],
            check=True,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env={"PATH": _PATH, "LC_ALL": "C"},
        )
        temporary.chmod(0o444)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.rename(template)
    except FileNotFoundError as error:
        raise FailedPrecondition(
            "mke2fs is missing, which formats writable layers; install the package e2fsprogs"
        ) from error
    except subprocess.SubprocessError as error:
        output = getattr(error, "stderr", "") or ""
        raise FailedPrecondition(
            f"a writable layer cannot be formatted: {' '.join(command)} failed: {str(output).strip() or error}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _clone(template: Path, path: Path) -> None:
    temporary = path.with_name(f".new-{secrets.token_hex(8)}")
    try:
        with template.open("rb", buffering=0) as source, temporary.open("xb", buffering=0) as target:
            try:
                fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS):
                    raise
                _copy_extents(source.fileno(), target.fileno())
        os.link(temporary, path)
    except FileExistsError as error:
        raise AlreadyExists(f"there is a writable layer {path.name} already") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ResourceExhausted(
            f"no space left in {path.parent} for another writable layer; free some space and try again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _copy_extents(source: int, target: int) -> None:
    """Copy what holds data; holes stay holes."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        position = os.lseek(source, start, os.SEEK_HOLE)
        while start < position:
            count = os.copy_file_range(source, target, position - start, start, start)
            if not count:
                return
            start += count
