"""Use cases on containers: create, start, stop, kill, wait, attach, logs, remove. Implements
:class:`hyper.engine.api.Containers`.

Whatever is acknowledged is in the records first. Exits are noticed by a task per run, which records them, tells the
waiters and takes
the sandbox down behind that. Neighbours: ``starter.py``, ``run.py``, ``registry.py``; ``recovery.py`` puts runs back
after a restart.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import msgspec

from hyper.engine import logs as log_reading
from hyper.engine.attachment import HubAttachment
from hyper.engine.create import container_from
from hyper.engine.events import EventLog
from hyper.engine.layout import Layout
from hyper.engine.managed import Managed, WaitCondition
from hyper.engine.model import Container, ContainerConfig, LogEntry, NetworkAttachment, Status, WaitResult
from hyper.engine.names import generate
from hyper.engine.output import OutputHub
from hyper.engine.records import EngineRecords
from hyper.engine.registry import ContainerRegistry, check_name
from hyper.engine.run import Run, RunEnd
from hyper.engine.signals import parse_signal
from hyper.engine.starter import Starter
from hyper.engine.starter_errors import start_failure_code
from hyper.engine.tasks import TaskSet
from hyper.errors import Conflict, FailedPrecondition, HyperError, NotFound, NotModified, Unavailable
from hyper.images.store import ImageStore
from hyper.images.writable import WritableDisks
from hyper.networks.bridge import BridgeNetwork

DEFAULT_STOP_TIMEOUT_S = 10
_KILL_WAIT_S = 10.0
"""After SIGKILL the guest gets this long; then its VM is ended."""

_log = logging.getLogger(__name__)


class ContainerUseCases:
    def __init__(
        self,
        *,
        registry: ContainerRegistry,
        records: EngineRecords,
        layout: Layout,
        images: ImageStore,
        disks: WritableDisks,
        disk_bytes: int,
        starter: Starter,
        network: BridgeNetwork | None,
        events: EventLog,
        tasks: TaskSet,
        on_removed: Callable[[str], None],
        network_ids: Mapping[str, str],
    ) -> None:
        self._registry = registry
        self._records = records
        self._layout = layout
        self._images = images
        self._disks = disks
        self._disk_bytes = disk_bytes
        self._starter = starter
        self._network = network
        self._events = events
        self._tasks = tasks
        self._on_removed = on_removed
        self._network_ids = network_ids

    # --- create, look up, rename -------------------------------------------------------------------------------

    async def create(self, config: ContainerConfig, *, name: str | None) -> tuple[Container, tuple[str, ...]]:
        image = self._images.resolve(config.image)
        if name:
            name = name.removeprefix("/")
            check_name(name)
            if self._registry.has_name(name):
                raise self._records.name_taken(name, "")
        container_id = secrets.token_hex(32)
        container, warnings = container_from(
            config,
            image,
            container_id=container_id,
            name=name or generate(self._registry.has_name),
            log_path=str(self._layout.log(container_id)),
            network_ids=self._network_ids,
        )
        self._layout.make(container_id)
        try:
            self._images.lease(image.id, container_id)
            await self._disks.create(container_id, self._disk_bytes)
            managed = self._registry.add(container)
        except BaseException:
            await self._discard_files(container_id)
            raise
        self._emit(managed, "create")
        return container, warnings

    def get(self, reference: str) -> Container:
        return self._view(self._registry.find(reference))

    def list(self) -> list[Container]:
        return sorted((self._view(managed) for managed in self._registry), key=lambda c: c.created_ns, reverse=True)

    async def rename(self, reference: str, name: str) -> None:
        managed = self._registry.find(reference)
        name = name.removeprefix("/")
        async with managed.lock:
            old = managed.snapshot.name
            if name == old:
                raise Conflict("Renaming a container with the same name as its current name")
            self._registry.store(managed, msgspec.structs.replace(managed.snapshot, name=name))
        self._emit(managed, "rename", oldName=f"/{old}")

    # --- start and end -----------------------------------------------------------------------------------------

    async def start(self, reference: str) -> None:
        managed = self._registry.find(reference)
        async with managed.lock:
            if managed.removed or managed.state.status is Status.REMOVING:
                raise Conflict(f"container {managed.id} is marked for removal and cannot be started")
            if managed.state.status is Status.PAUSED:
                raise Conflict("cannot start a paused container, try unpause instead")
            if managed.state.live:
                raise NotModified(f"container {managed.snapshot.name} is already running")
            if managed.teardown is not None:
                await asyncio.shield(managed.teardown)
            await self._start(managed)

    async def _start(self, managed: Managed) -> None:
        # The sandbox's ID is known before the sandbox is, but recorded as the container's own only once it runs: a
        # VM that a killed daemon
        # was still starting is a stray for the next one.
        managed.snapshot = msgspec.structs.replace(managed.snapshot, sandbox_id=secrets.token_hex(16))
        try:
            started = await self._starter.start(managed)
        except BaseException as error:
            managed.hub.end()
            managed.hub = OutputHub()
            managed.stdin_client = False
            if isinstance(error, HyperError):
                code = start_failure_code(error)
                failed = msgspec.structs.replace(
                    managed.with_state(exit_code=code, error=error.message), sandbox_id="", timings_ms={}
                )
                self._registry.store(managed, failed)
                self._emit(managed, "die", exitCode=str(code))
                managed.notify("next-exit", "not-running")
                if failed.config.auto_remove:
                    self._tasks.spawn(self.remove_ended(managed), name="auto-remove")
            raise
        managed.run = started.run
        running = managed.with_state(
            status=Status.RUNNING,
            pid=started.pid,
            started_ns=started.started_ns,
            finished_ns=0,
            exit_code=0,
            error="",
            oom_killed=False,
        )
        self._registry.store(
            managed,
            msgspec.structs.replace(
                running, networks=started.networks, bindings=started.bindings, timings_ms=started.timings_ms
            ),
        )
        self.follow(managed, started.run)
        self._emit(managed, "start")

    def follow(self, managed: Managed, run: Run) -> None:
        """From now on, notice how this run ends."""
        self._tasks.spawn(self._follow(managed, run), name=f"follow {managed.id[:12]}")

    async def _follow(self, managed: Managed, run: Run) -> None:
        end = await asyncio.shield(run.ended)
        networks = tuple(
            NetworkAttachment(network=item.network, network_id=item.network_id) for item in managed.snapshot.networks
        )
        exited = managed.with_state(
            status=Status.REMOVING if managed.state.status is Status.REMOVING else Status.EXITED,
            pid=0,
            exit_code=end.exit_code,
            oom_killed=end.oom_killed,
            error=end.error,
            finished_ns=end.finished_ns,
        )
        exited = msgspec.structs.replace(exited, networks=networks, bindings=())
        managed.run = None
        managed.hub = OutputHub()
        managed.stdin_client = False
        managed.teardown = self._tasks.spawn(self._teardown(managed.id, run, end), name=f"teardown {managed.id[:12]}")
        self._registry.store(managed, exited)
        if end.oom_killed:
            self._emit(managed, "oom")
        self._emit(managed, "die", exitCode=str(end.exit_code))
        managed.notify("not-running", "next-exit")
        if managed.snapshot.config.auto_remove:
            await self.remove_ended(managed)

    async def _teardown(self, container_id: str, run: Run, end: RunEnd) -> None:
        """Give everything of a finished run back. Never fails: what cannot be freed now is freed by the next
        daemon's start."""
        if self._network is not None:
            try:
                await self._network.unpublish(container_id)
            except HyperError as error:
                _log.error("container %s: ports not freed: %s", container_id[:12], error)
        try:
            await run.sandbox.destroy(graceful=end.sandbox_alive)
        except HyperError as error:
            _log.error("container %s: sandbox not freed: %s", container_id[:12], error)
        if self._network is not None:
            self._network.release(container_id)

    async def stop(self, reference: str, *, timeout_s: int | None = None, signal: str | None = None) -> None:
        managed = self._registry.find(reference)
        if not managed.state.live or managed.run is None:
            raise NotModified(f"container {managed.snapshot.name} is not running")
        await self._stop(managed, timeout_s=timeout_s, signal=signal)

    async def _stop(self, managed: Managed, *, timeout_s: int | None, signal: str | None) -> None:
        run = managed.run
        if run is None:
            return
        config = managed.snapshot.config
        number = parse_signal(signal or config.stop_signal or "SIGTERM")
        if timeout_s is None:
            timeout_s = DEFAULT_STOP_TIMEOUT_S if config.stop_timeout_s is None else config.stop_timeout_s
        gone = managed.wait("not-running")
        try:
            await run.sandbox.agent.signal(managed.id, number)
            if managed.state.status is Status.PAUSED:
                await run.sandbox.agent.resume(managed.id)
            await asyncio.wait_for(asyncio.shield(gone), None if timeout_s < 0 else timeout_s)
        except (TimeoutError, HyperError):
            await self._kill_hard(managed, run)
        await gone
        self._emit(managed, "stop")

    async def _kill_hard(self, managed: Managed, run: Run) -> None:
        """SIGKILL inside; when the guest does not obey, end the VM."""
        try:
            await run.sandbox.agent.signal(managed.id, 9)
            if managed.state.status is Status.PAUSED:
                await run.sandbox.agent.resume(managed.id)
            await asyncio.wait_for(asyncio.shield(run.ended), _KILL_WAIT_S)
        except NotFound:
            await asyncio.wait({run.ended}, timeout=_KILL_WAIT_S)
        except (TimeoutError, Unavailable):
            pass
        if not run.ended.done():
            _log.warning("container %s did not end on SIGKILL; its VM is ended", managed.id[:12])
            await run.sandbox.destroy(graceful=False)
            await asyncio.shield(run.ended)

    async def restart(self, reference: str, *, timeout_s: int | None = None, signal: str | None = None) -> None:
        managed = self._registry.find(reference)
        async with managed.lock:
            if managed.state.live:
                await self._stop(managed, timeout_s=timeout_s, signal=signal)
            if managed.removed:
                raise NotFound(f"No such container: {reference}")
            if managed.teardown is not None:
                await asyncio.shield(managed.teardown)
            await self._start(managed)
        self._emit(managed, "restart")

    async def kill(self, reference: str, signal: str) -> None:
        managed = self._registry.find(reference)
        number = parse_signal(signal or "SIGKILL")
        run = managed.run
        if run is None:
            raise Conflict(f"cannot kill container: {reference}: container {managed.id} is not running")
        if number == 9:
            await self._kill_hard(managed, run)
            await managed.wait("not-running")
        else:
            try:
                await run.sandbox.agent.signal(managed.id, number)
            except NotFound as error:
                raise Conflict(f"cannot kill container: {reference}: container {managed.id} is not running") from error
        self._emit(managed, "kill", signal=str(number))

    async def pause(self, reference: str) -> None:
        managed = self._registry.find(reference)
        async with managed.lock:
            run = self._running(managed, reference)
            if managed.state.status is Status.PAUSED:
                raise Conflict(f"container {managed.id} is already paused")
            await run.sandbox.agent.pause(managed.id)
            self._registry.store(managed, managed.with_state(status=Status.PAUSED))
        self._emit(managed, "pause")

    async def unpause(self, reference: str) -> None:
        managed = self._registry.find(reference)
        async with managed.lock:
            run = self._running(managed, reference)
            if managed.state.status is not Status.PAUSED:
                raise Conflict(f"container {managed.id} is not paused")
            await run.sandbox.agent.resume(managed.id)
            self._registry.store(managed, managed.with_state(status=Status.RUNNING))
        self._emit(managed, "unpause")

    # --- removal -----------------------------------------------------------------------------------------------

    async def remove(self, reference: str, *, force: bool) -> None:
        managed = self._registry.find(reference)
        if managed.state.status is Status.REMOVING:
            raise Conflict(f"removal of container {reference} is already in progress")
        if managed.state.live and not force:
            what = "paused" if managed.state.status is Status.PAUSED else "running"
            hint = (
                "container is paused and must be unpaused first"
                if what == "paused"
                else "container is running: stop the container before removing or force remove"
            )
            raise Conflict(f'cannot remove container "{managed.snapshot.name}": {hint}')
        if managed.run is not None:
            await self._kill_hard(managed, managed.run)
            await managed.wait("not-running")
        await self.remove_ended(managed)

    async def remove_ended(self, managed: Managed) -> None:
        """Remove a container that has no process; once, however often it is asked for."""
        async with managed.lock:
            if managed.removed:
                return
            if managed.run is not None:
                raise Conflict(f'cannot remove container "{managed.snapshot.name}": it has been started again')
            # The record goes first: files without a record are swept at the next start, a record without its files
            # would lie.
            self._registry.drop(managed)
            managed.removed = True
            self._on_removed(managed.id)
            managed.hub.end()
            managed.notify("removed", "next-exit", "not-running")
            self._emit(managed, "destroy")
            if managed.teardown is not None and managed.snapshot.config.auto_remove:
                self._tasks.spawn(self._discard_after(managed), name=f"discard {managed.id[:12]}")
            else:
                await self._discard_after(managed)

    async def _discard_after(self, managed: Managed) -> None:
        if managed.teardown is not None:
            await asyncio.shield(managed.teardown)
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
        config = managed.snapshot.config
        streams = frozenset(name for name, wanted in (("stdout", stdout), ("stderr", stderr)) if wanted)
        history = log_reading.history(managed, self._layout, streams) if logs else []
        hub = managed.hub
        if not stream:
            hub = OutputHub()
            hub.end()
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
        run = managed.run
        if run is None:
            raise Conflict(f"container {managed.id} is not running")
        if not run.tty:
            raise FailedPrecondition(f"container {managed.id} has no terminal to resize")
        await run.sandbox.agent.resize(managed.id, "", rows=rows, columns=columns)
        self._emit(managed, "resize", height=str(rows), width=str(columns))

    # --- small things ------------------------------------------------------------------------------------------

    def _view(self, managed: Managed) -> Container:
        if managed.run is None:
            return managed.snapshot
        return msgspec.structs.replace(managed.snapshot, exec_ids=tuple(managed.run.exec_ends) or ())

    def _running(self, managed: Managed, reference: str) -> Run:
        if managed.run is None:
            raise Conflict(f"container {reference} is not running")
        return managed.run

    def _emit(self, managed: Managed, action: str, **attributes: str) -> None:
        config = managed.snapshot.config
        self._events.emit(
            "container",
            action,
            managed.id,
            {**config.labels, "image": config.image, "name": managed.snapshot.name, **attributes},
        )
