"""A host with fake machines, whose agents do as a test tells them: what the tests of sandboxes stand on.

Real: sources, makers, templates, pools, memory files, runtime directories. Fake: the hypervisor (the verified one) and
the agent.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from hyper.errors import HyperError
from hyper.guest.agent import Agent
from hyper.guest.kernel import KernelSettings
from hyper.guest.messages import Configuration, Interface, Resized
from hyper.hypervisors.base import KernelImage, VmmExit
from hyper.hypervisors.fake import FakeHost, FakeHypervisor, FakeMachine
from hyper.hypervisors.qemu.settings import QemuSettings
from hyper.sandboxes.boot_image import GuestSettings
from hyper.sandboxes.pool import PoolSettings
from hyper.sandboxes.sizing import SizingSettings
from hyper.sandboxes.source import (
    Card,
    Sandbox,
    SandboxConfig,
    SandboxRecord,
    SandboxRequest,
    SandboxSettings,
    SandboxSource,
)
from hyper.system.identities import Identities

MIB = 1 << 20
MARK_AT = 5 * MIB
"""Where the rehearsal of a template leaves a trace in its memory."""

Fault = HyperError | OSError | str
"""Raised; or "hang"."""


class ScriptedAgent:
    """An agent whose answers a test chooses; remembers what it was told."""

    version = "9.9"

    def __init__(self, world: World, sandbox_id: str) -> None:
        self.world = world
        self.sandbox_id = sandbox_id
        self.configured: Configuration | None = None
        self.resized: list[tuple[int | None, int | None]] = []
        self.skipped = 0
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.released = False

    def skip_streams(self, first: int) -> None:
        self.skipped = first

    async def ping(self, *, timeout_s: float = 5.0) -> int:
        await self.world.step("ping")
        return 1

    async def configure(self, configuration: Configuration) -> None:
        await self.world.step("configure")
        self.configured = configuration

    async def resize(self, cpus: int | None = None, memory_bytes: int | None = None) -> Resized:
        await self.world.step("resize")
        self.resized.append((cpus, memory_bytes))
        return Resized(cpus or 1, memory_bytes or 1)

    async def shutdown(self) -> None:
        await self.world.step("shutdown")
        for machine in self.world.host.machines.values():
            await machine.end(VmmExit(True, "powered off"))

    async def closed(self) -> str:
        return await asyncio.shield(self.lost)

    async def release(self) -> None:
        self.released = True
        if not self.lost.done():
            self.lost.set_result("released")


@dataclass
class World:
    """A host, and where a test makes things go wrong: by step, for ever (``faults``) or for the next (``next``)."""

    folder: Path
    host: FakeHost
    faults: dict[str, Fault] = field(default_factory=dict)
    next: dict[str, list[Fault | None]] = field(default_factory=dict)
    """None: this one goes well."""
    reached: dict[str, asyncio.Event] = field(default_factory=dict)
    agents: list[ScriptedAgent] = field(default_factory=list)
    firsts: list[bool] = field(default_factory=list)
    records: list[SandboxRecord] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    sources: list[SandboxSource] = field(default_factory=list)
    taps: list[int] = field(default_factory=list)
    rehearsed: list[Sandbox] = field(default_factory=list)
    free_memory: int = 16 << 30
    """Of 16 GiB."""

    async def step(self, name: str) -> None:
        self.reached.setdefault(name, asyncio.Event()).set()
        coming = self.next.get(name)
        fault = coming.pop(0) if coming else self.faults.get(name)
        if fault == "hang":
            await asyncio.Event().wait()
        if isinstance(fault, Exception):
            raise fault

    def reach(self, step: str) -> asyncio.Event:
        """Set when somebody gets to it from now on."""
        self.reached[step] = asyncio.Event()
        return self.reached[step]

    async def connect(self, socket: Path, *, instance: str, first: bool, deadline_s: float) -> Agent:
        assert len(instance) == 32
        self.firsts.append(first)
        await self.step("connect")
        self.agents.append(ScriptedAgent(self, socket.parent.name))
        return cast(Agent, self.agents[-1])

    def source(
        self, *, templates: bool = False, pool: int = 0, shared_pool: int = 0, default_memory_bytes: int = 2 << 30
    ) -> SandboxSource:
        """A daemon's; another call is the next daemon's."""
        image = self.folder / "image"
        image.touch()
        settings = SandboxSettings(
            runtime_dir=self.folder / "run",
            guest=GuestSettings(KernelSettings(self.folder), image, self.folder),
            qemu=QemuSettings("test", self.folder, self.folder),
            sizing=SizingSettings(default_memory_bytes=default_memory_bytes),
            uid_lock_file=self.folder / "uids",
            template_folder=self.folder / "templates" if templates else None,
            pool=PoolSettings(pool, shared_pool),
        )

        def driver(
            identities: Identities, image: Callable[[], KernelImage], alive: Callable[[Path], Awaitable[bool]]
        ) -> FakeHypervisor:
            return FakeHypervisor(self.host)

        source = SandboxSource(settings, cards=self.card, connect=self.connect, hypervisor=driver)
        source.on_record = self.records.append
        source.on_gone = self.gone.append
        source.rehearse = self.rehearse
        self.sources.append(source)
        return source

    async def rehearse(self, sandbox: Sandbox) -> None:
        await self.step("rehearse")
        self.rehearsed.append(sandbox)
        memory = self.machine(sandbox.id).memory
        assert memory is not None
        memory[MARK_AT : MARK_AT + 4] = b"mark"

    def request(
        self,
        *,
        memory_bytes: int | None = None,
        cpus: float | None = None,
        card: bool = False,
        shared_memory: bool = False,
    ) -> SandboxRequest:
        interfaces = (Interface(mac="02:00:00:00:00:09", name="eth0"),) if card else ()
        return SandboxRequest("", memory_bytes, cpus, SandboxConfig("box", interfaces), shared_memory)

    def card(self) -> Card:
        """A spare card whose tap is any file."""
        fault = self.faults.get("card")
        if isinstance(fault, Exception):
            raise fault
        self.taps.append(os.open(os.devnull, os.O_RDWR))
        return Card("tap0", self.taps[-1])

    def disk(self, name: str) -> Path:
        path = self.folder / name
        path.write_bytes(bytes(4096))
        return path

    def directories(self) -> list[str]:
        return [path.name for path in (self.folder / "run" / "vm").iterdir()]

    def templates(self) -> list[str]:
        """What is kept on disk."""
        folder = self.folder / "templates"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    async def kept(self) -> str:
        """The key of the template that is kept on disk, once it is: clones start from it before."""
        await until(lambda: len(self.templates()) == 1 and not self.templates()[0].startswith("."))
        return self.templates()[0]

    def machine(self, sandbox_id: str) -> FakeMachine:
        return next(one for one in self.host.machines.values() if one.spec.sandbox_id == sandbox_id)

    def agent(self, sandbox_id: str) -> ScriptedAgent:
        return next(agent for agent in reversed(self.agents) if agent.sandbox_id == sandbox_id)

    async def enough(self, source: SandboxSource, count: int) -> list[Sandbox]:
        """So many at once."""
        return await asyncio.gather(*(source.acquire(self.request()) for _ in range(count)))

    def alive(self) -> list[str]:
        return [machine.spec.sandbox_id for machine in self.host.machines.values() if machine.exit is None]


async def until(true: Callable[[], object]) -> None:
    """When it is so: for what is done in the background; the test's own time limit is the limit."""
    while not true():  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.001)


async def ready(source: SandboxSource) -> None:
    """Open it, and wait until it has a template and a full pool."""
    await source.open()
    await until(lambda: "MiB" in source.describe().template)
    await until(lambda: full(source))


def full(source: SandboxSource) -> bool:
    words = source.describe().pool.split()
    return words[0] == "switched" or words[0] == words[2]
