"""The agent of one sandbox, as the engine uses it: typed requests, events, streams (docs/agent-protocol.md §5).

Requests travel on a reliable stream, so that a lost connection delays an answer and never repeats or loses a request.
What the guest answers is checked against its type; a wrong one is a broken protocol: the link is closed and every
pending call fails with Unavailable. Errors the agent reports come as the kinds of :mod:`hyper.errors`.
Neighbours: ``messages`` (shapes), ``link`` (transport); ``hyper.sandboxes`` owns an Agent per sandbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hyper.errors import DeadlineExceeded, InvalidArgument, Unavailable, from_kind
from hyper.guest import messages
from hyper.guest.link import MAX_MESSAGE_BYTES, AgentLink, LinkSettings
from hyper.guest.messages import Configuration, Event, InjectedFile, Rootfs, SandboxState, Stats, Stdio
from hyper.guest.protocol import MAX_STREAM, ProtocolError, Welcome
from hyper.guest.streams import InputStream, OutputStream

T = TypeVar("T")

CALL_TIMEOUT_S = 60.0
SHARE_FOLDER = "/run/hyper/share"
"""Where a sandbox has what is shared with it."""
_MAX_EARLY_EVENTS = 4_096
_MAX_ERROR_CHARACTERS = 4_096


class Agent:
    """See the module's docstring. Made by :meth:`connect`."""

    def __init__(self, call_timeout_s: float) -> None:
        self._call_timeout_s = call_timeout_s
        self._link: AgentLink | None = None
        self._loop = asyncio.get_running_loop()
        self._next_id = 1
        self._next_stream = 1
        self._pending: dict[int, tuple[asyncio.Future[Any], type[Any]]] = {}
        self._on_event: Callable[[Event], None] | None = None
        self._early: list[Event] = []

    @classmethod
    async def connect(
        cls,
        socket: Path,
        *,
        instance: str,
        first: bool,
        deadline_s: float,
        call_timeout_s: float = CALL_TIMEOUT_S,
        settings: LinkSettings | None = None,
    ) -> Agent:
        """Shake hands with the agent behind ``socket``. ``instance``: 32 hex digits, this host process's own for this
        sandbox; ``first``: nobody has been connected to this sandbox before.

        Unavailable when it does not answer within ``deadline_s``."""
        agent = cls(call_timeout_s)
        settings = settings or LinkSettings(connect_deadline_s=deadline_s)
        agent._link = await AgentLink.connect(
            socket, instance=instance, first=first, on_message=agent._received, settings=settings
        )
        agent._link.lost.add_done_callback(agent._lost)
        if not first:
            try:
                agent._skip_used_streams(await agent.state())
            except BaseException:
                await agent.release()
                raise
        return agent

    def skip_streams(self, first: int) -> None:
        """Use no stream number below ``first``: a clone's agent has used some of them in the template's life."""
        self._next_stream = max(self._next_stream, first)

    @property
    def version(self) -> str:
        """The agent's own version."""
        return self._welcome.agent

    @property
    def boot_id(self) -> str:
        """The guest kernel's boot id."""
        return self._welcome.boot_id

    @property
    def _welcome(self) -> Welcome:
        assert self._connected.welcome is not None
        return self._connected.welcome

    @property
    def _connected(self) -> AgentLink:
        assert self._link is not None
        return self._link

    @property
    def on_event(self) -> Callable[[Event], None] | None:
        """Called in the event loop for each event, in order; events that came before it was set are kept for it."""
        return self._on_event

    @on_event.setter
    def on_event(self, callback: Callable[[Event], None] | None) -> None:
        self._on_event = callback
        if callback is not None:
            early, self._early = self._early, []
            for event in early:
                self._loop.call_soon(callback, event)

    # -- the sandbox

    async def ping(self, *, timeout_s: float = 5.0) -> int:
        """The guest's clock, nanoseconds since the epoch."""
        return (await self._call("sandbox.ping", messages.Pong, {}, timeout_s=timeout_s)).time_ns

    async def state(self) -> SandboxState:
        return await self._call("sandbox.state", SandboxState, {})

    async def configure(self, configuration: Configuration) -> None:
        """Set what the configuration names; the rest stays as it is."""
        await self._call("sandbox.configure", messages.Nothing, msgspec.to_builtins(configuration))

    async def resize(self, cpus: int | None = None, memory_bytes: int | None = None) -> messages.Resized:
        """Wait until the sandbox uses what has been plugged into it: so many processors, and this much memory in all
        (the kernel's own share included). What it has then; never less than before. InvalidArgument for more processors
        than its machine can have; DeadlineExceeded after 10 s, saying what was reached."""
        params = {"cpus": cpus, "memory_bytes": memory_bytes}
        return await self._call("sandbox.resize", messages.Resized, params)

    async def shutdown(self, *, timeout_s: float = 10.0) -> None:
        """Kill every process, sync and unmount; the machine powers off behind the answer."""
        await self._call("sandbox.shutdown", messages.Nothing, {}, timeout_s=timeout_s)

    # -- containers

    async def create(
        self,
        container_id: str,
        spec: Mapping[str, Any],
        rootfs: Rootfs,
        files: Sequence[InjectedFile],
        stdio: Stdio,
        *,
        ephemeral: bool = False,
        share: str | None = None,
    ) -> int:
        """Everything short of exec; the pid of the waiting process. ``spec`` is an OCI runtime spec as JSON objects.
        ``share``: the tag of the file system that mounts of the spec below :data:`SHARE_FOLDER` are in.
        ``ephemeral``: its writable disk is of no use after its end, which is told without waiting for the disk."""
        params = {
            "id": container_id,
            "spec": spec,
            "rootfs": msgspec.to_builtins(rootfs),
            "files": msgspec.to_builtins(list(files)),
            "stdio": msgspec.to_builtins(stdio),
            "ephemeral": ephemeral,
        }
        if share is not None:
            params["share"] = share
        return (await self._call("container.create", messages.Created, params)).pid

    async def start(self, container_id: str) -> int:
        """Exec; when it started. NotFound: no such executable; PermissionDenied: cannot be executed; InvalidArgument:
        bad user or working directory."""
        return (await self._call("container.start", messages.Started, {"id": container_id})).started_ns

    async def signal(self, container_id: str, number: int, *, everyone: bool = False) -> None:
        """To the container's init, or all its processes. NotFound when nothing lives in it."""
        params = {"id": container_id, "signal": number, "all": everyone}
        await self._call("container.signal", messages.Nothing, params)

    async def pause(self, container_id: str) -> None:
        await self._call("container.pause", messages.Nothing, {"id": container_id})

    async def resume(self, container_id: str) -> None:
        await self._call("container.resume", messages.Nothing, {"id": container_id})

    async def update(self, container_id: str, resources: Mapping[str, Any]) -> None:
        """New limits; ``resources`` is OCI's ``linux.resources``."""
        await self._call("container.update", messages.Nothing, {"id": container_id, "resources": resources})

    async def stats(self, container_id: str) -> Stats:
        return await self._call("container.stats", Stats, {"id": container_id})

    async def top(self, container_id: str) -> list[messages.ListedProcess]:
        """Its processes, as proc(5) tells of them."""
        return (await self._call("container.top", messages.ProcessList, {"id": container_id})).processes

    async def processes(self, container_id: str) -> list[int]:
        """Pids, as the sandbox counts them."""
        return (await self._call("container.processes", messages.Pids, {"id": container_id})).pids

    async def delete(self, container_id: str) -> None:
        """Kill what is left, unmount, forget. NotFound when it is not known."""
        await self._call("container.delete", messages.Nothing, {"id": container_id})

    # -- processes

    async def exec(
        self, container_id: str, exec_id: str, process: Mapping[str, Any], stdio: Stdio
    ) -> messages.ExecStarted:
        """Run another process in a running container; ``process`` is OCI's. Errors as :meth:`start`."""
        params = {"id": container_id, "exec_id": exec_id, "process": process, "stdio": msgspec.to_builtins(stdio)}
        return await self._call("process.exec", messages.ExecStarted, params)

    async def signal_exec(self, container_id: str, exec_id: str, number: int) -> None:
        params = {"id": container_id, "exec_id": exec_id, "signal": number}
        await self._call("process.signal", messages.Nothing, params)

    async def resize_terminal(self, container_id: str, exec_id: str, *, rows: int, columns: int) -> None:
        """The terminal's size; ``exec_id`` "" is the container's init."""
        params = {"id": container_id, "exec_id": exec_id, "rows": rows, "columns": columns}
        await self._call("process.resize", messages.Nothing, params)

    async def forget(self, container_id: str, exec_id: str) -> None:
        """Drop an exited exec's record and streams."""
        await self._call("process.forget", messages.Nothing, {"id": container_id, "exec_id": exec_id})

    # -- streams

    def new_stream(self) -> int:
        """A stream number that was never used in this sandbox's life."""
        if self._next_stream > MAX_STREAM:
            raise Unavailable("this sandbox has used up its streams; make a new one")
        self._next_stream += 1
        return self._next_stream - 1

    def output(self, stream: int, *, from_offset: int = 0) -> OutputStream:
        """Receive what a process prints, from this position on (the end of what a log holds). Open it before the
        request that names it, so that its credit is there when the process starts."""
        return self._connected.open_output(stream, from_offset)

    def input(self, stream: int, *, from_offset: int | None = 0) -> InputStream:
        """Send to a process. ``from_offset`` None for a stream that an earlier host process wrote to."""
        return self._connected.open_input(stream, from_offset)

    def drop_output(self, stream: int, reason: str) -> None:
        """Read this stream no further; the process sees a closed pipe."""
        self._connected.close_output(stream, reason)

    # -- the end

    async def closed(self) -> str:
        """Returns why, once the link is lost for good (VMM dead, protocol broken) or released. Any number of
        waiters."""
        return await asyncio.shield(self._connected.lost)

    @property
    def lost(self) -> str | None:
        """Why the link is lost for good; None while it is not."""
        lost = self._connected.lost
        return lost.result() if lost.done() and not lost.cancelled() else None

    async def release(self) -> None:
        """Let go without ending anything in the guest."""
        if self._link is not None:
            await self._link.release()

    # -- requests and what comes back

    def request(self, method: str, result: type[T], params: Mapping[str, Any]) -> asyncio.Future[T]:
        """Send a request whose answer may take any time. InvalidArgument when it is too large, Unavailable when the
        link is lost."""
        number = self._next_id
        message = msgspec.json.encode(messages.Outgoing(number, method, dict(params)))
        if len(message) > MAX_MESSAGE_BYTES:
            raise InvalidArgument(
                f"{method} is too large for the guest's agent: {len(message)} bytes, at most {MAX_MESSAGE_BYTES}; "
                "shorten the environment, the arguments or the files"
            )
        self._connected.send_message(message)
        self._next_id += 1
        future: asyncio.Future[T] = self._loop.create_future()
        self._pending[number] = (future, result)
        return future

    async def _call(
        self, method: str, result: type[T], params: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> T:
        future = self.request(method, result, params)
        timeout_s = self._call_timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            raise DeadlineExceeded(f"the guest's agent did not answer {method} within {timeout_s:g} s") from error

    def _received(self, message: bytes) -> None:
        """A message of the agent; ProtocolError when it is not one."""
        try:
            incoming = msgspec.json.decode(message, type=messages.Incoming)
            if incoming.event is not None:
                self._event(incoming.event, incoming.params)
            else:
                self._answer(incoming)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError("bad_message", str(error)[:200]) from error

    def _answer(self, incoming: messages.Incoming) -> None:
        entry = self._pending.pop(incoming.id or 0, None)
        if entry is None:
            raise ProtocolError("unknown_id", f"an answer to request {incoming.id}, which is not open")
        future, result = entry
        if incoming.error is not None:
            if not future.done():
                future.set_exception(from_kind(incoming.error.kind, incoming.error.message[:_MAX_ERROR_CHARACTERS]))
            return
        try:
            value = msgspec.json.decode(incoming.result, type=result)
        except msgspec.DecodeError:
            self._pending[incoming.id or 0] = entry  # to fail with the others when the link goes
            raise
        if not future.done():
            future.set_result(value)

    def _event(self, name: str, params: msgspec.Raw) -> None:
        shape = messages.EVENTS.get(name)
        if shape is None:
            return  # a newer agent's
        event = msgspec.json.decode(params, type=shape)
        if self._on_event is not None:
            # Not called from here: whoever awaits an answer that came before this event goes first.
            self._loop.call_soon(self._on_event, event)
        elif len(self._early) < _MAX_EARLY_EVENTS:
            self._early.append(event)
        else:
            raise ProtocolError("too_many_events", f"{len(self._early)} before anyone listened")

    def _lost(self, reason: asyncio.Future[str]) -> None:
        pending, self._pending = self._pending, {}
        for future, _result in pending.values():
            if not future.done():
                future.set_exception(Unavailable(f"the sandbox is lost: {reason.result()}"))

    def _skip_used_streams(self, state: SandboxState) -> None:
        for container in state.containers:
            for process in container.processes:
                self._next_stream = max(self._next_stream, process.stdio.io + 1, (process.stdio.stderr or 0) + 1)
