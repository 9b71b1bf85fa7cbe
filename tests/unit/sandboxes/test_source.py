"""The one place that sandboxes come from, over the verified fake hypervisor and an agent that does as it is told."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec
import pytest

from hyper.errors import Conflict, HyperError, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from hyper.guest.agent import Agent
from hyper.guest.kernel import KernelSettings
from hyper.guest.messages import Configuration, Interface
from hyper.hypervisors.base import KernelImage, VmmExit
from hyper.hypervisors.fake import FakeHost, FakeHypervisor
from hyper.hypervisors.qemu.settings import QemuSettings
from hyper.sandboxes import supervisor
from hyper.sandboxes.boot_image import BootImage, GuestSettings
from hyper.sandboxes.source import Card, SandboxConfig, SandboxRecord, SandboxRequest, SandboxSettings, SandboxSource
from hyper.system.identities import Identities

MIB = 1 << 20


class ScriptedAgent:
    """An agent whose answers a test chooses; remembers what it was told."""

    version = "9.9"

    def __init__(self, world: World) -> None:
        self.world = world
        self.configured: Configuration | None = None
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.released = False

    async def configure(self, configuration: Configuration) -> None:
        await self.world.step("configure")
        self.configured = configuration

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
    """A host with fake machines, and where a test makes things go wrong: an error per step, or "hang"."""

    folder: Path
    host: FakeHost
    faults: dict[str, HyperError | str] = field(default_factory=dict)
    reached: dict[str, asyncio.Event] = field(default_factory=dict)
    agents: list[ScriptedAgent] = field(default_factory=list)
    firsts: list[bool] = field(default_factory=list)
    records: list[SandboxRecord] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    sources: list[SandboxSource] = field(default_factory=list)
    taps: list[int] = field(default_factory=list)

    async def step(self, name: str) -> None:
        self.reached.setdefault(name, asyncio.Event()).set()
        fault = self.faults.get(name)
        if fault == "hang":
            await asyncio.Event().wait()
        if isinstance(fault, HyperError):
            raise fault

    async def connect(self, socket: Path, *, instance: str, first: bool, deadline_s: float) -> Agent:
        assert len(instance) == 32
        self.firsts.append(first)
        await self.step("connect")
        self.agents.append(ScriptedAgent(self))
        return cast(Agent, self.agents[-1])

    def source(self) -> SandboxSource:
        """A daemon's; another call is the next daemon's."""
        image = self.folder / "image"
        image.touch()
        settings = SandboxSettings(
            runtime_dir=self.folder / "run",
            guest=GuestSettings(KernelSettings(self.folder), image, self.folder),
            qemu=QemuSettings("test", self.folder, self.folder),
            uid_lock_file=self.folder / "uids",
        )

        def driver(
            identities: Identities, image: Callable[[], KernelImage], alive: Callable[[Path], Awaitable[bool]]
        ) -> FakeHypervisor:
            return FakeHypervisor(self.host)

        source = SandboxSource(settings, cards=self.card, connect=self.connect, hypervisor=driver)
        source.on_record = self.records.append
        source.on_gone = self.gone.append
        self.sources.append(source)
        return source

    def request(self, *, memory_bytes: int | None = None, card: bool = False) -> SandboxRequest:
        interfaces = (Interface(mac="02:00:00:00:00:09", name="eth0"),) if card else ()
        return SandboxRequest("", memory_bytes, None, SandboxConfig("box", interfaces))

    def card(self) -> Card:
        """A spare card whose tap is any file."""
        self.taps.append(os.open(os.devnull, os.O_RDWR))
        return Card("tap0", self.taps[-1])

    def disk(self, name: str) -> Path:
        path = self.folder / name
        path.write_bytes(bytes(4096))
        return path

    def directories(self) -> list[str]:
        return [path.name for path in (self.folder / "run" / "vm").iterdir()]

    def alive(self) -> list[str]:
        return [machine.spec.sandbox_id for machine in self.host.machines.values() if machine.exit is None]


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets in it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
async def world(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    @dataclass(frozen=True)
    class Image:
        def image(self, *, emulated: bool) -> KernelImage:
            assert emulated
            return KernelImage(short_path / "image", short_path / "image", "")

        @property
        def kernel(self) -> object:
            raise AssertionError

    monkeypatch.setattr(BootImage, "prepare", lambda settings: Image())

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    host = FakeHost(silent)
    world = World(short_path, host)
    yield world
    for source in world.sources:
        await source.close()
    await host.close()


async def test_a_sandbox_comes_configured_and_recorded(world: World) -> None:
    request = world.request(memory_bytes=64 * MIB)
    sandbox = await world.source().acquire(request)
    configured = world.agents[0].configured
    assert configured is not None and configured.hostname == "box"
    assert configured.entropy is not None and len(configured.entropy) >= 32 and configured.time_ns
    assert world.firsts == [True]
    assert set(sandbox.timings) == {"vmm", "boot", "configure"}
    (record,) = world.records
    assert record.sandbox_id == sandbox.id and sandbox.rung == "cold" and record.memory_bytes > 64 * MIB
    assert msgspec.json.decode(record.encode(), type=SandboxRecord) == record
    await sandbox.destroy(graceful=False)


@pytest.mark.parametrize("step", ["connect", "configure"])
async def test_a_failed_acquire_leaves_nothing(world: World, step: str) -> None:
    world.faults[step] = Unavailable("no")
    source = world.source()
    with pytest.raises(Unavailable, match="no"):
        await source.acquire(world.request())
    assert (world.directories(), world.alive(), world.records) == ([], [], [])
    assert all(agent.released for agent in world.agents)


@pytest.mark.parametrize("step", ["connect", "configure"])
async def test_a_cancelled_acquire_leaves_nothing(world: World, step: str) -> None:
    world.faults[step] = "hang"
    task = asyncio.create_task(world.source().acquire(world.request()))
    await world.reached.setdefault(step, asyncio.Event()).wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (world.directories(), world.alive(), world.records) == ([], [], [])


async def test_a_vm_that_dies_while_booting_tells_why_at_once(world: World) -> None:
    world.faults["connect"] = "hang"
    task = asyncio.create_task(world.source().acquire(world.request()))
    await world.reached.setdefault("connect", asyncio.Event()).wait()
    [sandbox_id] = world.alive()
    await world.host.crash(sandbox_id, "the kernel panicked")
    with pytest.raises(Unavailable, match="ended before its agent answered: the kernel panicked"):
        await task
    assert world.directories() == []


async def test_a_refused_request_costs_nothing(world: World) -> None:
    with pytest.raises(InvalidArgument, match="Minimum memory"):
        await world.source().acquire(world.request(memory_bytes=1, card=True))
    assert world.taps == [] and world.alive() == []


async def test_a_sandbox_has_a_card_when_it_has_interfaces(world: World) -> None:
    source = world.source()
    assert (await source.acquire(world.request())).card == ""
    sandbox = await source.acquire(world.request(card=True))
    assert sandbox.card == "tap0"
    [tap] = world.taps
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(tap)  # the driver has taken it over


async def test_a_card_is_closed_when_there_is_no_place_for_its_machine(world: World) -> None:
    source = world.source()
    (world.folder / "run" / "vm").rmdir()
    with pytest.raises(ResourceExhausted, match="cannot be made"):
        await source.acquire(world.request(card=True))
    (world.folder / "run" / "vm").mkdir()
    [tap] = world.taps
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(tap)


async def test_disks_are_recorded_and_shared_ones_counted(world: World) -> None:
    sandbox = await world.source().acquire(world.request())
    base, top = world.disk("base"), world.disk("top")
    places = await asyncio.gather(*(sandbox.attach_disk(base, fs="erofs", readonly=True) for _ in range(3)))
    writable = await sandbox.attach_disk(top, fs="ext4", readonly=False)
    assert places[0] == places[1] == places[2] != writable
    assert writable["fs"] == "ext4" and set(writable["scsi"]) == {"channel", "target", "lun"}
    with pytest.raises(Conflict):
        await sandbox.attach_disk(top, fs="ext4", readonly=False)
    assert {(disk.path, disk.users) for disk in sandbox.record.disks} == {(str(base), 3), (str(top), 1)}
    for _ in range(3):
        await sandbox.detach_disk(base)
    with pytest.raises(NotFound):
        await sandbox.detach_disk(base)
    assert [disk.path for disk in world.records[-1].disks] == [str(top)]


async def test_the_end_of_the_vm_is_the_reason_even_when_the_link_breaks_first(world: World) -> None:
    sandbox = await world.source().acquire(world.request())
    waiter = asyncio.create_task(sandbox.wait())
    world.agents[0].lost.set_result("the port was closed")
    await world.host.crash(sandbox.id, "QEMU was killed by signal 9")
    assert await waiter == "QEMU was killed by signal 9"


async def test_a_lost_link_alone_is_an_end_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_SETTLE_S", 0.01)
    sandbox = await world.source().acquire(world.request())
    world.agents[0].lost.set_result("a frame broke the rules")
    assert "a frame broke the rules" in await sandbox.wait()


async def test_destroy_shuts_down_frees_and_tells_once(world: World) -> None:
    sandbox = await world.source().acquire(world.request())
    await asyncio.gather(sandbox.destroy(graceful=True), sandbox.destroy(graceful=False))
    await sandbox.destroy(graceful=True)
    assert "shutdown" in world.reached
    assert world.gone == [sandbox.id]
    assert (world.directories(), world.alive()) == ([], [])
    assert await sandbox.wait() == "powered off"


@pytest.mark.parametrize("fault", ["hang", Unavailable("the link is lost")])
async def test_a_guest_that_will_not_shut_down_is_killed_in_bounded_time(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: HyperError | str
) -> None:
    monkeypatch.setattr(supervisor, "_SHUTDOWN_S", 0.01)
    world.faults["shutdown"] = fault
    sandbox = await world.source().acquire(world.request())
    async with asyncio.timeout(5):
        await sandbox.destroy(graceful=True)
    assert (world.directories(), world.alive()) == ([], [])


async def test_a_destroy_whose_caller_is_cancelled_goes_on(world: World) -> None:
    sandbox = await world.source().acquire(world.request())
    task = asyncio.create_task(sandbox.destroy(graceful=False))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await sandbox.destroy(graceful=False)
    assert world.gone == [sandbox.id] and world.alive() == []


async def test_the_next_daemon_adopts_with_disks(world: World) -> None:
    first = world.source()
    sandbox = await first.acquire(world.request())
    disk = world.disk("top")
    await sandbox.attach_disk(disk, fs="ext4", readonly=False)
    await first.close()
    assert world.alive() == [sandbox.id] and world.agents[0].released

    adopted = await world.source().adopt(world.records[-1])
    assert world.firsts == [True, False]
    with pytest.raises(Conflict):
        await adopted.attach_disk(disk, fs="ext4", readonly=False)
    await adopted.detach_disk(disk)
    await adopted.destroy(graceful=False)
    assert (world.directories(), world.alive(), world.gone) == ([], [], [sandbox.id])


async def test_a_sandbox_that_is_gone_is_not_adopted_and_its_files_are_cleared(world: World) -> None:
    first = world.source()
    sandbox = await first.acquire(world.request())
    await first.close()
    await world.host.crash(sandbox.id, "it crashed")
    with pytest.raises(NotFound):
        await world.source().adopt(world.records[-1])
    assert world.directories() == []


async def test_a_sandbox_whose_agent_is_silent_is_ended_rather_than_adopted(world: World) -> None:
    first = world.source()
    await first.acquire(world.request())
    await first.close()
    world.faults["connect"] = Unavailable("no answer")
    with pytest.raises(NotFound, match="no answer"):
        await world.source().adopt(world.records[-1])
    assert (world.directories(), world.alive()) == ([], [])


async def test_strays_and_their_files_are_cleared_away(world: World) -> None:
    first = world.source()
    kept, stray = [await first.acquire(world.request()) for _ in range(2)]
    await first.close()
    (world.folder / "run" / "vm" / "left-by-a-crash").mkdir()
    assert await world.source().reap_strays(frozenset({kept.id})) == [stray.id]
    assert world.directories() == [kept.id] and world.alive() == [kept.id]


async def test_what_the_host_lacks_is_told_and_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = BootImage.prepare

    def missing(settings: GuestSettings) -> BootImage:
        raise NotFound("there is no guest kernel")

    monkeypatch.setattr(BootImage, "prepare", missing)
    source = world.source()
    await source.open()
    assert source.describe().warnings == ("there is no guest kernel",)
    with pytest.raises(NotFound, match="no guest kernel"):
        await source.acquire(world.request())
    monkeypatch.setattr(BootImage, "prepare", prepare)
    await source.acquire(world.request())
