from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.unit.images.registry.fake_registry import FakeRegistry

from hyper.images.progress import Progress
from hyper.images.pull import PulledImage, Puller
from hyper.images.push import Pusher
from hyper.images.registry.client import RegistryClient
from hyper.images.registry.settings import RegistrySettings
from hyper.images.store import ImageStore
from hyper.oci import platform as platforms
from hyper.oci import reference
from hyper.oci.distribution import Credentials
from hyper.system.database import Database

NOBODY = Credentials()
ME = Credentials("me", "right")


@dataclass
class Client:
    """Everything of a daemon that has to do with registries, and what it told."""

    store: ImageStore
    registry_client: RegistryClient
    root: Path
    told: list[Progress] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.puller = Puller(self.store, self.registry_client)
        self.pusher = Pusher(self.store, self.registry_client)

    async def pull(
        self, name: str, *, credentials: Credentials = NOBODY, platform: str = "linux/amd64", **options: Any
    ) -> list[PulledImage]:
        wanted = platforms.parse(platform) if platform else None
        tell = options.pop("tell", self.told.append)
        return list(
            await self.puller.pull(reference.parse(name), wanted=wanted, credentials=credentials, tell=tell, **options)
        )

    async def push(self, name: str, *, credentials: Credentials = NOBODY) -> None:
        await self.pusher.push(reference.parse(name), credentials=credentials, tell=self.told.append)

    def lines(self, *, bars: bool = False) -> list[str]:
        """What was told, as docker prints it away from a terminal."""
        chosen = [one for one in self.told if bars or not one.total]
        return [f"{one.id}: {one.status}" if one.id else one.status for one in chosen if one.pushed is None]


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    made = FakeRegistry()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def registry_settings() -> RegistrySettings:
    return RegistrySettings(retry_s=0.001, retry_most_s=0.01, attempts=4)


@pytest.fixture
async def client(tmp_path: Path, registry_settings: RegistrySettings) -> AsyncIterator[Client]:
    database = Database(tmp_path / "state.db")
    store = await ImageStore.open(tmp_path, database)
    registry_client = RegistryClient(registry_settings)
    yield Client(store, registry_client, tmp_path)
    await registry_client.close()
    await store.close()
    database.close()
