"""Use cases on execs. Implements :class:`hyper.engine.api.Execs`.

Execs live in memory: they have one client, whose connection ends with the daemon; after a restart ``recovery.py`` has
the agent drop them as they end. Their output goes to that client without a log: it is acknowledged as the client takes
it. They are forgotten with their container, and the oldest that do not run when there are more than a few hundred.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from hyper.engine.attachment import HubAttachment
from hyper.engine.events import EventLog
from hyper.engine.managed import Managed, restarting
from hyper.engine.model import Exec, ExecConfig, Status
from hyper.engine.output import OutputHub, StreamName
from hyper.engine.registry import ContainerRegistry
from hyper.engine.run import DRAIN_S, Run
from hyper.engine.runtime import exec_process
from hyper.engine.starter import start_failure_code
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
        await self._running(container)
        if not config.command:
            raise InvalidArgument("No exec command specified")
        exec_id = secrets.token_hex(32)
        self._execs[exec_id] = _Managed(Exec(id=exec_id, container_id=container.id, config=config))
        self._prune()
        self._events.of_container(container.snapshot, f"exec_create: {' '.join(config.command)}", execID=exec_id)
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
        managed.started = True  # before anything is awaited: it is started once
        try:
            run = await self._running(container)
        except HyperError:
            managed.started = False
            raise
        config = managed.snapshot.config
        if detach:
            await self._tasks.carry_out(
                self._begin(managed, container, run, False, console_size), name=f"request: exec {exec_id[:12]}"
            )
            return None
        wanted = (("stdout", config.attach_stdout or config.tty), ("stderr", config.attach_stderr))
        attachment = HubAttachment(
            managed.hub,
            tty=config.tty,
            stdin=config.attach_stdin,
            streams=frozenset(name for name, on in wanted if on),
            end_stdin_with_client=True,
        )
        try:
            await self._tasks.carry_out(
                self._begin(managed, container, run, config.attach_stdin, console_size),
                name=f"request: exec {exec_id[:12]}",
            )
        except BaseException:
            await attachment.close()  # a client that has left must not hold the process up
            raise
        return attachment

    async def _begin(
        self, managed: _Managed, container: Managed, run: Run, stdin: bool, console_size: tuple[int, int]
    ) -> None:
        config = managed.snapshot.config
        exec_id = managed.snapshot.id
        agent = run.sandbox.agent
        stdio = Stdio(io=agent.new_stream(), stderr=None if config.tty else agent.new_stream(), stdin=stdin)
        outputs: list[tuple[StreamName, OutputStream]] = [("stdout", agent.output(stdio.io))]
        if stdio.stderr is not None:
            outputs.append(("stderr", agent.output(stdio.stderr)))
        ended: asyncio.Future[ProcessExited] = asyncio.get_running_loop().create_future()
        run.exec_ends[exec_id] = ended
        try:
            process = exec_process(container.snapshot, config, console_size)
            begun = await agent.exec(container.id, exec_id, process, stdio)
        except BaseException as error:
            run.exec_ends.pop(exec_id, None)
            for _, stream in outputs:
                agent.drop_output(stream.number, "it did not start")
            managed.hub.end()
            code = _failure_code(error)
            managed.snapshot = msgspec.structs.replace(managed.snapshot, exit_code=code)
            if run.ending and isinstance(error, HyperError):
                raise Conflict(f"container {container.id} is not running") from error
            raise
        managed.run = run
        managed.snapshot = msgspec.structs.replace(managed.snapshot, running=True, pid=begun.pid)
        managed.hub.input.set_result(agent.input(stdio.io) if stdin else None)
        follower = self._tasks.spawn(self._follow(managed, container, run, outputs, ended), name=f"exec {exec_id[:12]}")
        run.exec_tasks.add(follower)
        follower.add_done_callback(run.exec_tasks.discard)
        self._events.of_container(container.snapshot, f"exec_start: {' '.join(config.command)}", execID=exec_id)

    async def resize(self, exec_id: str, *, rows: int, columns: int) -> None:
        managed = self._find(exec_id)
        if managed.run is None or not managed.snapshot.running:
            raise Conflict(f"exec {exec_id} is not running")
        agent = managed.run.sandbox.agent
        await agent.resize_terminal(managed.snapshot.container_id, exec_id, rows=rows, columns=columns)

    async def _follow(
        self,
        managed: _Managed,
        container: Managed,
        run: Run,
        outputs: Sequence[tuple[StreamName, OutputStream]],
        ended: asyncio.Future[ProcessExited],
    ) -> None:
        exec_id = managed.snapshot.id
        pumps = [asyncio.create_task(self._pump(managed.hub, name, stream)) for name, stream in outputs]
        try:
            try:
                exit_code = (await ended).exit_code
            except Unavailable:
                exit_code = 137  # the container ended around it, which kills it
            managed.hub.stop_waiting()
            await asyncio.wait(pumps, timeout=DRAIN_S)
        finally:
            for task in pumps:
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        for _, stream in outputs:
            if not stream.over:
                run.sandbox.agent.drop_output(stream.number, "its process has ended")
        managed.snapshot = msgspec.structs.replace(managed.snapshot, running=False, exit_code=exit_code)
        run.exec_ends.pop(exec_id, None)
        managed.hub.end()
        self._events.of_container(container.snapshot, "exec_die", execID=exec_id, exitCode=str(exit_code))
        try:
            await run.sandbox.agent.forget(container.id, exec_id)
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

    async def _running(self, container: Managed) -> Run:
        run = await container.present_run()
        if container.state.status is Status.RESTARTING:
            raise restarting(container)
        if run is None or run.ending:
            raise Conflict(f"container {container.id} is not running")
        if container.state.status is Status.PAUSED:
            raise Conflict(f"Container {container.id} is paused, unpause the container before exec")
        return run

    def _find(self, exec_id: str) -> _Managed:
        managed = self._execs.get(exec_id)
        if managed is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return managed

    def _prune(self) -> None:
        """Forget the oldest that do not run."""
        for exec_id, managed in list(self._execs.items()):
            if len(self._execs) <= KEPT_EXECS:
                return
            if not managed.started or managed.snapshot.exit_code is not None:
                del self._execs[exec_id]

    def forget(self, exec_id: str) -> None:
        """Nobody will ask for it any more; it goes on if it runs."""
        self._execs.pop(exec_id, None)

    def forget_container(self, container_id: str) -> None:
        """The container was removed: its execs go with it."""
        for exec_id, managed in list(self._execs.items()):
            if managed.snapshot.container_id == container_id:
                del self._execs[exec_id]


def _failure_code(error: BaseException) -> int:
    """As dockerd's: an exec that cannot be run as asked for (an unknown user, no such folder) is 126."""
    if isinstance(error, InvalidArgument):
        return 126
    return start_failure_code(error) if isinstance(error, HyperError) else 128
