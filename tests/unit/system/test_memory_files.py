"""Memory files: what is copied and hashed is exactly what is there, and what is sealed stays as it is."""

from __future__ import annotations

import hashlib
import mmap
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyper.errors import ResourceExhausted
from hyper.system import memory_files

MIB = 1 << 20
PAGE = 4096


@pytest.fixture
def file() -> Iterator[int]:
    """32 MiB with data at both ends, and 9 MiB (more than is copied at once) in the middle."""
    fd = memory_files.create("test", 32 * MIB)
    os.pwrite(fd, b"start", 0)
    os.pwrite(fd, os.urandom(9 * MIB), 10 * MIB)
    os.pwrite(fd, b"end", 32 * MIB - PAGE)
    yield fd
    os.close(fd)


def whole(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def test_extents_are_where_the_data_is(file: int) -> None:
    assert memory_files.extents(file) == [(0, PAGE), (10 * MIB, 9 * MIB), (32 * MIB - PAGE, PAGE)]
    assert memory_files.stored_bytes(file) == 9 * MIB + 2 * PAGE


def test_an_empty_file_has_no_extents() -> None:
    for size in (0, MIB):
        fd = memory_files.create("test", size)
        assert (memory_files.extents(fd), memory_files.stored_bytes(fd)) == ([], 0)
        assert memory_files.digest(fd, []) == hashlib.sha256().hexdigest()
        os.close(fd)


def test_a_copy_is_equal_and_as_sparse(file: int) -> None:
    target = memory_files.create("copy", 32 * MIB)
    memory_files.copy(file, target, memory_files.extents(file))
    assert whole(target) == whole(file)
    assert memory_files.extents(target) == memory_files.extents(file)
    os.close(target)


def test_parts_are_put_one_behind_the_other(file: int, tmp_path: Path) -> None:
    parts = memory_files.extents(file)
    with (tmp_path / "packed").open("w+b") as packed:
        memory_files.copy(file, packed.fileno(), parts, target_offset=0)
        content = packed.read()
    assert content == b"".join(os.pread(file, length, offset) for offset, length in parts)
    assert memory_files.digest(file, parts) == hashlib.sha256(content).hexdigest()


def test_a_digest_sees_each_bit_and_the_order(file: int) -> None:
    parts = memory_files.extents(file)
    before = memory_files.digest(file, parts)
    assert memory_files.digest(file, parts[::-1]) != before
    os.pwrite(file, bytes([os.pread(file, 1, 19 * MIB - 1)[0] ^ 0x80]), 19 * MIB - 1)
    assert memory_files.digest(file, parts) != before


def test_what_is_sealed_cannot_be_changed_by_anybody(file: int) -> None:
    memory_files.seal(file)
    before = memory_files.digest(file, [(0, 32 * MIB)])
    again = os.open(f"/proc/self/fd/{file}", os.O_RDWR)
    for fd in (file, again):
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 32 * MIB)
        for size in (0, 64 * MIB):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        with pytest.raises(PermissionError):
            mmap.mmap(fd, PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        with pytest.raises(OSError, match=r"Operation not permitted"):
            os.posix_fallocate(fd, 33 * MIB, PAGE)
    punched = subprocess.run(
        ["fallocate", "--punch-hole", "--offset", "0", "--length", str(PAGE), f"/proc/self/fd/{again}"],
        pass_fds=(again,),
        capture_output=True,
        text=True,
    )
    assert "Operation not permitted" in punched.stderr
    os.close(again)
    assert memory_files.digest(file, [(0, 32 * MIB)]) == before


def test_what_is_written_to_a_private_mapping_stays_there_but_takes_room_in_the_file(file: int) -> None:
    """Why a template gets fat: see hyper.sandboxes.template."""
    memory_files.seal(file)
    stored = memory_files.stored_bytes(file)
    with mmap.mmap(file, 32 * MIB, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        mapped[0:5] = b"mine!"
        mapped[5 * MIB : 6 * MIB] = b"m" * MIB
        assert os.pread(file, 5, 0) == b"start" and os.pread(file, MIB, 5 * MIB) == bytes(MIB)
        assert memory_files.stored_bytes(file) == stored + MIB


def test_what_is_still_written_to_cannot_be_sealed(file: int) -> None:
    with mmap.mmap(file, PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        with pytest.raises(OSError, match="busy"):
            memory_files.seal(file)
        mapped[0:1] = b"S"
    memory_files.seal(file)
    assert os.pread(file, 5, 0) == b"Start"


def test_no_room_is_told_as_such(file: int, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", tmp_path], check=True)
    try:
        with (
            (tmp_path / "x").open("wb", buffering=0) as target,
            pytest.raises(ResourceExhausted, match="No space left"),
        ):
            memory_files.copy(file, target.fileno(), memory_files.extents(file), target_offset=0)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("limit", ["RLIMIT_NOFILE", "RLIMIT_FSIZE"])
def test_a_file_that_cannot_be_made_is_told_and_leaves_nothing(limit: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    kind = getattr(resource, limit)
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (1, hard))
    try:
        with pytest.raises(ResourceExhausted, match=r"can be made: (Too many open files|File too large)"):
            memory_files.create("test", MIB)
    finally:
        resource.setrlimit(kind, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == before
