"""An engine whose containers are plain processes of this host: for tests of the door, not for use.

Everything a client sees through the door is real (processes, pipes, terminals, signals, exit codes), only the wall is
missing. Image
handling, output hubs, events and the merge of configurations are the product's own. What makes it trustworthy is that
the tests which
run on it run on the real daemon too (``tests/api/conftest.py``).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import signal as signals
import struct
import termios
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from hyper.engine.api import Commits, Files, ImageView
from hyper.engine.attachment import HubAttachment
from hyper.engine.create import container_from
from hyper.engine.events import EventLog
from hyper.engine.model import (
    Container,
    ContainerConfig,
    ContainerUpdate,
    EngineInfo,
    Exec,
    ExecConfig,
    LogEntry,
    NetworkAttachment,
    NetworkInfo,
    Processes,
    Status,
    Usage,
    WaitResult,
)
from hyper.engine.names import generate
from hyper.engine.output import OutputHub
from hyper.engine.registries import RegistryUseCases
from hyper.engine.registry import check_name
from hyper.engine.signals import parse_signal
from hyper.engine.update import updated
from hyper.engine.volumes import VolumeUseCases
from hyper.errors import AlreadyExists, Conflict, NotFound, NotModified, PermissionDenied, Unsupported
from hyper.images.catalog import ImageUser
from hyper.images.registry.client import RegistryClient
from hyper.images.store import ImageStore
from hyper.volumes.store import VolumeStore

Condition = Literal["not-running", "next-exit", "removed"]
StreamName = Literal["stdout", "stderr"]


class PipeInput:
    """A process's stdin as the hub wants it."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except (ConnectionError, BrokenPipeError):
            pass  # it closed its stdin

    async def finish(self) -> None:
        self._writer.close()


class TerminalInput:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def write(self, data: bytes) -> None:
        await asyncio.to_thread(os.write, self._descriptor, data)

    async def finish(self) -> None:
        return None


class HostProcess:
    """One process group with its streams going into a hub and a log."""

    def __init__(self, hub: OutputHub, log: list[LogEntry] | None, on_log: Callable[[], None]) -> None:
        self._hub = hub
        self._log = log
        self._on_log = on_log
        self._terminal: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(
        self, argv: Sequence[str], *, env: Sequence[str], cwd: str, tty: bool, stdin: bool, size: tuple[int, int]
    ) -> None:
        variables = dict(item.partition("=")[::2] for item in env)
        variables.setdefault("PATH", os.environ["PATH"])
        options: dict[str, Any] = {"env": variables, "cwd": cwd or "/"}
        _check_program(argv[0], variables["PATH"])
        if tty:
            primary, secondary = os.openpty()
            if size != (0, 0):
                _set_size(primary, *size)
            try:
                self._process = await asyncio.create_subprocess_exec(
                    "setsid", "-c", *argv, stdin=secondary, stdout=secondary, stderr=secondary, **options
                )
            finally:
                os.close(secondary)
            self._terminal = primary
            pumps = [self._pump_terminal(primary)]
            self._hub.input.set_result(TerminalInput(primary) if stdin else None)  # type: ignore[arg-type]
        else:
            pipe = asyncio.subprocess.PIPE
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=pipe if stdin else asyncio.subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
                start_new_session=True,
                limit=1 << 20,
                **options,
            )
            assert self._process.stdout is not None and self._process.stderr is not None
            pumps = [self._pump("stdout", self._process.stdout), self._pump("stderr", self._process.stderr)]
            writer = self._process.stdin
            self._hub.input.set_result(PipeInput(writer) if writer is not None else None)  # type: ignore[arg-type]
        self._task = asyncio.create_task(self._follow(pumps))

    async def _follow(self, pumps: Sequence[Awaitable[None]]) -> None:
        assert self._process is not None
        pumping = asyncio.gather(*pumps)
        code = await self._process.wait()
        self._hub.stop_waiting()
        await pumping
        if self._terminal is not None:
            os.close(self._terminal)
        self._hub.end()
        self.ended.set_result(code if code >= 0 else 128 - code)

    async def _pump(self, name: StreamName, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65536):
            await self._emit(name, data)

    async def _pump_terminal(self, descriptor: int) -> None:
        while True:
            try:
                data = await asyncio.to_thread(os.read, descriptor, 65536)
            except OSError:
                return  # the last process on the terminal has ended
            await self._emit("stdout", data)

    async def _emit(self, name: StreamName, data: bytes) -> None:
        if self._log is not None:
            for line in data.splitlines(keepends=True):
                self._log.append(LogEntry(time_ns=time.time_ns(), stream=name, data=line))
            self._on_log()
        await self._hub.publish(name, data)

    def signal(self, number: int) -> None:
        assert self._process is not None
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass

    def resize(self, rows: int, columns: int) -> None:
        assert self._terminal is not None
        _set_size(self._terminal, rows, columns)
        self.signal(signals.SIGWINCH)


def _set_size(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _check_program(program: str, path: str) -> None:
    candidates = [program] if "/" in program else [f"{folder}/{program}" for folder in path.split(":")]
    found = [item for item in candidates if os.path.exists(item)]
    if not found:
        raise NotFound(f"{program} is not there")
    if not os.access(found[0], os.X_OK) or os.path.isdir(found[0]):
        raise PermissionDenied(f"{program} cannot be executed")


@dataclass
class Managed:
    snapshot: Container
    hub: OutputHub
    process: HostProcess | None = None
    log: list[LogEntry] = field(default_factory=list)
    logged: asyncio.Event = field(default_factory=asyncio.Event)
    waiters: list[tuple[Condition, asyncio.Future[WaitResult]]] = field(default_factory=list)
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def present_process(self) -> HostProcess | None:
        """Once a start under way is over: it may have printed before that."""
        async with self.starting:
            return self.process

    def set_state(self, **changes: Any) -> None:
        state = msgspec.structs.replace(self.snapshot.state, **changes)
        self.snapshot = msgspec.structs.replace(self.snapshot, state=state)

    def notify(self, *conditions: Condition) -> None:
        result = WaitResult(exit_code=self.snapshot.state.exit_code)
        for condition, future in self.waiters:
            if condition in conditions and not future.done():
                future.set_result(result)


class HostContainers:
    def __init__(self, images: ImageStore, events: EventLog) -> None:
        self._images = images
        self._events = events
        self._managed: dict[str, Managed] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, reference: str) -> Managed:
        name = reference.removeprefix("/")
        for item in self._managed.values():
            if name in (item.snapshot.id, item.snapshot.name):
                return item
        found = [item for id_, item in self._managed.items() if name and id_.startswith(name)]
        if len(found) != 1:
            raise NotFound(f"No such container: {reference}")
        return found[0]

    async def create(self, config: ContainerConfig, *, name: str | None) -> tuple[Container, tuple[str, ...]]:
        image = self._images.resolve(config.image)
        if name is not None:
            check_name(name)
        taken = {item.snapshot.name for item in self._managed.values()}
        if name in taken:
            raise AlreadyExists(f'Conflict. The container name "/{name}" is already in use')
        id_ = secrets.token_hex(32)
        container, warnings = container_from(
            config, image, container_id=id_, name=name or generate(taken.__contains__), log_path="", network_ids={}
        )
        self._managed[id_] = Managed(container, OutputHub())
        self._emit(self._managed[id_], "create")
        return container, warnings

    def get(self, reference: str) -> Container:
        return self.find(reference).snapshot

    def sizes(self, reference: str) -> tuple[int, int]:
        return 0, self._images.resolve(self.find(reference).snapshot.image_id).size_bytes

    def list(self) -> Sequence[Container]:
        return sorted(
            (item.snapshot for item in self._managed.values()), key=lambda item: item.created_ns, reverse=True
        )

    def users(self, image_id: str) -> Sequence[ImageUser]:
        return [
            ImageUser(item.snapshot.id, item.snapshot.state.live)
            for item in self._managed.values()
            if item.snapshot.image_id == image_id
        ]

    async def start(self, reference: str) -> Container:
        managed = self.find(reference)
        began = time.monotonic()
        if managed.snapshot.state.live:
            raise NotModified("it runs already")
        container = managed.snapshot
        config = container.config
        process = HostProcess(managed.hub, managed.log, managed.logged.set)
        try:
            async with managed.starting:
                await process.start(
                    (container.path, *container.args),
                    env=config.env,
                    cwd=config.working_dir,
                    tty=config.tty,
                    stdin=config.open_stdin,
                    size=config.console_size,
                )
                managed.process = process
        except (NotFound, PermissionDenied) as error:
            managed.set_state(exit_code=127 if isinstance(error, NotFound) else 126)
            managed.hub.end()
            managed.notify("next-exit", "not-running")
            if config.auto_remove:
                self._drop(managed)
            raise
        managed.set_state(status=Status.RUNNING, pid=process.pid, started_ns=time.time_ns(), finished_ns=0, exit_code=0)
        took_ms = round((time.monotonic() - began) * 1e3, 2)
        managed.snapshot = started = msgspec.structs.replace(
            managed.snapshot,
            networks=(NetworkAttachment(network="bridge", address="192.0.2.2", prefix_length=24),),
            timings_ms={"process": took_ms, "total": took_ms},
        )
        self._emit(managed, "start")
        task = asyncio.create_task(self._follow(managed, process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return started

    async def _follow(self, managed: Managed, process: HostProcess) -> None:
        code = await process.ended
        managed.process = None
        managed.hub = OutputHub()
        managed.set_state(status=Status.EXITED, pid=0, exit_code=code, finished_ns=time.time_ns())
        managed.logged.set()
        self._emit(managed, "die", exitCode=str(code))
        managed.notify("not-running", "next-exit")
        if managed.snapshot.config.auto_remove:
            self._drop(managed)

    def _drop(self, managed: Managed) -> None:
        self._managed.pop(managed.snapshot.id, None)
        managed.notify("removed", "not-running", "next-exit")
        self._emit(managed, "destroy")

    def _running(self, reference: str) -> tuple[Managed, HostProcess]:
        managed = self.find(reference)
        if managed.process is None:
            raise Conflict(f"container {reference} is not running")
        return managed, managed.process

    async def stop(self, reference: str, *, timeout_s: int | None = None, signal: str | None = None) -> None:
        managed = self.find(reference)
        process = await managed.present_process()
        if process is None:
            raise NotModified("it does not run")
        process.signal(parse_signal(signal or managed.snapshot.config.stop_signal or "TERM"))
        process.signal(signals.SIGCONT)
        ended = asyncio.ensure_future(self.wait(reference, "not-running"))
        try:
            await asyncio.wait_for(asyncio.shield(ended), 10 if timeout_s is None else timeout_s)
        except TimeoutError:
            process.signal(signals.SIGKILL)
        await ended
        self._emit(managed, "stop")

    async def restart(self, reference: str, *, timeout_s: int | None = None, signal: str | None = None) -> Container:
        managed = self.find(reference)
        if managed.process is not None:
            await self.stop(reference, timeout_s=timeout_s, signal=signal)
        return await self.start(reference)

    async def kill(self, reference: str, signal: str) -> None:
        number = parse_signal(signal)
        managed = self.find(reference)
        process = await managed.present_process()
        if process is None:
            raise Conflict(f"cannot kill container: {reference}: container {managed.snapshot.id} is not running")
        process.signal(number)
        if number == signals.SIGKILL:
            process.signal(signals.SIGCONT)
            await self.wait(reference, "not-running")
        self._emit(managed, "kill", signal=str(number))

    async def pause(self, reference: str) -> None:
        managed, process = self._running(reference)
        if managed.snapshot.state.status is Status.PAUSED:
            raise Conflict(f"container {managed.snapshot.id} is already paused")
        process.signal(signals.SIGSTOP)
        managed.set_state(status=Status.PAUSED)

    async def unpause(self, reference: str) -> None:
        managed, process = self._running(reference)
        if managed.snapshot.state.status is not Status.PAUSED:
            raise Conflict(f"container {managed.snapshot.id} is not paused")
        process.signal(signals.SIGCONT)
        managed.set_state(status=Status.RUNNING)

    async def rename(self, reference: str, name: str) -> None:
        managed = self.find(reference)
        if any(item.snapshot.name == name for item in self._managed.values()):
            raise AlreadyExists(f'Conflict. The container name "/{name}" is already in use')
        managed.snapshot = msgspec.structs.replace(managed.snapshot, name=name)

    async def update(self, reference: str, changes: ContainerUpdate) -> tuple[str, ...]:
        """Recorded only: these processes have no limits."""
        managed = self.find(reference)
        config = updated(managed.snapshot.config, changes)
        managed.snapshot = msgspec.structs.replace(managed.snapshot, config=config)
        self._emit(managed, "update")
        return ()

    async def remove(self, reference: str, *, force: bool, volumes: bool = False) -> None:
        managed = self.find(reference)
        if managed.process is not None:
            if not force:
                raise Conflict(
                    f'cannot remove container "{managed.snapshot.name}": container is running: stop it first'
                )
            await self.kill(reference, "KILL")
        self._drop(managed)

    async def prune(self, accept: Callable[[Container], bool]) -> tuple[Sequence[str], int]:
        gone = [item for item in self._managed.values() if item.process is None and accept(item.snapshot)]
        for item in gone:
            self._drop(item)
        self._events.emit("container", "prune", "", {"reclaimed": "0"})
        return [item.snapshot.id for item in gone], 0

    async def processes(self, reference: str) -> Processes:
        raise Unsupported("this engine's processes are the host's: ask ps")

    async def usage(self, reference: str) -> Usage | None:
        """These processes have no cgroup: nothing is known of them."""
        self.find(reference)
        return None

    def wait(self, reference: str, condition: Condition) -> Awaitable[WaitResult]:
        managed = self.find(reference)
        future: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
        if condition == "not-running" and not managed.snapshot.state.live:
            future.set_result(WaitResult(exit_code=managed.snapshot.state.exit_code))
        managed.waiters.append((condition, future))
        return future

    async def attach(
        self, reference: str, *, stdin: bool, stdout: bool, stderr: bool, stream: bool, logs: bool
    ) -> HubAttachment:
        managed = self.find(reference)
        wanted = frozenset(name for name, on in (("stdout", stdout), ("stderr", stderr)) if on)
        hub = managed.hub
        if not stream:
            hub = OutputHub()
            hub.end()
        config = managed.snapshot.config
        return HubAttachment(
            hub,
            tty=config.tty,
            stdin=stdin and config.open_stdin and stream,
            streams=wanted,
            history=_history(managed, wanted) if logs else None,
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
        managed = self.find(reference)
        wanted = {name for name, on in (("stdout", stdout), ("stderr", stderr)) if on}

        def chosen(entry: LogEntry) -> bool:
            return entry.stream in wanted and entry.time_ns >= since_ns and (not until_ns or entry.time_ns <= until_ns)

        async def read() -> AsyncIterator[LogEntry]:
            position = len(managed.log)
            past = [entry for entry in managed.log if chosen(entry)]
            for entry in past if tail is None else past[len(past) - min(tail, len(past)) :]:
                yield entry
            while follow:
                managed.logged.clear()
                while position < len(managed.log):
                    entry = managed.log[position]
                    position += 1
                    if chosen(entry):
                        yield entry
                if managed.process is None:
                    return
                await managed.logged.wait()

        return read()

    async def resize(self, reference: str, *, rows: int, columns: int) -> None:
        self._running(reference)[1].resize(rows, columns)

    def _emit(self, managed: Managed, action: str, **attributes: str) -> None:
        container = managed.snapshot
        self._events.emit(
            "container", action, container.id, {"image": container.config.image, "name": container.name, **attributes}
        )

    async def close(self) -> None:
        for managed in self._managed.values():
            if managed.process is not None:
                managed.process.signal(signals.SIGKILL)
        if self._tasks:
            await asyncio.wait(set(self._tasks))


class HostExecs:
    def __init__(self, containers: HostContainers) -> None:
        self._containers = containers
        self._execs: dict[str, Exec] = {}
        self._processes: dict[str, HostProcess] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def create(self, reference: str, config: ExecConfig) -> str:
        managed = self._containers.find(reference)
        if managed.process is None:
            raise Conflict(f"container {managed.snapshot.id} is not running")
        id_ = secrets.token_hex(32)
        self._execs[id_] = Exec(id=id_, container_id=managed.snapshot.id, config=config)
        return id_

    def get(self, exec_id: str) -> Exec:
        if exec_id not in self._execs:
            raise NotFound(f"No such exec instance: {exec_id}")
        return self._execs[exec_id]

    async def start(
        self, exec_id: str, *, detach: bool, console_size: tuple[int, int] = (0, 0)
    ) -> HubAttachment | None:
        exec_ = self.get(exec_id)
        if exec_id in self._processes:
            raise Conflict(f"exec {exec_id} has been started before")
        config = exec_.config
        hub = OutputHub()
        streams = {"stdout"} if config.attach_stdout or config.tty else set()
        streams |= {"stderr"} if config.attach_stderr else set()
        attachment = HubAttachment(
            hub,
            tty=config.tty,
            stdin=config.attach_stdin,
            streams=frozenset(streams),
            end_stdin_with_client=True,
        )
        process = self._processes[exec_id] = HostProcess(hub, None, lambda: None)
        container = self._containers.get(exec_.container_id)
        try:
            await process.start(
                config.command,
                env=(*container.config.env, *config.env),
                cwd=config.working_dir or container.config.working_dir,
                tty=config.tty,
                stdin=config.attach_stdin and not detach,
                size=console_size,
            )
        except (NotFound, PermissionDenied) as error:
            code = 127 if isinstance(error, NotFound) else 126
            self._execs[exec_id] = msgspec.structs.replace(exec_, exit_code=code)
            hub.end()
            raise
        self._execs[exec_id] = msgspec.structs.replace(exec_, running=True, pid=process.pid)
        task = asyncio.create_task(self._follow(exec_id, process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if detach:
            await attachment.close()
            return None
        return attachment

    async def _follow(self, exec_id: str, process: HostProcess) -> None:
        code = await process.ended
        self._execs[exec_id] = msgspec.structs.replace(self._execs[exec_id], running=False, exit_code=code)

    async def resize(self, exec_id: str, *, rows: int, columns: int) -> None:
        self.get(exec_id)
        process = self._processes.get(exec_id)
        if process is None or not process.started or process.ended.done():
            raise Conflict(f"exec {exec_id} is not running")
        process.resize(rows, columns)

    async def close(self) -> None:
        for process in self._processes.values():
            if process.started and not process.ended.done():
                process.signal(signals.SIGKILL)
        if self._tasks:
            await asyncio.wait(set(self._tasks))


class HostImages:
    """The product's own store behind the same face as the engine's."""

    def __init__(self, store: ImageStore, containers: HostContainers, events: EventLog) -> None:
        self._store = store
        self._containers = containers
        self._events = events

    async def load(self, stream: AsyncIterator[bytes], *, progress: Callable[[Any], None]) -> Sequence[Any]:
        return await self._store.load(stream, progress=progress)

    async def import_root(
        self,
        stream: AsyncIterator[bytes],
        *,
        reference: str | None,
        changes: Sequence[str],
        message: str,
        platform: str | None,
    ) -> ImageView:
        return await self._store.import_root(
            stream, reference=reference, changes=changes, message=message, platform=platform
        )

    def resolve(self, name_or_id: str) -> ImageView:
        return self._store.resolve(name_or_id)

    def list(self) -> Sequence[ImageView]:
        return self._store.list()

    def tag(self, source: str, target: str) -> None:
        self._store.tag(source, target)
        self._events.emit("image", "tag", self._store.resolve(target).id, {"name": target})

    def remove(self, name_or_id: str, *, force: bool) -> Sequence[Any]:
        return self._store.remove(name_or_id, force=force, in_use=self._containers.users)

    def save(self, names: Sequence[str]) -> AsyncGenerator[bytes, None]:
        return self._store.save(names)

    def prune(self, accept: Callable[[ImageView], bool]) -> tuple[Sequence[Any], int]:
        before, removals = self._store.layers_bytes(), list[Any]()
        for image in self._store.list():
            if accept(image) and not self._containers.users(image.id):
                for name in image.references or (image.id,):
                    removals += self.remove(name, force=not image.references)
        return removals, before - self._store.layers_bytes()

    def layers_bytes(self) -> int:
        return self._store.layers_bytes()

    def history(self, name_or_id: str) -> Sequence[Any]:
        return self._store.history(name_or_id)


class HostEngine:
    """Implements ``hyper.engine.api.Engine``. ``close`` ends every process."""

    def __init__(self, images: ImageStore, volumes: VolumeStore, registry_client: RegistryClient) -> None:
        self.events = EventLog()
        self.containers = HostContainers(images, self.events)
        self.volumes = VolumeUseCases(volumes, self.containers.list, self.events)
        self.execs = HostExecs(self.containers)
        self.images = HostImages(images, self.containers, self.events)
        self.registries = RegistryUseCases(images, registry_client, self.events)

    @property
    def commits(self) -> Commits:
        raise Unsupported("processes of the host have no file systems of their own")

    @property
    def files(self) -> Files:
        raise Unsupported("processes of the host have no file systems of their own")

    def networks(self) -> Sequence[NetworkInfo]:
        return (
            NetworkInfo(name="bridge", id="b" * 64, driver="bridge", subnet="192.0.2.0/24", gateway="192.0.2.1"),
            NetworkInfo(name="none", id="0" * 64, driver="null"),
        )

    async def info(self) -> EngineInfo:
        states = [item.state.status for item in self.containers.list()]
        return EngineInfo(
            id="host",
            data_root="/nowhere",
            exec_root="/nowhere",
            hypervisor="none",
            hypervisor_version="",
            accelerator="none",
            accelerator_reason="processes of the host, for tests",
            kernel_kind="host",
            kernel_release=os.uname().release,
            kernel_path="",
            agent_version="",
            template="none",
            pool="switched off",
            storage="none",
            default_memory_bytes=0,
            default_cpus=1,
            live_restore=False,
            containers_running=states.count(Status.RUNNING),
            containers_paused=states.count(Status.PAUSED),
            containers_stopped=len(states) - states.count(Status.RUNNING) - states.count(Status.PAUSED),
            images=len(self.images.list()),
        )

    async def close(self) -> None:
        await self.execs.close()
        await self.containers.close()


async def _history(managed: Managed, wanted: frozenset[str]) -> AsyncIterator[Any]:
    for entry in tuple(managed.log):
        if entry.stream in wanted:
            yield entry.stream, entry.data
