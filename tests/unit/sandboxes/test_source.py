"""The one place that sandboxes come from, over the verified fake hypervisor and an agent that does as it is told."""

from __future__ import annotations

import asyncio
import os

import msgspec
import pytest
from tests.unit.sandboxes.world import MIB, World, full, ready, until

from hyper.errors import (
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    HyperError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unsupported,
)
from hyper.sandboxes import supervisor
from hyper.sandboxes.boot_image import BootImage, GuestSettings
from hyper.sandboxes.source import SandboxRecord


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


async def test_a_sandbox_that_is_to_share_its_memory_does_so_when_it_is_booted_too(world: World) -> None:
    source = world.source()
    sandbox = await source.acquire(world.request(shared_memory=True))
    file = world.machine(sandbox.id).spec.memory_file
    assert sandbox.rung == "cold" and file is not None and file.shared
    assert world.machine((await source.acquire(world.request())).id).spec.memory_file is None


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


# -- sizes


async def test_a_clone_is_made_as_big_as_was_asked_for_before_it_is_handed_out(world: World) -> None:
    source = world.source(templates=True, default_memory_bytes=64 * MIB)
    await ready(source)
    small = await source.acquire(world.request(memory_bytes=64 * MIB, cpus=0.5))
    assert world.agent(small.id).resized == [] and small.record.grown_bytes == 0 and "resize" not in small.timings
    large = await source.acquire(world.request(memory_bytes=1024 * MIB))
    [(cpus, memory_bytes)] = world.agent(large.id).resized
    assert cpus is None and memory_bytes is not None and memory_bytes > 1024 * MIB
    assert large.record.memory_bytes + large.record.grown_bytes == memory_bytes
    wide = await source.acquire(world.request(cpus=2.5))
    assert world.agent(wide.id).resized == [(3, None)] and wide.record.cpus == 3
    both = await source.acquire(world.request(memory_bytes=1024 * MIB, cpus=4))
    assert world.agent(both.id).resized == [(4, memory_bytes)]
    assert [sandbox.rung for sandbox in (small, large, wide, both)] == ["template"] * 4


@pytest.mark.parametrize("pool", [0, 1])
async def test_the_host_gives_a_vmm_what_was_asked_for_and_no_more(world: World, pool: int) -> None:
    source = world.source(templates=True, pool=pool, default_memory_bytes=512 * MIB)
    await ready(source)
    for memory_bytes, cpus in ((16 * MIB, 1), (None, None), (2048 * MIB, 3)):
        sandbox = await source.acquire(world.request(memory_bytes=memory_bytes, cpus=cpus))
        size = source._size(memory_bytes, cpus)
        assert world.machine(sandbox.id).bounds == (size.memory_bytes, size.cpus)
        await until(lambda: full(source))


async def test_a_machine_that_is_booted_has_its_size_from_the_start(world: World) -> None:
    sandbox = await world.source().acquire(world.request(memory_bytes=1024 * MIB, cpus=2))
    spec = world.machine(sandbox.id).spec
    assert spec.memory_bytes > 1024 * MIB and spec.cpus == 2 and world.agents[0].resized == []


@pytest.mark.parametrize(
    "fault", [DeadlineExceeded("the sandbox has 1 processors after 10 s"), Unavailable("lost"), Unsupported("no")]
)
async def test_a_clone_that_does_not_grow_makes_way_for_a_boot(world: World, fault: HyperError) -> None:
    source = world.source(templates=True, pool=1)
    await ready(source)
    world.faults["resize"] = fault
    sandbox = await source.acquire(world.request(cpus=2))
    assert sandbox.rung == "cold" and world.machine(sandbox.id).spec.cpus == 2
    assert [record.sandbox_id for record in world.records] == [sandbox.id]


async def test_impossible_sizes_are_refused_before_anything_is_taken(world: World) -> None:
    source = world.source(templates=True, pool=1)
    await ready(source)
    launched = len(world.host.machines)
    for memory_bytes, cpus, words in (
        (4 * MIB, None, "Minimum memory limit allowed is 6MB"),
        (None, 5, "from 0.01 to 4"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            await source.acquire(world.request(memory_bytes=memory_bytes, cpus=cpus))
    assert len(world.host.machines) == launched and source.describe().pool == "1 of 1 ready"


async def test_a_limit_beyond_the_hosts_memory_gets_what_there_is(world: World) -> None:
    source = world.source(templates=True)
    await ready(source)
    sandbox = await source.acquire(world.request(memory_bytes=1 << 50))
    [(_, memory_bytes)] = world.agent(sandbox.id).resized
    assert memory_bytes is not None and 8 << 30 < memory_bytes < 16 << 30


async def test_one_that_was_made_bigger_is_adopted_as_such(world: World) -> None:
    first = world.source(templates=True, default_memory_bytes=64 * MIB)
    await ready(first)
    grown = await first.acquire(world.request(memory_bytes=1024 * MIB, cpus=2))
    await first.close()

    adopted = await world.source(templates=True).adopt(world.records[-1])
    agent = world.agent(grown.id)
    await adopted.resize(512 * MIB, 1)
    await adopted.resize(1024 * MIB, 2)
    assert agent.resized == [], "it is big enough, and never made smaller"
    await adopted.resize(2048 * MIB, None)
    [(cpus, memory_bytes)] = agent.resized
    assert cpus is None and memory_bytes is not None
    assert adopted.record.memory_bytes + adopted.record.grown_bytes == memory_bytes
    assert world.records[-1] == adopted.record


async def test_a_card_is_refused_before_anything_is_taken_where_there_are_none(world: World) -> None:
    source = world.source(templates=True)
    source._maker._cards = None
    await ready(source)
    launched = len(world.host.machines)
    with pytest.raises(FailedPrecondition, match="no network"):
        await source.acquire(world.request(card=True))
    assert len(world.host.machines) == launched
    assert (await source.acquire(world.request())).rung == "template"
