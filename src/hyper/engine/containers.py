"""Use cases on containers: create, look up, remove, wait, attach, logs. Implements
:class:`hyper.engine.api.Containers`.

Whatever is acknowledged is in the records first, and what changes a container is carried out to its end even when the
client that asked for it hangs up. Neighbours: ``lifecycle.py`` (start to exit), ``registry.py``, ``create.py``.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from hyper.engine import logs as log_reading
from hyper.engine.attachment import HubAttachment
from hyper.engine.caretakers import Caretakers
from hyper.engine.create import container_from, writable_bytes
from hyper.engine.events import EventLog
from hyper.engine.health import HealthChecks
from hyper.engine.layout import Layout
from hyper.engine.lifecycle import LifeCycle
from hyper.engine.managed import Managed, WaitCondition, restarting
from hyper.engine.metrics import EngineMetrics
from hyper.engine.model import (
    Container,
    ContainerConfig,
    ContainerUpdate,
    LogEntry,
    Processes,
    ProcessInfo,
    Status,
    Usage,
    WaitResult,
)
from hyper.engine.mounts import Mounts
from hyper.engine.names import generate
from hyper.engine.output import OutputHub
from hyper.engine.pods import joins
from hyper.engine.records import name_taken
from hyper.engine.registry import ContainerRegistry, check_name
from hyper.engine.signals import parse_signal
from hyper.engine.starter import Starter
from hyper.engine.tasks import TaskSet
from hyper.engine.update import LimitUpdates
from hyper.engine.usage import usage
from hyper.engine.volumes import VolumeUseCases
from hyper.errors import Conflict, FailedPrecondition, HyperError, InvalidArgument, NotFound
from hyper.images.store import ImageStore
from hyper.images.writable import WritableDisks
from hyper.networks.bridge import BridgeNetwork

_log = logging.getLogger(__name__)


class ContainerUseCases:
    def __init__(
        self,
        *,
        registry: ContainerRegistry,
        layout: Layout,
        images: ImageStore,
        disks: WritableDisks,
        disk_bytes: int,
        starter: Starter,
        mounts: Mounts,
        volumes: VolumeUseCases,
        network: BridgeNetwork | None,
        events: EventLog,
        tasks: TaskSet,
        on_removed: Callable[[str], None],
        network_ids: Mapping[str, str],
        default_memory_bytes: int,
        metrics: EngineMetrics,
        caretakers: Caretakers,
        health: HealthChecks,
    ) -> None:
        self._registry = registry
        self._layout = layout
        self._images = images
        self._disks = disks
        self._disk_bytes = disk_bytes
        self._mounts = mounts
        self._volumes = volumes
        self._events = events
        self._tasks = tasks
        self._on_removed = on_removed
        self.life = LifeCycle(
            registry=registry,
            starter=starter,
            network=network,
            volumes=volumes,
            events=events,
            tasks=tasks,
            remove_ended=self.remove_ended,
            metrics=metrics,
            free_disks=caretakers.release,
            health=health,
        )
        self._caretakers = caretakers
        self._pruning = False
        self._network_ids = network_ids
        self._updates = LimitUpdates(registry, events, default_memory_bytes)

    # --- create, look up, rename -------------------------------------------------------------------------------

    async def create(self, config: ContainerConfig, *, name: str | None) -> tuple[Container, tuple[str, ...]]:
        if not name:
            with self._registry.generated_name(generate) as name:
                return await self._create(config, name)
        return await self._create(config, name.removeprefix("/"))

    async def _create(self, config: ContainerConfig, name: str) -> tuple[Container, tuple[str, ...]]:
        image = self._images.resolve(config.image)
        check_name(name)
        if (holder := self._registry.named(name)) is not None:
            raise name_taken(name, holder.id)
        config = self._joining(config)
        size_bytes = writable_bytes(config, self._disk_bytes)
        container_id = secrets.token_hex(32)
        container, warnings = container_from(
            config,
            image,
            container_id=container_id,
            name=name,
            log_path=str(self._layout.log(container_id)),
            network_ids=self._network_ids,
        )
        made = await self._tasks.carry_out(
            self._make(container, size_bytes), name=f"request: create {container_id[:12]}"
        )
        return made, warnings

    def _joining(self, config: ContainerConfig) -> ContainerConfig:
        """With the IDs of the containers that it joins, so that these can be renamed; one that is not there stops the
        start, as with Docker. Who has another's network has its name."""
        changes: dict[str, str] = {}
        members = {"pid": "pid_mode", "ipc": "ipc_mode", "network": "network_mode", "uts": "uts_mode"}
        for kind, reference in joins(config).items():
            try:
                other = self._registry.find(reference)
            except (NotFound, InvalidArgument):
                continue
            changes[members[kind]] = f"container:{other.id}"
            if kind == "network":
                changes |= {"hostname": other.snapshot.config.hostname, "domainname": other.snapshot.config.domainname}
        return msgspec.structs.replace(config, **changes)

    async def _make(self, container: Container, size_bytes: int) -> Container:
        """Files first, then the record: a record without its files would lie."""
        self._layout.make(container.id)
        try:
            self._images.lease(container.image_id, container.id)
            await self._disks.create(container.id, size_bytes)
            # Nothing is waited for from here to the record: nobody can remove a volume in between.
            container = msgspec.structs.replace(container, mounts=await self._mounts.resolve(container.config))
            try:
                self._registry.add(container)
            except BaseException:
                await self._mounts.undo(container.mounts)
                raise
        except BaseException:
            await self._discard_files(container.id)
            raise
        self._events.of_container(container, "create")
        return container

    def get(self, reference: str) -> Container:
        return self._registry.find(reference).view()

    def list(self) -> list[Container]:
        return sorted((managed.view() for managed in self._registry), key=lambda c: c.created_ns, reverse=True)

    def sizes(self, reference: str) -> tuple[int, int]:
        managed = self._registry.find(reference)
        try:
            image_bytes = self._images.resolve(managed.snapshot.image_id).size_bytes
        except NotFound:  # removed by force; its disks stay with the container
            image_bytes = 0
        used_bytes = self._disks.used_bytes(managed.id)
        return used_bytes, used_bytes + image_bytes

    async def rename(self, reference: str, name: str) -> None:
        managed = self._registry.find(reference)
        name = name.removeprefix("/")
        async with managed.lock:
            if managed.removed:
                raise NotFound(f"No such container: {reference}")
            old = managed.snapshot.name
            if name == old:
                raise InvalidArgument("Renaming a container with the same name as its current name")
            self._registry.store(managed, msgspec.structs.replace(managed.snapshot, name=name))
        self._events.of_container(managed.snapshot, "rename", oldName=f"/{old}")

    async def update(self, reference: str, changes: ContainerUpdate) -> tuple[str, ...]:
        managed = self._registry.find(reference)
        return await self._tasks.carry_out(
            self._updates.update(managed, changes), name=f"request: update {managed.id[:12]}"
        )

    # --- start and end -----------------------------------------------------------------------------------------

    async def start(self, reference: str) -> Container:
        managed = self._registry.find(reference)
        return await self._tasks.carry_out(self.life.start(managed), name=f"request: start {managed.id[:12]}")

    async def stop(self, reference: str, *, timeout_s: int | None = None, signal: str | None = None) -> None:
        managed = self._registry.find(reference)
        await self._tasks.carry_out(
            self.life.stop(managed, timeout_s=timeout_s, signal=signal), name=f"request: stop {managed.id[:12]}"
        )

    async def restart(self, reference: str, *, timeout_s: int | None = None, signal: str | None = None) -> Container:
        managed = self._registry.find(reference)
        return await self._tasks.carry_out(
            self.life.restart(managed, timeout_s=timeout_s, signal=signal), name=f"request: restart {managed.id[:12]}"
        )

    async def kill(self, reference: str, signal: str) -> None:
        managed = self._registry.find(reference)
        number = parse_signal(signal or "SIGKILL")
        await self._tasks.carry_out(self.life.kill(managed, number), name=f"request: kill {managed.id[:12]}")

    async def pause(self, reference: str) -> None:
        managed = self._registry.find(reference)
        await self._tasks.carry_out(self.life.pause(managed), name=f"request: pause {managed.id[:12]}")

    async def unpause(self, reference: str) -> None:
        managed = self._registry.find(reference)
        await self._tasks.carry_out(self.life.unpause(managed), name=f"request: unpause {managed.id[:12]}")

    # --- removal -----------------------------------------------------------------------------------------------

    async def remove(self, reference: str, *, force: bool, volumes: bool = False) -> None:
        managed = self._registry.find(reference)
        if managed.removing:
            raise Conflict(f"removal of container {reference} is already in progress")
        if managed.state.up and not force:
            raise _still_live(managed)
        managed.removing = True
        await self._tasks.carry_out(self._remove(managed, force, volumes), name=f"request: remove {managed.id[:12]}")

    async def _remove(self, managed: Managed, force: bool, volumes: bool) -> None:
        try:
            if force and managed.run is not None:
                await self.life.kill_hard(managed, managed.run)  # a restart may hold the lock for as long as it runs
            async with managed.lock:
                # A start that was under way has come to its end by now.
                if managed.state.up and not force:
                    raise _still_live(managed)
                self.life.give_up(managed)
                if managed.run is not None:
                    await self.life.kill_hard(managed, managed.run)
                await self._remove_locked(managed, volumes=volumes or managed.snapshot.config.auto_remove)
        finally:
            managed.removing = False

    async def prune(self, accept: Callable[[Container], bool]) -> tuple[Sequence[str], int]:
        """Remove those that do not run and ``accept`` lets go; their IDs, and bytes given back."""
        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        ids: list[str] = []
        freed_bytes = 0
        try:
            for managed in self._registry:
                if managed.state.up or managed.removing or not accept(managed.snapshot):
                    continue
                size_bytes = self._disks.used_bytes(managed.id)
                try:
                    await self.remove(managed.id, force=False)
                except HyperError as error:  # started or gone meanwhile
                    _log.debug("container %s was not pruned: %s", managed.id[:12], error.message)
                    continue
                ids.append(managed.id)
                freed_bytes += size_bytes
        finally:
            self._pruning = False
        self._events.emit("container", "prune", "", {"reclaimed": str(freed_bytes)})
        return ids, freed_bytes

    async def processes(self, reference: str) -> Processes:
        managed = self._registry.find(reference)
        run = await managed.present_run()
        if managed.state.status is Status.RESTARTING:
            raise restarting(managed)
        if run is None or run.ending:
            raise Conflict(f"container {managed.id} is not running")
        listed = await run.sandbox.agent.top(managed.id)
        self._events.of_container(managed.snapshot, "top")
        return Processes(
            processes=tuple(msgspec.convert(one, ProcessInfo, from_attributes=True) for one in listed),
            memory_bytes=run.sandbox.record.memory_bytes,
        )

    async def usage(self, reference: str) -> Usage | None:
        return await usage(self._registry.find(reference))

    async def remove_ended(self, managed: Managed) -> None:
        """Remove a container that has no process; nothing when it has one, or is removed already."""
        async with managed.lock:
            if not managed.state.up:
                await self._remove_locked(managed, volumes=True)

    async def _remove_locked(self, managed: Managed, *, volumes: bool) -> None:
        """``volumes``: and those that it alone has and no user has named."""
        if managed.removed:
            return
        # The record goes first: files without a record are swept at the next start, a record without its files would
        # lie.
        self._registry.drop(managed)
        managed.removed = True
        gone = self._volumes.forget_anonymous(managed.snapshot) if volumes else []
        self._on_removed(managed.id)
        managed.hub.end()
        managed.notify("removed", "next-exit", "not-running")
        self._events.of_container(managed.snapshot, "destroy")
        discard = self._tasks.spawn(self._discard_after(managed, gone), name=f"discard {managed.id[:12]}")
        if not managed.snapshot.config.auto_remove:
            await asyncio.shield(discard)

    async def _discard_after(self, managed: Managed, volumes: Sequence[Path]) -> None:
        if managed.teardown is not None:
            await asyncio.shield(managed.teardown)
        await self._caretakers.release(managed.id)
        for path in volumes:
            await self._volumes.discard(path)
        await self._discard_files(managed.id)

    async def _discard_files(self, container_id: str) -> None:
        await self._disks.remove(container_id)
        self._images.release(container_id)
        self._layout.remove(container_id)

    # --- streams -----------------------------------------------------------------------------------------------

    def wait(self, reference: str, condition: WaitCondition) -> Awaitable[WaitResult]:
        return self._registry.find(reference).wait(condition)

    async def attach(
        self, reference: str, *, stdin: bool, stdout: bool, stderr: bool, stream: bool, logs: bool
    ) -> HubAttachment:
        managed = self._registry.find(reference)
        if managed.state.status is Status.PAUSED:
            raise Conflict(f"Container {managed.id} is paused, unpause the container before attach.")
        if managed.state.status is Status.RESTARTING:
            raise restarting(managed)
        config = managed.snapshot.config
        streams = frozenset(name for name, wanted in (("stdout", stdout), ("stderr", stderr)) if wanted)
        history = log_reading.history(managed, self._layout, streams) if logs else None
        hub = managed.hub
        if not stream:
            hub = OutputHub()
            hub.end()
        self._events.of_container(managed.snapshot, "attach")
        return HubAttachment(
            hub,
            tty=config.tty,
            stdin=stdin and config.open_stdin and stream,
            streams=streams,
            history=history,
            end_stdin_with_client=config.stdin_once,
        )

    def logs(
        self,
        reference: str,
        *,
        stdout: bool,
        stderr: bool,
        follow: bool,
        since_ns: int = 0,
        until_ns: int = 0,
        tail: int | None = None,
    ) -> AsyncIterator[LogEntry]:
        managed = self._registry.find(reference)
        streams = frozenset(name for name, wanted in (("stdout", stdout), ("stderr", stderr)) if wanted)
        return log_reading.read(
            managed, self._layout, streams=streams, follow=follow, since_ns=since_ns, until_ns=until_ns, tail=tail
        )

    async def resize(self, reference: str, *, rows: int, columns: int) -> None:
        managed = self._registry.find(reference)
        run = await managed.present_run()
        if run is None:
            raise Conflict(f"container {managed.id} is not running")
        if not run.tty:
            raise FailedPrecondition(f"container {managed.id} has no terminal to resize")
        await run.sandbox.agent.resize_terminal(managed.id, "", rows=rows, columns=columns)
        self._events.of_container(managed.snapshot, "resize", height=str(rows), width=str(columns))


def _still_live(managed: Managed) -> Conflict:
    status = managed.state.status
    hint = (
        "container is paused and must be unpaused first"
        if status is Status.PAUSED
        else f"container is {status.value}: stop the container before removing or force remove"
    )
    return Conflict(f'cannot remove container "{managed.snapshot.name}": {hint}')
