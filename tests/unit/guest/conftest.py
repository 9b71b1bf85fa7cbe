"""Fixtures for the host's side of the agent protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hyper.guest.agent import Agent
from hyper.guest.link import LinkSettings

from .agent_model import ModelAgent

SETTINGS = LinkSettings(connect_deadline_s=10.0, reconnect_deadline_s=10.0, refused_s=0.2)
INSTANCE = "ab" * 16


@pytest.fixture
async def model(tmp_path: Path) -> AsyncIterator[ModelAgent]:
    async with ModelAgent(tmp_path / "agent.sock") as running:
        yield running


@pytest.fixture
async def agent(model: ModelAgent) -> AsyncIterator[Agent]:
    connected = await Agent.connect(model.path, instance=INSTANCE, first=True, deadline_s=10, settings=SETTINGS)
    yield connected
    await connected.release()
