"""Fixtures of the sandboxes' tests: a host with fake machines, which ends with the test."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.unit.sandboxes.world import World

from hyper.hypervisors.base import KernelImage
from hyper.hypervisors.fake import FakeHost
from hyper.sandboxes.boot_image import BootImage
from hyper.sandboxes.sizing import Host
from hyper.system import memory


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets in it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
async def world(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    @dataclass(frozen=True)
    class Image:
        kernel: None = None

        def image(self, *, emulated: bool) -> KernelImage:
            assert emulated
            return KernelImage(short_path / "image", short_path / "image", "")

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    host = FakeHost(silent)
    world = World(short_path, host)
    monkeypatch.setattr(BootImage, "prepare", lambda settings: Image())
    monkeypatch.setattr(Host, "here", lambda: Host(16 << 30, 4))
    monkeypatch.setattr(memory, "available_bytes", lambda: world.free_memory)
    monkeypatch.setattr(memory, "total_bytes", lambda: 16 << 30)
    open_before = _descriptors()
    yield world
    for source in world.sources:
        await source.close()
    await host.close()
    assert [name for name in _descriptors() - open_before if "hyper-template" in name] == []


def _descriptors() -> set[str]:
    """What this process has open."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {os.readlink(entry)}")
        except OSError:
            continue
    return found
