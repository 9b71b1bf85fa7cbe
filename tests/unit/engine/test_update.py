"""New limits: for containers that run, that do not, and that end while it happens."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from tests.unit.engine.world import Guest, World, config, running

from hyper.engine.engine import LiveEngine
from hyper.engine.model import ContainerConfig, ContainerUpdate, RestartPolicy
from hyper.engine.records import EngineRecords
from hyper.engine.starter import cpus
from hyper.engine.update import updated
from hyper.errors import Conflict, HyperError, InvalidArgument, NotFound, ResourceExhausted, Unavailable

MIB = 1 << 20


def updates(guest: Guest) -> list[dict[str, Any]]:
    """What the guest was told to set."""
    return [params["resources"] for method, params in guest.model.requests if method == "container.update"]


def machine(world: World) -> Any:
    [found] = [machine for machine in world.host.machines.values() if machine.exit is None]
    return found


async def test_a_container_that_does_not_run_has_new_limits_from_its_next_start(
    world: World, engine: LiveEngine
) -> None:
    container, _ = await engine.containers.create(config(memory_bytes=64 * MIB), name=None)
    changes = ContainerUpdate(memory_bytes=128 * MIB, cpu_shares=512, pids_limit=7)
    assert await engine.containers.update(container.id, changes) == ()
    assert engine.events._kept[-1].action == "update"
    engine = await world.next_daemon()
    found = engine.containers.get(container.id).config
    assert (found.memory_bytes, found.cpu_shares, found.pids_limit) == (128 * MIB, 512, 7)
    await engine.containers.start(container.id)
    [(_, guest)] = world.guest.containers.items()
    resources = guest["spec"]["linux"]["resources"]
    assert (resources["memory"], resources["pids"]) == ({"limit": 128 * MIB}, {"limit": 7})
    assert resources["cpu"]["shares"] == 512


async def test_a_running_container_has_them_at_once(world: World, engine: LiveEngine) -> None:
    container = await running(engine, memory_bytes=64 * MIB, nano_cpus=500_000_000)
    await engine.containers.update(container.id, ContainerUpdate(memory_bytes=128 * MIB, nano_cpus=250_000_000))
    await engine.containers.update(container.id, ContainerUpdate(pids_limit=0, cpuset_cpus="0", cpu_shares=2))
    assert updates(world.guest) == [
        {"memory": {"limit": 128 * MIB, "swap": -1}, "cpu": {"quota": 25_000, "period": 100_000}},
        {"cpu": {"shares": 2, "cpus": "0"}, "pids": {"limit": -1}},
    ]
    found = (await world.next_daemon()).containers.get(container.id)
    assert (found.config.memory_bytes, found.config.nano_cpus) == (128 * MIB, 250_000_000)


async def test_its_vm_grows_first_and_is_never_held_to_less(world: World, engine: LiveEngine) -> None:
    container = await running(engine, memory_bytes=64 * MIB, nano_cpus=10**9)
    base_bytes = machine(world).spec.memory_bytes
    order: list[str] = []
    world.faults["sandbox.resize"] = lambda _guest: order.append("grown")
    world.faults["container.update"] = lambda _guest: order.append("limited")
    await engine.containers.update(container.id, ContainerUpdate(memory_bytes=512 * MIB))
    assert order == ["grown", "limited"]
    [record] = world.daemons[-1].source._maker.live.values()
    grown_bytes = record.record.memory_bytes + record.record.grown_bytes
    assert grown_bytes > 512 * MIB > base_bytes
    held_to, _ = machine(world).bounds
    assert held_to == grown_bytes
    # What the guest once used is still the VMM's.
    await engine.containers.update(container.id, ContainerUpdate(memory_bytes=32 * MIB))
    assert machine(world).bounds == (held_to, 1)
    assert order == ["grown", "limited", "limited"]
    engine = await world.next_daemon()
    await engine.containers.update(container.id, ContainerUpdate(memory_bytes=48 * MIB))
    assert machine(world).bounds == (held_to, 1)


@pytest.mark.parametrize("reclaimable", ["active_file", "inactive_file", "slab_reclaimable"])
async def test_a_limit_below_what_it_uses_is_refused_unless_the_kernel_can_free_it(
    world: World, engine: LiveEngine, reclaimable: str
) -> None:
    container = await running(engine, memory_bytes=256 * MIB)
    world.guest.memory_stat = {"anon": 100 * MIB}
    with pytest.raises(Conflict, match=f"^Cannot update container {container.id}: rejecting memory limit {64 * MIB}"):
        await engine.containers.update(container.id, ContainerUpdate(memory_bytes=64 * MIB))
    assert updates(world.guest) == []
    assert engine.containers.get(container.id).config.memory_bytes == 256 * MIB
    world.guest.memory_stat = {"anon": 50 * MIB, reclaimable: 150 * MIB}
    await engine.containers.update(container.id, ContainerUpdate(memory_bytes=64 * MIB))
    assert engine.containers.get(container.id).config.memory_bytes == 64 * MIB


async def test_what_the_guest_refuses_leaves_the_limits_that_there_were(world: World, engine: LiveEngine) -> None:
    container = await running(engine, memory_bytes=64 * MIB, cpu_quota_us=50_000)
    world.faults["container.update"] = InvalidArgument("cannot set cpuset.cpus")
    changes = ContainerUpdate(cpuset_cpus="0", memory_bytes=128 * MIB, cpu_period_us=20_000, pids_limit=9)
    with pytest.raises(InvalidArgument, match=f"Cannot update container {container.id}: cannot set cpuset.cpus"):
        await engine.containers.update(container.id, changes)
    _, restored = updates(world.guest)
    assert restored == {
        "memory": {"limit": 64 * MIB, "swap": -1},
        "cpu": {"quota": 50_000},
        "pids": {"limit": -1},
    }
    assert engine.containers.get(container.id).config == container.config
    assert engine.events._kept[-1].action == "start"


async def test_a_record_that_cannot_be_written_undoes_it(
    world: World, engine: LiveEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = await running(engine, pids_limit=5)
    with monkeypatch.context() as patch:
        patch.setattr(EngineRecords, "update", _full)
        with pytest.raises(ResourceExhausted, match="Cannot update container"):
            await engine.containers.update(container.id, ContainerUpdate(pids_limit=9))
    assert [item["pids"]["limit"] for item in updates(world.guest)] == [9, 5]
    assert engine.containers.get(container.id).config.pids_limit == 5


def _full(*_: object) -> None:
    raise ResourceExhausted("the disk is full")


async def test_a_process_that_ends_meanwhile_leaves_the_record_to_change(world: World, engine: LiveEngine) -> None:
    container = await running(engine, pids_limit=5)

    def end(guest: Guest) -> None:
        guest.exit(3)
        raise NotFound("no such container")

    world.faults["container.update"] = end
    await engine.containers.update(container.id, ContainerUpdate(pids_limit=9))
    await engine.containers.wait(container.id, "not-running")
    found = engine.containers.get(container.id)
    assert (found.config.pids_limit, found.state.exit_code) == (9, 3)


async def test_a_guest_that_is_lost_is_told(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    world.faults["container.update"] = Unavailable("the sandbox is lost")
    with pytest.raises(Unavailable, match="Cannot update container"):
        await engine.containers.update(container.id, ContainerUpdate(pids_limit=9))
    assert engine.containers.get(container.id).config.pids_limit == 0
    assert len(updates(world.guest)) == 1


async def test_beyond_the_host_is_refused_before_the_guest_hears_of_it(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    with pytest.raises(InvalidArgument, match="Range of CPUs is from"):
        await engine.containers.update(container.id, ContainerUpdate(nano_cpus=10_000 * 10**9))
    assert updates(world.guest) == []


async def test_a_start_under_way_is_waited_for(world: World, engine: LiveEngine) -> None:
    container, _ = await engine.containers.create(config(), name=None)
    world.may_boot.clear()
    start = asyncio.create_task(engine.containers.start(container.id))
    await world.booting.wait()
    update = asyncio.create_task(engine.containers.update(container.id, ContainerUpdate(pids_limit=9)))
    world.may_boot.set()
    await asyncio.gather(start, update)
    assert updates(world.guest) == [{"pids": {"limit": 9}}]


@pytest.mark.parametrize(
    ("before", "changes", "kind", "message"),
    [
        (
            {"cpu_quota_us": 5000},
            {"nano_cpus": 10**9},
            Conflict,
            "Nano CPUs cannot be updated as CPU Quota has already",
        ),
        ({"cpu_period_us": 5000}, {"nano_cpus": 10**9}, Conflict, "Nano CPUs cannot be updated as CPU Period has"),
        ({"nano_cpus": 10**9}, {"cpu_quota_us": 5000}, Conflict, "CPU Quota cannot be updated as NanoCPUs has already"),
        ({"nano_cpus": 10**9}, {"cpu_period_us": 5000}, Conflict, "CPU Period cannot be updated as NanoCPUs has"),
        (
            {"memory_bytes": 64 * MIB, "memory_swap_bytes": 64 * MIB},
            {"memory_bytes": 65 * MIB},
            Conflict,
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ),
        ({}, {"memory_swap_bytes": 64 * MIB}, InvalidArgument, "You should always set the Memory limit when using"),
        (
            {"memory_bytes": 64 * MIB},
            {"memory_swap_bytes": 63 * MIB},
            InvalidArgument,
            "Minimum memoryswap limit should be larger than memory limit",
        ),
        (
            {"auto_remove": True},
            {"restart_policy": RestartPolicy(name="always")},
            Conflict,
            "Restart policy cannot be updated because AutoRemove is enabled",
        ),
    ],
)
def test_what_does_not_go_together_is_said_in_dockers_words(
    before: dict[str, Any], changes: dict[str, Any], kind: type[HyperError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        updated(ContainerConfig(image="x", **before), ContainerUpdate(**changes))
    assert message in caught.value.message


def test_swap_without_limit_goes_with_any_memory() -> None:
    unlimited = ContainerConfig(image="x", memory_bytes=64 * MIB, memory_swap_bytes=-1)
    assert updated(unlimited, ContainerUpdate(memory_bytes=128 * MIB)).memory_swap_bytes == -1
    both = ContainerUpdate(memory_bytes=128 * MIB, memory_swap_bytes=256 * MIB)
    assert updated(ContainerConfig(image="x"), both).memory_bytes == 128 * MIB


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ({}, None),
        ({"nano_cpus": 1_500_000_000}, 2),
        ({"cpu_quota_us": 1000, "cpu_period_us": 1_000_000}, 1),
        ({"cpu_quota_us": 10**12}, os.cpu_count()),
        ({"cpu_quota_us": -1}, None),
        ({"cpuset_cpus": "0"}, 1),
        ({"cpuset_cpus": "0,2-3,1", "nano_cpus": 10**9}, 4),
        ({"cpuset_cpus": "0", "nano_cpus": 2 * 10**9}, 2),
    ],
)
def test_a_vm_has_the_processors_that_its_container_may_use(limits: dict[str, Any], wanted: int | None) -> None:
    assert cpus(ContainerConfig(image="x", **limits)) == wanted
