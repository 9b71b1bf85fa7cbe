"""One template in memory: what clones get of it, and for how long."""

from __future__ import annotations

import asyncio
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyper.errors import ResourceExhausted
from hyper.hypervisors.base import KernelImage
from hyper.sandboxes import template as template_module
from hyper.sandboxes.maker import Shape
from hyper.sandboxes.sizing import Size
from hyper.sandboxes.template import MEMORY, STATE, Template
from hyper.system import memory_files

MIB = 1 << 20
SHAPE = Shape(KernelImage(Path("/k"), Path("/i"), ""), Size(8 * MIB, 8 * MIB, 1, 1), card=False)


@pytest.fixture
def template() -> Iterator[Template]:
    made = make()
    yield made
    try:
        made.close()
    except OSError:
        pass  # the test has done so


def make() -> Template:
    memory, state = memory_files.create(MEMORY, 8 * MIB), memory_files.create(STATE, 0)
    os.pwrite(memory, b"memory", MIB)
    os.write(state, b"state")
    for fd in (memory, state):
        memory_files.seal(fd)
    return Template("k", SHAPE, memory, state, tuple(memory_files.extents(memory)), "1")


def open_files() -> int:
    return sum("hyper-template" in target for target in map(_target, os.listdir("/proc/self/fd")))


def _target(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return ""


async def test_every_clone_reads_the_state_from_its_beginning(template: Template) -> None:
    for _ in range(2):
        async with template.origin(own_copy=False) as (memory, state):
            assert (os.read(state.fd, 100), os.pread(memory.fd, 6, MIB), memory.shared) == (b"state", b"memory", False)


async def test_what_a_clone_was_given_stays_its_own_when_the_template_goes(template: Template) -> None:
    """The template may be replaced while a clone is launched: a number that was closed is soon another file's."""
    async with template.origin(own_copy=False) as (memory, state):
        template.close()
        other = make()
        assert (os.read(state.fd, 100), os.pread(memory.fd, 6, MIB)) == (b"state", b"memory")
        assert os.fstat(memory.fd).st_ino != os.fstat(other.memory_fd).st_ino
        other.close()
    assert open_files() == 0


async def test_a_copy_of_ones_own_can_be_written_to_and_changes_nobody(template: Template) -> None:
    async with template.origin(own_copy=True) as (memory, _):
        assert memory.shared and os.pread(memory.fd, 6, MIB) == b"memory"
        os.pwrite(memory.fd, b"MEMORY", MIB)
        assert os.pread(template.memory_fd, 6, MIB) == b"memory"
    assert open_files() == 2


async def test_an_origin_that_cannot_be_copied_leaves_nothing(
    template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ResourceExhausted("no room")

    monkeypatch.setattr(memory_files, "copy", full)
    for attempt in (template.origin(own_copy=True).__aenter__, template.renewed):
        with pytest.raises(ResourceExhausted):
            await attempt()
    assert open_files() == 2


async def test_a_cancelled_copy_leaves_nothing(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    started, may_end = threading.Event(), threading.Event()
    copy = memory_files.copy

    def slow(source: int, target: int, parts: list[memory_files.Extent]) -> None:
        started.set()
        may_end.wait()
        copy(source, target, parts)

    monkeypatch.setattr(memory_files, "copy", slow)
    task = asyncio.create_task(template.renewed())
    await asyncio.to_thread(started.wait)
    task.cancel()
    template.close()  # as when the daemon closes
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert open_files() == 0


async def test_a_fat_one_is_slimmed(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "_SLACK_BYTES", MIB)
    assert not template.is_fat
    with mmap.mmap(template.memory_fd, 8 * MIB, mmap.MAP_PRIVATE) as clone:
        clone[2 * MIB : 4 * MIB] = bytes(2 * MIB)
    assert template.is_fat
    slim = await template.renewed()
    assert not slim.is_fat and slim.used_bytes == template.used_bytes == 4096
    assert os.pread(slim.memory_fd, 8 * MIB, 0) == os.pread(template.memory_fd, 8 * MIB, 0)
    with pytest.raises(PermissionError):
        os.pwrite(slim.memory_fd, b"x", 0)
    template.close()
    async with slim.origin(own_copy=False) as (_, state):
        assert os.read(state.fd, 100) == b"state"
    slim.close()
