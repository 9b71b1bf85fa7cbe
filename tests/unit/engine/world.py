"""A whole engine over fake machines, whose guests speak the real agent protocol and do as a test tells them.

Real: records, images, writable layers, sandboxes, agent link, engine. Fake: the hypervisor (the verified one) and what
runs behind the agent's socket.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.unit.guest.agent_model import ModelAgent, Port
from tests.unit.images.store_tools import docker_archive, image, layer, stream

from hyper.engine.api import Attachment
from hyper.engine.engine import EngineSettings, LiveEngine
from hyper.engine.model import Container, ContainerConfig
from hyper.errors import FailedPrecondition, HyperError, NotFound
from hyper.guest.agent import Agent
from hyper.guest.kernel import KernelSettings
from hyper.hypervisors.base import KernelImage, VmmExit
from hyper.hypervisors.fake import FakeHost, FakeHypervisor
from hyper.hypervisors.qemu.settings import QemuSettings
from hyper.images.registry.client import RegistryClient
from hyper.images.registry.settings import RegistrySettings
from hyper.images.store import ImageStore
from hyper.images.writable import WritableDisks
from hyper.metrics import Metrics
from hyper.sandboxes.boot_image import GuestSettings
from hyper.sandboxes.source import SandboxSettings, SandboxSource
from hyper.system.database import Database
from hyper.system.memfd import BoundedLog
from hyper.system.processes import Process
from hyper.volumes.file_server import FileServer, SharedTree
from hyper.volumes.store import VolumeStore

IMAGE = "tool:latest"


class Guest:
    """One machine's inside. Processes do nothing by themselves: tests make them print and exit."""

    def __init__(self, world: World, sandbox_id: str) -> None:
        self.world = world
        self.sandbox_id = sandbox_id
        self.model = ModelAgent(Path("/nonexistent"), self._handle)
        self.containers: dict[str, dict[str, Any]] = {}
        self.ignored_signals: set[int] = set()
        self.forgotten: list[str] = []
        self.files: dict[str, bytes] = {"/file": b"content"}
        self.changes = b"C/etc\0A/etc/x\0D/y\0"
        self.stalled = False
        """Nothing that is read ever ends."""
        self.closed_streams: list[int] = []
        self.interfaces: Any = None
        """As the last configuration had them."""
        self.memory_stat = {"anon": 0, "active_file": 0, "inactive_file": 0, "slab_reclaimable": 0}
        """What the container's processes use."""

    # -- what tests make happen

    def process(self, exec_id: str = "", *, container_id: str = "") -> dict[str, Any]:
        """Of the container, or of the only one."""
        [container] = [self.containers[container_id]] if container_id else self.containers.values()
        return next(process for process in container["processes"] if process["process"] == exec_id)

    def print(self, data: bytes, *, exec_id: str = "", stream: str = "io", container_id: str = "") -> None:
        self.model.output(self.process(exec_id, container_id=container_id)["stdio"][stream], data)

    def exit(
        self,
        code: int = 0,
        *,
        exec_id: str = "",
        signal: int | None = None,
        execs_first: bool = True,
        container_id: str = "",
    ) -> None:
        """Streams end, then the event, as the agent does it; an init takes the container with it, and its execs, which
        are mostly told of first."""
        if not container_id:
            [container_id] = self.containers
        container = self.containers[container_id]
        process = self.process(exec_id, container_id=container_id)
        if not exec_id and execs_first:
            for other in container["processes"]:
                if other["process"] and other["status"] == "running":
                    self.exit(137, exec_id=other["process"], signal=9, container_id=container_id)
        process.update(status="exited", exit_code=code, signal=signal, exited_ns=time.time_ns())
        if not exec_id:
            container["status"] = "stopped"
        for name in ("io", "stderr"):
            if process["stdio"][name] is not None:
                self.model.output(process["stdio"][name], end=True)
        self.model.event(
            "process.exited",
            {
                "id": container_id,
                "exec_id": exec_id,
                "exit_code": code,
                "signal": signal,
                "exited_ns": process["exited_ns"],
                "oom_killed": False,
            },
        )

    # -- the agent

    def _handle(self, method: str, params: dict[str, Any]) -> Any:
        fault = self.world.faults.get(method)
        if isinstance(fault, HyperError):
            raise fault
        if fault == "silent":
            return None
        answer: Any = getattr(self, "_" + method.replace(".", "_"), lambda params: {})(params)
        if callable(fault):
            fault(self)
        self.world.reached.setdefault(method, asyncio.Event()).set()
        return answer

    def _new_process(self, name: str, stdio: dict[str, Any], tty: bool, status: str) -> dict[str, Any]:
        if stdio["stdin"]:
            self.model.input(stdio["io"])
        started_ns = time.time_ns() if status == "running" else None
        common = {"exit_code": None, "signal": None, "exited_ns": None, "started_ns": started_ns}
        return {"process": name, "pid": 42, "status": status, "stdio": stdio, "tty": tty, **common}

    def _container_create(self, params: dict[str, Any]) -> Any:
        init = self._new_process("", params["stdio"], params["spec"]["process"].get("terminal", False), "created")
        self.containers[params["id"]] = {
            "id": params["id"],
            "status": "created",
            "pid": 42,
            "oom_killed": False,
            "processes": [init],
            "spec": params["spec"],
            "share": params.get("share"),
        }
        return {"pid": 42}

    def _container_start(self, params: dict[str, Any]) -> Any:
        container = self.containers[params["id"]]
        container["status"] = container["processes"][0]["status"] = "running"
        container["processes"][0]["started_ns"] = time.time_ns()
        return {"started_ns": container["processes"][0]["started_ns"]}

    def _container_signal(self, params: dict[str, Any]) -> Any:
        if self.process(container_id=params["id"])["status"] != "running":
            raise NotFound(f"container {params['id']} has no live process")
        number = params["signal"]
        if number not in self.ignored_signals:
            self.exit(128 + number, signal=number, container_id=params["id"])
        return {}

    def _container_delete(self, params: dict[str, Any]) -> Any:
        if self.containers.pop(params["id"], None) is None:
            raise NotFound(f"no container {params['id']} in this sandbox")
        return {}

    def _sandbox_configure(self, params: dict[str, Any]) -> Any:
        self.interfaces = params.get("interfaces")
        return {}

    def _container_pause(self, params: dict[str, Any]) -> Any:
        self.containers[params["id"]]["status"] = "paused"
        return {}

    def _container_resume(self, params: dict[str, Any]) -> Any:
        container = self.containers[params["id"]]
        if container["status"] == "paused":
            container["status"] = "running"
        return {}

    def _container_stats(self, _params: dict[str, Any]) -> Any:
        counts = dict.fromkeys(("cpu_usage_ns", "cpu_user_ns", "cpu_system_ns", "pids", "oom_kills"), 0)
        memory = {"memory_bytes": sum(self.memory_stat.values()), "memory_stat": self.memory_stat}
        return {**counts, **memory, "memory_limit_bytes": None, "pids_limit": None, "io": [], "networks": {}}

    def _process_exec(self, params: dict[str, Any]) -> Any:
        process = self._new_process(params["exec_id"], params["stdio"], params["process"]["terminal"], "running")
        self.containers[params["id"]]["processes"].append(process)
        return {"pid": 43, "started_ns": time.time_ns()}

    def _process_forget(self, params: dict[str, Any]) -> Any:
        self.forgotten.append(params["exec_id"])
        container = self.containers[params["id"]]
        container["processes"] = [one for one in container["processes"] if one["process"] != params["exec_id"]]
        return {}

    def _files_stat(self, params: dict[str, Any]) -> Any:
        if params["path"] not in self.files:
            raise NotFound(f"lstat {params['path']}: no such file or directory")
        size = len(self.files[params["path"]])
        return {
            "name": params["path"].rpartition("/")[2],
            "size": size,
            "mode": 0o100644,
            "mtime_ns": 1,
            "link_target": "",
        }

    def _files_read(self, params: dict[str, Any]) -> Any:
        return self._files_out(params, self.files[params["path"]])

    def _files_changes(self, params: dict[str, Any]) -> Any:
        return self._files_out(params, self.changes)

    def _files_out(self, params: dict[str, Any], content: bytes) -> Any:
        self.model.output(params["stream"], content, end=not self.stalled)
        return None if self.stalled else {}

    def _files_close(self, params: dict[str, Any]) -> Any:
        self.closed_streams.append(params["stream"])
        return {}

    def _sandbox_state(self, _params: dict[str, Any]) -> Any:
        containers = [
            {name: value for name, value in container.items() if name not in ("spec", "share")}
            for container in self.containers.values()
        ]
        memory = {"total_bytes": 1, "available_bytes": 1}
        return {"containers": containers, "uptime_ns": 1, "kernel": "6.1", "memory": memory}

    def _sandbox_resize(self, params: dict[str, Any]) -> Any:
        return {"cpus": params["cpus"] or 1, "memory_bytes": params["memory_bytes"] or 1}

    def _sandbox_shutdown(self, _params: dict[str, Any]) -> Any:
        self.world.spawn(self.world.power_off(self.sandbox_id))
        return {}


@dataclass
class Daemon:
    """What one hyperd process has open."""

    engine: LiveEngine
    source: SandboxSource
    database: Database
    images: ImageStore
    metrics: Metrics

    async def leave(self, *, stop_containers: bool = False) -> None:
        await self.engine.close(stop_containers=stop_containers)
        await self.source.close()
        await self.images.close()
        self.database.close()


@dataclass
class World:
    """A host: one data root, machines that outlive daemons, and what is to go wrong in the guests: an error, "silent",
    or something to happen before the answer, by method."""

    folder: Path
    guests: dict[str, Guest] = field(default_factory=dict)
    faults: dict[str, HyperError | str | Callable[[Guest], None]] = field(default_factory=dict)
    reached: dict[str, asyncio.Event] = field(default_factory=dict)
    booting: asyncio.Event = field(default_factory=asyncio.Event)
    may_boot: asyncio.Event = field(default_factory=asyncio.Event)
    """Set unless a test wants to look at a start that is under way."""
    daemons: list[Daemon] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    shared: list[tuple[SharedTree, ...]] = field(default_factory=list)
    """What was to be served, sandbox by sandbox."""

    def __post_init__(self) -> None:
        self.host = FakeHost(self._talk)
        self.may_boot.set()

    def spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def power_off(self, sandbox_id: str) -> None:
        for machine in self.host.machines.values():
            if machine.spec.sandbox_id == sandbox_id:
                await machine.end(VmmExit(True, "powered off"))

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sandbox_id = Path(writer.get_extra_info("sockname")).parent.name
        guest = self.guests.setdefault(sandbox_id, Guest(self, sandbox_id))
        port = Port(guest.model)
        port.connection_made(writer.transport)
        try:
            while data := await reader.read(65536):
                port.data_received(data)
        finally:
            port.connection_lost(None)

    async def _connect(self, socket: Path, *, instance: str, first: bool, deadline_s: float) -> Agent:
        self.booting.set()
        await self.may_boot.wait()
        return await Agent.connect(socket, instance=instance, first=first, deadline_s=deadline_s)

    async def _serve(self, runtime_dir: Path, trees: Sequence[SharedTree]) -> tuple[FileServer, socket.socket]:
        """As the real one, but that nobody serves anything."""
        for tree in trees:
            if not tree.source.exists() and not tree.make:
                raise FailedPrecondition(f"bind source path does not exist: {tree.source}")
        self.shared.append(tuple(trees))
        log = BoundedLog.create("fake", 4096)
        process = await Process.spawn(["sleep", "1000"], uid=0, pass_fds=[], stdout=log.writer, stderr=log.writer)
        ours, theirs = socket.socketpair()
        theirs.close()
        return FileServer(process, log), ours

    async def daemon(self) -> LiveEngine:
        """Start a hyperd on this host."""
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        boot_file = self.folder / "image"
        boot_file.touch()
        database = Database(data / "state.db")
        images = await ImageStore.open(data, database)
        disks = await WritableDisks.open(data)
        source = SandboxSource(
            SandboxSettings(
                runtime_dir=self.folder / "run",
                guest=GuestSettings(KernelSettings(self.folder), boot_file, self.folder),
                qemu=QemuSettings("test", self.folder, self.folder),
                uid_lock_file=self.folder / "uids",
            ),
            connect=self._connect,
            serve=self._serve,
            hypervisor=lambda _identities, _image, _alive: FakeHypervisor(self.host),
        )
        settings = EngineSettings(id="test", data_root=data, exec_root=self.folder / "run", rootfs_bytes=16 << 20)
        metrics = Metrics()
        volumes = await VolumeStore.open(data, database)
        engine = LiveEngine(
            settings,
            database,
            images,
            disks,
            volumes,
            source,
            None,
            "not in this test",
            metrics,
            RegistryClient(RegistrySettings()),
        )
        self.daemons.append(Daemon(engine, source, database, images, metrics))
        await engine.open()
        if not images.list():
            made = image(layer({"bin/tool": b"#!"}), Cmd=["/bin/tool"], StopSignal="NONSENSE")
            await images.load(stream(docker_archive({IMAGE: made})), progress=lambda _: None)
        return engine

    async def next_daemon(self) -> LiveEngine:
        """The present one goes and leaves everything running."""
        await self.daemons.pop().leave()
        return await self.daemon()

    async def close(self) -> None:
        for daemon in self.daemons:
            await daemon.leave()
        await self.host.close()

    @property
    def guest(self) -> Guest:
        """The one that lives."""
        [sandbox_id] = self.alive()
        return self.guests[sandbox_id]

    def alive(self) -> list[str]:
        return [machine.spec.sandbox_id for machine in self.host.machines.values() if machine.exit is None]

    def sandbox_files(self) -> list[str]:
        return [path.name for path in (self.folder / "run" / "vm").iterdir()]

    def container_files(self) -> set[str]:
        data = self.folder / "data"
        return {path.name for part in ("containers", "writable") for path in (data / part).glob("*")}

    def recorded_sandboxes(self) -> int:
        return int(self.daemons[-1].database.query("SELECT count(*) AS n FROM sandboxes")[0]["n"])

    def assert_no_vm_is_left(self) -> None:
        assert (self.alive(), self.sandbox_files(), self.recorded_sandboxes()) == ([], [], 0)


def config(**changes: Any) -> ContainerConfig:
    return ContainerConfig(**{"image": "tool", "network_mode": "none", **changes})


async def running(engine: LiveEngine, **changes: Any) -> Container:
    container, _ = await engine.containers.create(config(**changes), name=None)
    await engine.containers.start(container.id)
    return engine.containers.get(container.id)


async def everything(attachment: Attachment) -> bytes:
    return b"".join([data async for _, data in attachment.output()])


BOOT_IMAGE = KernelImage(Path("/dev/null"), Path("/dev/null"), "")


async def until(true: Callable[[], bool]) -> None:
    """When it is so: for what travels through sockets; the test's own time limit is the limit."""
    while not true():  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)
