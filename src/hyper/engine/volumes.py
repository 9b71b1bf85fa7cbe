"""Volumes with the engine's rules: who uses them, events, removal only of what nobody uses. Implements
:class:`hyper.engine.api.Volumes`.

A volume is in use as long as a container has it, running or not. Neighbours: :mod:`hyper.volumes.store` (the
directories), ``mounts.py`` (which container has which).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from hyper.engine.events import EventLog
from hyper.engine.model import Container, VolumeInfo
from hyper.errors import Conflict, HyperError, NotFound
from hyper.volumes.store import Volume, VolumeStore

ANONYMOUS_LABEL = "com.docker.volume.anonymous"
DRIVER = "local"
_log = logging.getLogger(__name__)


class VolumeUseCases:
    """``containers`` gives all that there are."""

    def __init__(self, store: VolumeStore, containers: Callable[[], Iterable[Container]], events: EventLog) -> None:
        self.store = store
        self._containers = containers
        self._events = events

    def create(
        self,
        name: str,
        *,
        driver: str,
        labels: Mapping[str, str],
        options: Mapping[str, str],
        anonymous: bool = False,
    ) -> VolumeInfo:
        """An empty name: one that nobody has. ``anonymous``: the name is no user's either. NotFound for a driver that
        is not there."""
        if driver not in ("", DRIVER):
            raise NotFound(
                f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found; '
                'there is the driver "local"'
            )
        if not name or anonymous:
            name, labels = name or secrets.token_hex(32), {**labels, ANONYMOUS_LABEL: ""}
        volume, new = self.store.create(name, labels=labels, options=options)
        if new:
            self._events.emit("volume", "create", name, {"driver": DRIVER})
        return self._info(volume)

    def get(self, name: str) -> VolumeInfo:
        return self._info(self.store.get(name))

    def list(self) -> list[VolumeInfo]:
        return [self._info(volume) for volume in self.store.list()]

    def users(self, name: str) -> Sequence[str]:
        """IDs of the containers that have it."""
        return [one.id for one in self._containers() if any(mount.name == name for mount in one.mounts)]

    async def used_bytes(self, name: str) -> int:
        return await self.store.used_bytes(name)

    async def remove(self, name: str, *, force: bool) -> None:
        """Conflict when a container has it. ``force``: one that is not there is removed already."""
        if self.store.find(name) is None and force:
            return
        self.store.get(name)
        if users := self.users(name):
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        await self.store.remove(name)
        self._events.emit("volume", "destroy", name, {"driver": DRIVER})

    async def prune(self, accept: Callable[[VolumeInfo], bool]) -> tuple[Sequence[str], int]:
        """Remove those that nobody uses and ``accept`` lets go; their names, and bytes given back."""
        used = {mount.name for one in self._containers() for mount in one.mounts}
        names: list[str] = []
        freed_bytes = 0
        for volume in self.list():
            if volume.name in used or not accept(volume):
                continue
            size_bytes = await self.used_bytes(volume.name)
            try:
                await self.remove(volume.name, force=False)
            except HyperError as error:  # taken or gone meanwhile
                _log.debug("volume %s was not pruned: %s", volume.name, error)
                continue
            names.append(volume.name)
            freed_bytes += size_bytes
        self._events.emit("volume", "prune", "", {"reclaimed": str(freed_bytes)})
        return names, freed_bytes

    async def discard(self, path: Path) -> None:
        await self.store.discard(path)

    def forget_anonymous(self, container: Container) -> Sequence[Path]:
        """There are no more volumes of a container that has just gone which no user has named, unless another one has
        them, too. What is to be discarded of them when its VM has ended."""
        gone: list[Path] = []
        for mount in container.mounts:
            if mount.anonymous and self.store.find(mount.name) is not None and not self.users(mount.name):
                gone.append(self.store.forget(mount.name))
                self._events.emit("volume", "destroy", mount.name, {"driver": DRIVER})
        return gone

    def tell(self, container: Container, action: str) -> None:
        """That a container's volumes are in use now ("mount"), or no longer ("unmount")."""
        for mount in container.mounts:
            if mount.type == "volume":
                attributes = {"container": container.id, "driver": DRIVER}
                if action == "mount":
                    attributes |= {
                        "destination": mount.destination,
                        "propagation": mount.propagation,
                        "read/write": "true" if mount.writable else "false",
                    }
                self._events.emit("volume", action, mount.name, attributes)

    def _info(self, volume: Volume) -> VolumeInfo:
        return VolumeInfo(
            name=volume.name,
            driver=DRIVER,
            mountpoint=str(self.store.mountpoint(volume.name)),
            created_ns=volume.created_ns,
            labels=volume.labels,
            options=volume.options,
        )
