"""A guest's agent that lies, for tests: it speaks the protocol well until the test has it do otherwise.

It sits behind the fake hypervisor (``hyper.hypervisors.fake``), which hands it each connection. :class:`World` puts a
whole daemon's engine and API around it, without a VM, so that what a taken-over guest can do to ``hyperd`` is tried in
milliseconds. ``tests/integration/test_hostile_guest.py`` uses it.
"""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.api.client import Answer, request

from hyper.api.docker.app import DockerApi
from hyper.api.http.server import HttpServer
from hyper.engine.engine import EngineSettings, LiveEngine
from hyper.guest.agent import Agent
from hyper.guest.kernel import KernelSettings
from hyper.guest.protocol import HELLO_MAGIC, FrameType, encode, encode_ack
from hyper.hypervisors.base import KernelImage
from hyper.hypervisors.fake import FakeHost, FakeHypervisor
from hyper.hypervisors.qemu.settings import QemuSettings
from hyper.images import builtin
from hyper.images.registry.client import RegistryClient
from hyper.images.registry.settings import RegistrySettings
from hyper.images.store import ImageStore
from hyper.images.writable import WritableDisks
from hyper.metrics import Metrics
from hyper.sandboxes.boot_image import BootImage, GuestSettings
from hyper.sandboxes.source import SandboxSettings, SandboxSource
from hyper.system.database import Database
from hyper.system.identities import Identities
from hyper.volumes.store import VolumeStore

WINDOW = 256 * 1024
_HEADER = struct.Struct("<BBHIIQ")


class Machine:
    """What one guest remembers over its connections."""

    def __init__(self) -> None:
        self.container = ""
        self.stdio: dict[str, Any] = {}
        self.tty = False
        self.connections = 0
        self.instance = ""


class Peer:
    """One connection, from the guest's side."""

    def __init__(self, machine: Machine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.machine = machine
        self.reader = reader
        self.writer = writer
        self.nonce = 0
        self.sent = 0
        self.messages = bytearray()
        self.taken = 0

    async def handshake(self, **welcome: Any) -> None:
        """Skip to the HELLO and answer it; ``welcome`` replaces members of the answer."""
        while not (first := await self.reader.readexactly(1)).strip(b"\0"):
            pass  # padding
        length = _HEADER.unpack(first + await self.reader.readexactly(_HEADER.size - 1))[3]
        payload = (await self.reader.readexactly(length + 4))[:-4]
        hello = json.loads(payload.removeprefix(HELLO_MAGIC))
        self.nonce = hello["nonce"]
        resumed = hello["instance"] == self.machine.instance
        self.machine.instance = hello["instance"]
        text = {"version": 1, "agent": "hostile", "boot_id": "b", "resumed": resumed, **welcome}
        self.raw(FrameType.WELCOME, 0, 0, bytes.fromhex(hello["echo"]) + json.dumps(text).encode())
        self.writer.write(encode_ack(0, 0, WINDOW, self.nonce))
        await self.writer.drain()

    def raw(self, kind: int, stream: int, offset: int, payload: bytes, flags: int = 0) -> None:
        self.writer.write(encode(kind, stream, offset, payload, self.nonce, flags))

    async def control(self, data: bytes) -> None:
        """Bytes of stream 0, whatever they are."""
        for begin in range(0, len(data), 65_536):
            part = data[begin : begin + 65_536]
            self.raw(FrameType.DATA, 0, self.sent, part)
            self.sent += len(part)
            await self.writer.drain()

    async def send(self, message: object) -> None:
        text = message if isinstance(message, bytes) else json.dumps(message).encode()
        await self.control(struct.pack("<I", len(text)) + text)

    async def event(self, name: str, **params: Any) -> None:
        await self.send({"event": name, "params": params})

    async def exited(self, **changes: Any) -> None:
        """The container's end, or a lie about it."""
        params = {"id": self.machine.container, "exec_id": "", "exit_code": 0, "signal": None}
        params |= {"exited_ns": time.time_ns(), "oom_killed": False}
        await self.event("process.exited", **(params | changes))

    def output(self, offset: int, data: bytes, *, end: bool = False, name: str = "io") -> None:
        self.raw(FrameType.DATA, self.machine.stdio[name], offset, data, int(end))

    def close_outputs(self) -> None:
        for name in ("io", "stderr"):
            if self.machine.stdio[name] is not None:
                self.output(0, b"", end=True, name=name)

    async def requests(self) -> AsyncIterator[dict[str, Any]]:
        while True:
            header = await self.reader.readexactly(_HEADER.size)
            kind, _flags, _zero, length, stream, _offset = _HEADER.unpack(header)
            payload = (await self.reader.readexactly(length + 4))[:-4]
            if kind == FrameType.BYE:
                return
            if kind != FrameType.DATA or stream != 0:
                continue
            self.messages += payload
            self.taken += length
            self.writer.write(encode_ack(0, self.taken, self.taken + WINDOW, self.nonce))
            while len(self.messages) >= 4:
                end = 4 + struct.unpack_from("<I", self.messages)[0]
                if len(self.messages) < end:
                    break
                message = json.loads(self.messages[4:end])
                del self.messages[:end]
                yield message

    def process_state(self) -> dict[str, Any]:
        return {
            "process": "",
            "pid": 7,
            "status": "running",
            "exit_code": None,
            "signal": None,
            "started_ns": 1,
            "exited_ns": None,
            "stdio": self.machine.stdio,
            "tty": self.machine.tty,
        }

    def container_state(self) -> dict[str, Any]:
        processes = [self.process_state()]
        return {
            "id": self.machine.container,
            "status": "running",
            "pid": 7,
            "oom_killed": False,
            "processes": processes,
        }

    def state(self) -> dict[str, Any]:
        containers = [self.container_state()] if self.machine.container else []
        memory = {"total_bytes": 1, "available_bytes": 1}
        return {"containers": containers, "uptime_ns": 1, "kernel": "6.1", "memory": memory}


class Behaviour:
    """What a guest does; the methods here are a good one's. Override, or assign."""

    async def connection(self, peer: Peer) -> None:
        await peer.handshake()
        async for message in peer.requests():
            await self.request(peer, message["id"], message["method"], message["params"])

    async def request(self, peer: Peer, number: int, method: str, params: dict[str, Any]) -> None:
        result: Any = {}
        if method == "container.create":
            peer.machine.container, peer.machine.stdio = params["id"], params["stdio"]
            peer.machine.tty = params["spec"]["process"].get("terminal", False)
            result = {"pid": 7}
        elif method == "container.start":
            result = {"started_ns": time.time_ns()}
        elif method == "process.exec":
            result = {"pid": 8, "started_ns": time.time_ns()}
        elif method == "sandbox.state":
            result = peer.state()
        elif method == "sandbox.ping":
            result = {"time_ns": 1}
        await peer.send({"id": number, "result": result})
        if method == "container.start":
            await self.running(peer)
        elif method == "container.signal" and params["signal"] == 9:
            peer.close_outputs()
            await peer.exited(exit_code=137, signal=9)

    async def running(self, peer: Peer) -> None:
        """Right after ``container.start`` was answered."""


class World:
    """A daemon's engine and API over fake machines. A machine behaves as :attr:`behaviour` says when it is started
    (and, if :attr:`all_change`, at each later connection)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "s"
        self.behaviour = Behaviour()
        self.all_change = False
        self.host = FakeHost(self._guest)
        self._behaviours: dict[str, tuple[Machine, Behaviour]] = {}
        self._opened: AsyncExitStack | None = None
        self.engine: LiveEngine

    async def _guest(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = str(writer.get_extra_info("sockname"))
        machine, behaviour = self._behaviours.setdefault(name, (Machine(), self.behaviour))
        if self.all_change:
            behaviour = self.behaviour
        machine.connections += 1
        try:
            await behaviour.connection(Peer(machine, reader, writer))
        except asyncio.IncompleteReadError:
            pass  # the host has hung up

    async def start(self, *, call_timeout_s: float = 1.0) -> None:
        """A daemon's start: recovery, then the API."""
        stack = AsyncExitStack()
        database = Database(self.folder / "state.db")
        stack.callback(database.close)
        images = await ImageStore.open(self.folder, database)
        stack.push_async_callback(images.close)
        if not images.list():
            await builtin.install(images)
        disks = await WritableDisks.open(self.folder)
        volumes = await VolumeStore.open(self.folder, database)
        image = self.folder / "image"
        image.touch()
        settings = SandboxSettings(
            runtime_dir=self.folder,
            guest=GuestSettings(KernelSettings(self.folder), image, self.folder),
            qemu=QemuSettings("test", self.folder, self.folder),
            uid_lock_file=self.folder / "uids",
            boot_timeout_s=2.0,
        )

        def driver(
            _identities: Identities, _image: Callable[[], KernelImage], _alive: Callable[[Path], Awaitable[bool]]
        ) -> FakeHypervisor:
            return FakeHypervisor(self.host)

        connect = functools.partial(Agent.connect, call_timeout_s=call_timeout_s)
        source = SandboxSource(settings, connect=connect, hypervisor=driver)
        stack.push_async_callback(source.close)
        engine = EngineSettings(id="test", data_root=self.folder, exec_root=self.folder, rootfs_bytes=16 << 20)
        self.engine = LiveEngine(
            engine,
            database,
            images,
            disks,
            volumes,
            source,
            None,
            "none in this test",
            Metrics(),
            RegistryClient(RegistrySettings()),
        )
        await self.engine.open()
        stack.push_async_callback(self.engine.close, stop_containers=False)
        server = HttpServer(DockerApi(self.engine))
        stack.push_async_callback(server.close)
        listener = socket.socket(socket.AF_UNIX)
        self.socket.unlink(missing_ok=True)
        listener.bind(str(self.socket))
        await server.listen(listener)
        self._opened = stack

    async def stop(self) -> None:
        """As a crash: the machines stay."""
        if self._opened is not None:
            stack, self._opened = self._opened, None
            await stack.aclose()

    async def close(self) -> None:
        await self.stop()
        await self.host.close()

    async def http(self, method: str, path: str, body: object = None, *, timeout_s: float = 30) -> Answer:
        """A client's request, validated against the API file."""
        return await asyncio.to_thread(request, self.socket, method, path, body, timeout_s=timeout_s)

    async def create(self, name: str, **config: object) -> None:
        body = {"Image": "busybox", "Cmd": ["cat"], "HostConfig": {"NetworkMode": "none"}, **config}
        answer = await self.http("POST", f"/containers/create?name={name}", body)
        assert answer.status == 201, answer.body

    async def state(self, name: str) -> dict[str, Any]:
        answer = (await self.http("GET", f"/containers/{name}/json")).json["State"]
        assert isinstance(answer, dict)
        return answer


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """A started world; at its end no machine, no folder of one and no writable disk may be left."""
    made = World(folder)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


def pretend_boot_image(monkeypatch: Any, folder: Path) -> None:
    """A kernel and initramfs that the fake hypervisor can open."""
    from types import SimpleNamespace

    image = folder / "image"
    kernel = SimpleNamespace(kind="test", release="6.1", vmlinux=image)
    prepared = SimpleNamespace(kernel=kernel, image=lambda *, emulated: KernelImage(image, image, ""))
    monkeypatch.setattr(BootImage, "prepare", lambda _settings: prepared)
