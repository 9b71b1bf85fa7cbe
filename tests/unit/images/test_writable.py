import asyncio
import os
import re
import subprocess
from pathlib import Path

import pytest

from hyper.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from hyper.images.writable import WritableDisks


def _tool(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


async def test_a_clone_is_a_sound_empty_file_system_that_costs_little(tmp_path: Path) -> None:
    disks = await WritableDisks.open(tmp_path)
    path = await disks.create("c1")
    assert path.stat().st_size == 16 << 30
    assert path.stat().st_blocks * 512 <= 1 << 20
    _tool("e2fsck", "-fn", path)


async def test_the_guest_has_nothing_to_initialise(tmp_path: Path) -> None:
    """Else its kernel would fill the inode tables in the background, hundreds of megabytes per container."""
    disks = await WritableDisks.open(tmp_path)
    path = await disks.create("c1", 1 << 30)
    groups = _tool("dumpe2fs", path)
    assert groups.count("ITABLE_ZEROED") == len(re.findall(r"\nGroup \d", groups)) > 0


async def test_clones_are_independent_and_listed(tmp_path: Path) -> None:
    disks = await WritableDisks.open(tmp_path)
    first, second = await asyncio.gather(disks.create("c1", 64 << 20), disks.create("c2", 64 << 20))
    before = second.read_bytes()
    first.chmod(0o600)
    with first.open("r+b") as file:
        file.write(b"x" * 4096)
    assert second.read_bytes() == before
    assert disks.list() == ["c1", "c2"]
    await disks.remove("c1")
    await disks.remove("c1")
    assert disks.list() == ["c2"]
    assert disks.path("c2") == second
    with pytest.raises(NotFound):
        disks.path("c1")


async def test_an_existing_disk_is_not_overwritten(tmp_path: Path) -> None:
    disks = await WritableDisks.open(tmp_path)
    await disks.create("c1", 64 << 20)
    with pytest.raises(AlreadyExists):
        await disks.create("c1", 64 << 20)


@pytest.mark.parametrize("disk_id", ["../x", "", ".hidden", "a/b", "x" * 200])
async def test_names_cannot_leave_the_folder(tmp_path: Path, disk_id: str) -> None:
    disks = await WritableDisks.open(tmp_path)
    with pytest.raises(InvalidArgument):
        await disks.create(disk_id)


@pytest.mark.parametrize("size_bytes", [0, 1 << 20, 1 << 60])
async def test_impossible_sizes(tmp_path: Path, size_bytes: int) -> None:
    with pytest.raises(InvalidArgument):
        await (await WritableDisks.open(tmp_path)).create("c1", size_bytes)


async def test_half_made_files_are_cleared_when_opening(tmp_path: Path) -> None:
    await WritableDisks.open(tmp_path)
    (tmp_path / "writable" / ".new-1").touch()
    (tmp_path / "writable-templates" / ".new-2").touch()
    disks = await WritableDisks.open(tmp_path)
    assert disks.list() == []
    assert not any(".new-" in name for name in os.listdir(tmp_path / "writable-templates"))


async def test_a_missing_mke2fs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyper.images.writable._PATH", str(tmp_path))
    with pytest.raises(FailedPrecondition, match="e2fsprogs"):
        await (await WritableDisks.open(tmp_path)).create("c1")
