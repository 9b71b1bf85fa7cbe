"""Fixtures of the engine's tests: a host with fake machines, and a daemon on it."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.unit.engine.world import BOOT_IMAGE, World

from hyper.engine.engine import LiveEngine
from hyper.hypervisors.base import KernelImage
from hyper.sandboxes.boot_image import BootImage


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    @dataclass(frozen=True)
    class Image:
        kernel: None = None

        def image(self, *, emulated: bool) -> KernelImage:
            return BOOT_IMAGE

    monkeypatch.setattr(BootImage, "prepare", lambda settings: Image())
    with tempfile.TemporaryDirectory() as folder:  # short, for unix sockets lie in it
        made = World(Path(folder))
        yield made
        await made.close()


@pytest.fixture
async def engine(world: World) -> LiveEngine:
    return await world.daemon()
