"""Use cases on execs. Implements :class:`hyper.engine.api.Execs`.

Execs live in memory: they have one client, whose connection ends with the daemon; after a restart the agent ends
their records by itself
(``recovery.py``). Their output goes to that client without a log: it is acknowledged as the client takes it. Ended
ones are forgotten with
their container, or when there are more than a few hundred.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field

import msgspec

from hyper.engine.attachment import HubAttachment
from hyper.engine.events import EventLog
from hyper.engine.managed import Managed
from hyper.engine.model import Exec, ExecConfig, Status
from hyper.engine.output import OutputHub, StreamName
from hyper.engine.registry import ContainerRegistry
from hyper.engine.run import DRAIN_S, Run
from hyper.engine.runtime import exec_process
from hyper.engine.starter_errors import start_failure_code
from hyper.engine.tasks import TaskSet
from hyper.errors import Conflict, HyperError, InvalidArgument, NotFound, Unavailable
from hyper.guest.messages import ProcessExited, Stdio
from hyper.guest.streams import OutputStream

KEPT_EXECS = 512

_log = logging.getLogger(__name__)


@dataclass
class _Managed:
    snapshot: Exec
    hub: OutputHub = field(default_factory=OutputHub)
    run: Run | None = None
    started: bool = False


class ExecUseCases:
    def __init__(self, registry: ContainerRegistry, events: EventLog, tasks: TaskSet) -> None:
        self._registry = registry
        self._events = events
        self._tasks = tasks
        self._execs: dict[str, _Managed] = {}

    async def create(self, reference: str, config: ExecConfig) -> str:
        container = self._registry.find(reference)
        self._running(container)
        if not config.command:
            raise InvalidArgument("No exec command specified")
        exec_id = secrets.token_hex(32)
        self._execs[exec_id] = _Managed(Exec(id=exec_id, container_id=container.id, config=config))
        self._prune()
        self._emit(container, f"exec_create: {' '.join(config.command)}", exec_id)
        return exec_id

    def get(self, exec_id: str) -> Exec:
        return self._find(exec_id).snapshot

    async def start(
        self, exec_id: str, *, detach: bool, console_size: tuple[int, int] = (0, 0)
    ) -> HubAttachment | None:
        managed = self._find(exec_id)
        if managed.started:
            raise Conflict(f"exec {exec_id} has been started before: create a new one")
        container = self._registry.find(managed.snapshot.container_id)
        run = self._running(container)
        managed.started = True
        config = managed.snapshot.config
        agent = run.sandbox.agent
        attached = not detach
        stdio = Stdio(
            io=agent.new_stream(),
            stderr=None if config.tty else agent.new_stream(),
            stdin=attached and config.attach_stdin,
        )
        attachment: HubAttachment | None = None
        if attached:
            wanted = (("stdout", config.attach_stdout or config.tty), ("stderr", config.attach_stderr))
            attachment = HubAttachment(
                managed.hub,
                tty=config.tty,
                stdin=config.attach_stdin,
                streams=frozenset(name for name, on in wanted if on),
                end_stdin_with_client=True,
            )
        ended: asyncio.Future[ProcessExited] = asyncio.get_running_loop().create_future()
        run.exec_ends[exec_id] = ended
        try:
            begun = await agent.exec(
                container.id, exec_id, exec_process(container.snapshot, config, console_size), stdio
            )
        except HyperError as error:
            run.exec_ends.pop(exec_id, None)
            managed.hub.end()
            managed.snapshot = msgspec.structs.replace(managed.snapshot, exit_code=start_failure_code(error))
            raise
        managed.run = run
        managed.snapshot = msgspec.structs.replace(managed.snapshot, running=True, pid=begun.pid)
        managed.hub.input.set_result(agent.input(stdio.io) if stdio.stdin else None)
        self._tasks.spawn(self._follow(managed, container, stdio, ended), name=f"exec {exec_id[:12]}")
        self._emit(container, f"exec_start: {' '.join(config.command)}", exec_id)
        return attachment

    async def resize(self, exec_id: str, *, rows: int, columns: int) -> None:
        managed = self._find(exec_id)
        if managed.run is None or not managed.snapshot.running:
            raise Conflict(f"exec {exec_id} is not running")
        await managed.run.sandbox.agent.resize(managed.snapshot.container_id, exec_id, rows=rows, columns=columns)

    async def _follow(
        self, managed: _Managed, container: Managed, stdio: Stdio, ended: asyncio.Future[ProcessExited]
    ) -> None:
        assert managed.run is not None
        agent = managed.run.sandbox.agent
        exec_id = managed.snapshot.id
        pumps = [asyncio.create_task(self._pump(managed.hub, "stdout", agent.output(stdio.io)))]
        if stdio.stderr is not None:
            pumps.append(asyncio.create_task(self._pump(managed.hub, "stderr", agent.output(stdio.stderr))))
        try:
            exit_code = (await ended).exit_code
        except Unavailable:
            exit_code = 137  # the container ended around it, which kills it
        managed.hub.stop_waiting()
        _, late = await asyncio.wait(pumps, timeout=DRAIN_S)
        for task in late:
            task.cancel()
        managed.snapshot = msgspec.structs.replace(managed.snapshot, running=False, exit_code=exit_code)
        managed.run.exec_ends.pop(exec_id, None)
        managed.hub.end()
        self._emit(container, "exec_die", exec_id, exitCode=str(exit_code))
        try:
            await agent.forget(container.id, exec_id)
        except HyperError as error:
            _log.debug("exec %s: %s", exec_id[:12], error)

    async def _pump(self, hub: OutputHub, name: StreamName, stream: OutputStream) -> None:
        try:
            while True:
                chunk = await stream.read()
                if chunk.data:
                    await hub.publish(name, chunk.data)
                stream.ack(chunk.next)
                if chunk.end:
                    return
        except Unavailable:
            return  # the VM is gone; its exit is told by the run

    def _running(self, container: Managed) -> Run:
        if container.run is None:
            raise Conflict(f"container {container.id} is not running")
        if container.state.status is Status.PAUSED:
            raise Conflict(f"Container {container.id} is paused, unpause the container before exec")
        return container.run

    def _find(self, exec_id: str) -> _Managed:
        managed = self._execs.get(exec_id)
        if managed is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return managed

    def _prune(self) -> None:
        """Forget the oldest ended ones; running ones are never forgotten."""
        if len(self._execs) > KEPT_EXECS:
            for exec_id, managed in list(self._execs.items()):
                if managed.started and not managed.snapshot.running:
                    del self._execs[exec_id]
                    if len(self._execs) <= KEPT_EXECS:
                        return

    def forget_container(self, container_id: str) -> None:
        """The container was removed: its execs go with it."""
        for exec_id, managed in list(self._execs.items()):
            if managed.snapshot.container_id == container_id:
                del self._execs[exec_id]

    def _emit(self, container: Managed, action: str, exec_id: str, **attributes: str) -> None:
        config = container.snapshot.config
        self._events.emit(
            "container",
            action,
            container.id,
            {**config.labels, "image": config.image, "name": container.snapshot.name, "execID": exec_id, **attributes},
        )
