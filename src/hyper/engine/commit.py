"""``docker commit``: an image of what a container has become. Implements :class:`hyper.engine.api.Commits`.

The guest makes the layer of the container's changes; the store takes it in as it takes any layer that comes from
outside. Neighbours: ``files.py`` (how the guest is asked), :mod:`hyper.images.store`, :mod:`hyper.images.changes`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec

from hyper.engine.events import EventLog
from hyper.engine.files import FileUseCases
from hyper.engine.lifecycle import LifeCycle
from hyper.engine.managed import Managed
from hyper.engine.model import Container, Status
from hyper.engine.registry import ContainerRegistry
from hyper.errors import FailedPrecondition, HyperError, NotFound
from hyper.images import changes as dockerfile_changes
from hyper.images.store import Image, ImageStore
from hyper.oci import image_config
from hyper.oci.image_config import ContainerConfig, History


class CommitUseCases:
    def __init__(
        self,
        registry: ContainerRegistry,
        images: ImageStore,
        files: FileUseCases,
        life: LifeCycle,
        events: EventLog,
    ) -> None:
        self._registry = registry
        self._images = images
        self._files = files
        self._life = life
        self._events = events

    async def commit(
        self,
        reference: str,
        *,
        name: str | None,
        comment: str,
        author: str,
        changes: Sequence[str],
        config: ContainerConfig | None,
        pause: bool,
    ) -> Image:
        managed = self._registry.find(reference)
        container = managed.snapshot
        try:
            parent = self._images.resolve(container.image_id)
        except NotFound as error:
            raise FailedPrecondition(
                f"the image of container {container.name} was removed, so an image on top of it cannot be made; "
                "docker export and docker import make one of its files alone"
            ) from error
        own = config_of(container, parent.config.container_config)
        wanted = dockerfile_changes.apply(own if config is None else config, changes)
        created = image_config.format_time_ns(time.time_ns())
        step = History(
            created=created,
            created_by=" ".join((container.path, *container.args)).strip(),
            author=author,
            comment=comment,
        )
        async with self._frozen(managed, pause):
            layer = await self._files.layer(managed)
            image = await self._images.commit(
                parent, layer, config=merged(wanted, own), step=step, container=container.id, reference=name
            )
        named = {"imageRef": name} if name else {}
        self._events.of_container(container, "commit", comment=comment, imageID=image.id, **named)
        return image

    @asynccontextmanager
    async def _frozen(self, managed: Managed, pause: bool) -> AsyncIterator[None]:
        """Nothing in it changes meanwhile, if that was asked for and it runs."""
        if not pause or managed.run is None or managed.state.status is not Status.RUNNING:
            yield
            return
        await self._life.pause(managed)
        try:
            yield
        finally:
            with suppress(HyperError):  # it was killed meanwhile
                await self._life.unpause(managed)


def config_of(container: Container, base: ContainerConfig) -> ContainerConfig:
    """How the container runs, as an image says it; what a container has no word for is its image's."""
    config = container.config
    return msgspec.structs.replace(
        base,
        user=config.user,
        env=list(config.env),
        cmd=None if config.command is None else list(config.command),
        entrypoint=None if config.entrypoint is None else list(config.entrypoint),
        working_dir=config.working_dir,
        labels=dict(config.labels) or None,
        exposed_ports={port: {} for port in config.exposed_ports} or None,
        stop_signal=config.stop_signal,
        stop_timeout=config.stop_timeout_s,
        on_build=None,
    )


def merged(wanted: ContainerConfig, own: ContainerConfig) -> ContainerConfig:
    """What the user says over what the container has, by Docker's rules."""
    names = {variable.partition("=")[0] for variable in wanted.env or ()}
    env = [*(wanted.env or ()), *(one for one in own.env or () if one.partition("=")[0] not in names)]
    entrypoint, cmd = wanted.entrypoint, wanted.cmd
    if not entrypoint:
        cmd = cmd or own.cmd
        entrypoint = own.entrypoint if entrypoint is None else entrypoint
    return msgspec.structs.replace(
        wanted,
        hostname="",
        domainname="",
        user=wanted.user or own.user,
        env=env or None,
        cmd=cmd,
        entrypoint=entrypoint,
        working_dir=wanted.working_dir or own.working_dir,
        labels={**(own.labels or {}), **(wanted.labels or {})} or None,
        exposed_ports={**(own.exposed_ports or {}), **(wanted.exposed_ports or {})} or None,
        volumes={**(own.volumes or {}), **(wanted.volumes or {})} or None,
        healthcheck=wanted.healthcheck or own.healthcheck,
        stop_signal=wanted.stop_signal or own.stop_signal,
        stop_timeout=own.stop_timeout if wanted.stop_timeout is None else wanted.stop_timeout,
        shell=wanted.shell or own.shell,
    )
