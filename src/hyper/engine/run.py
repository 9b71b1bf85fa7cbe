"""One run of a container: its sandbox, its streams, and how it ended.

A Run exists exactly while a process of the container may exist. It pumps output into the log and to attached
clients, acknowledging to
the agent only what the log file holds, and resolves :attr:`Run.ended` once: with the process's own exit, or with the
reason why its VM died.
Neighbours: ``starter.py`` makes it, ``recovery.py`` makes it again after a restart, ``containers.py`` records what
it says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from hyper.engine.log_file import LogWriter, StreamName
from hyper.engine.output import OutputHub
from hyper.engine.pods import Pod
from hyper.errors import Unavailable
from hyper.guest.messages import ProcessExited, Stdio
from hyper.guest.streams import OutputStream
from hyper.sandboxes.source import Sandbox

DRAIN_S = 10.0
"""How long a finished process's remaining output is waited for."""

_EXEC_ENDS_S = 3.0
"""How long the execs that died with their container are waited for (the agent takes 2 s at the most)."""

VMM_DIED_EXIT_CODE = 137
"""A dead VM takes its processes with it as SIGKILL would."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunEnd:
    """How a run ended. ``error`` says why when it was not the process's own doing."""

    exit_code: int
    finished_ns: int
    oom_killed: bool = False
    error: str = ""
    sandbox_alive: bool = True


@dataclass
class Run:
    """Live resources of a running container. Its pod tells it of ends (:meth:`hyper.engine.pods.Pod.add`)."""

    container_id: str
    pod: Pod
    hub: OutputHub
    log: LogWriter
    stdio: Stdio
    tty: bool
    has_card: bool = False
    """The sandbox's network is this container's."""
    ended: asyncio.Future[RunEnd] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    exec_ends: dict[str, asyncio.Future[ProcessExited]] = field(default_factory=dict)
    """Execs that are being started or run."""
    exec_tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """Who follows them; the sandbox is kept until these have what there was to hear."""

    def __post_init__(self) -> None:
        self._exit: asyncio.Future[ProcessExited] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._watcher: asyncio.Task[None] | None = None

    @property
    def sandbox(self) -> Sandbox:
        """The VM that it runs in, perhaps among others."""
        return self.pod.sandbox

    @property
    def ending(self) -> bool:
        """Its process has ended, though that may not be recorded yet."""
        return self._exit.done() or self.ended.done()

    def begin(self) -> None:
        """Start pumping output and watching for the end; before ``container.start``, so that no byte waits."""
        for name, number in (("stdout", self.stdio.io), ("stderr", self.stdio.stderr)):
            if number is not None:
                stream_name: StreamName = "stdout" if name == "stdout" else "stderr"
                stream = self.sandbox.agent.output(number, from_offset=self.log.position(stream_name))
                self._tasks.append(asyncio.create_task(self._pump(stream_name, stream), name=f"pump {name}"))
        self._watcher = asyncio.create_task(self._watch(), name=f"watch {self.container_id[:12]}")

    def exited(self, event: ProcessExited) -> None:
        """The init process has ended (told by an event, or by the agent's state after a restart of the daemon)."""
        if not self._exit.done():
            self._exit.set_result(event)

    async def finish_execs(self) -> None:
        """After the end: the agent killed the execs with the container; hear their exits and their last output before
        the sandbox goes."""
        if self.exec_ends and self.ended.result().sandbox_alive:
            await asyncio.wait(tuple(self.exec_ends.values()), timeout=_EXEC_ENDS_S)
        for future in self.exec_ends.values():
            if not future.done():
                future.set_exception(Unavailable("the container has ended"))
                future.exception()  # one that is just being started has no follower yet
        if self.exec_tasks:
            await asyncio.wait(tuple(self.exec_tasks), timeout=DRAIN_S)

    async def abandon(self) -> None:
        """Stop all tasks without an end: the start failed, or the daemon goes away and leaves the container running."""
        tasks = [*self._tasks, *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.hub.end()
        self.log.close()

    def told(self, event: ProcessExited) -> None:
        """A process of the container has ended."""
        if event.exec_id == "":
            self.exited(event)
        elif event.exec_id in self.exec_ends:
            future = self.exec_ends[event.exec_id]
            if not future.done():
                future.set_result(event)

    async def _pump(self, name: StreamName, stream: OutputStream) -> None:
        try:
            while True:
                chunk = await stream.read()
                if chunk.data:
                    position = self.log.append(name, chunk.data)
                    await self.hub.publish(name, chunk.data)
                    stream.ack(position)
                if chunk.end:
                    self.log.finish(name)
                    stream.ack(chunk.next)
                    return
        except Unavailable:
            self.log.finish(name)  # the VM is gone: what it said is worth keeping

    async def _watch(self) -> None:
        death = asyncio.create_task(self.sandbox.wait())
        try:
            await asyncio.wait((asyncio.shield(self._exit), death), return_when=asyncio.FIRST_COMPLETED)
            self.hub.stop_waiting()
            drained = asyncio.ensure_future(asyncio.wait(self._tasks, timeout=DRAIN_S))
            await asyncio.wait((drained, death), return_when=asyncio.FIRST_COMPLETED)
            if death.done():
                # Nothing answers any more: what has arrived can be read, and no reconnection is worth waiting for.
                await self.sandbox.agent.release()
            done, late = await drained
            for task in late:
                _log.warning("container %s: output was cut %d s after its end", self.container_id[:12], int(DRAIN_S))
                task.cancel()
            for task in done:
                if (error := task.exception()) is not None:
                    _log.error("container %s: its output could not be kept: %s", self.container_id[:12], error)
            if self._exit.done():
                event = self._exit.result()
                end = RunEnd(event.exit_code, event.exited_ns, event.oom_killed, sandbox_alive=not death.done())
            else:
                end = RunEnd(
                    VMM_DIED_EXIT_CODE,
                    time.time_ns(),
                    error=f"its VM ended before the container: {death.result()}",
                    sandbox_alive=False,
                )
        finally:
            death.cancel()
        self.log.close()
        self.hub.end()
        self.ended.set_result(end)
