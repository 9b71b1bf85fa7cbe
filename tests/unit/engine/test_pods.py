"""Containers that share a sandbox: who joins, who leaves, what stays plugged in, and what a restarted daemon finds."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.engine.world import Guest, World, config, running, until

from hyper.engine.engine import LiveEngine
from hyper.engine.model import Container, ContainerConfig, Status
from hyper.engine.pods import joins
from hyper.errors import Conflict, FailedPrecondition, HyperError, Internal, InvalidArgument, Unsupported


async def pod(engine: LiveEngine, count: int = 2, **changes: Any) -> list[Container]:
    """The first container and those that joined its network."""
    first = await running(engine)
    return [
        first,
        *[await running(engine, network_mode=f"container:{first.name}", **changes) for _ in range(count - 1)],
    ]


def plugged(world: World) -> set[str]:
    """The writable layers in the only VM, by their containers' IDs."""
    registry = world.daemons[-1].engine._registry
    [sandbox] = {managed.run.sandbox for managed in registry if managed.run is not None}
    return {disk.path.rpartition("/")[2] for disk in sandbox.record.disks if not disk.readonly}


def namespaces(guest: Guest, container: Container) -> dict[str, str]:
    return {
        entry["type"]: entry.get("path", "") for entry in guest.containers[container.id]["spec"]["linux"]["namespaces"]
    }


def test_what_is_joined_is_read_from_the_modes() -> None:
    config = ContainerConfig(image="i", pid_mode="container:a", ipc_mode="private", network_mode="container:b")
    assert joins(config) == {"pid": "a", "network": "b"}


async def test_who_joins_runs_in_the_same_vm_in_the_others_namespaces(world: World) -> None:
    engine = await world.daemon()
    first, second = await pod(engine)
    assert first.sandbox_id == second.sandbox_id and second.state.rung == "pod"
    assert second.config.network_mode == f"container:{first.id}" and second.networks == ()
    assert second.config.hostname == first.config.hostname
    assert namespaces(world.guest, first) == {"pid": "", "mount": "", "cgroup": ""}
    assert namespaces(world.guest, second) == {
        "pid": "",
        "mount": "",
        "cgroup": "",
        "ipc": "",
        "uts": "",
        "network": "/proc/42/ns/net",
    }
    assert plugged(world) == {first.id, second.id}


async def test_ends_are_told_to_the_container_whose_they_are(world: World) -> None:
    engine = await world.daemon()
    first, second = await pod(engine)
    world.guest.exit(3, container_id=second.id)
    assert (await engine.containers.wait(second.id, "not-running")).exit_code == 3
    assert engine.containers.get(first.id).state.status is Status.RUNNING
    await until(lambda: second.id not in world.guest.containers)
    await until(lambda: plugged(world) == {first.id})
    world.guest.exit(4)
    assert (await engine.containers.wait(first.id, "not-running")).exit_code == 4
    await until(lambda: not world.alive())


async def test_the_first_one_leaves_and_starts_again_in_a_vm_of_its_own(world: World) -> None:
    engine = await world.daemon()
    first, second = await pod(engine)
    await engine.containers.kill(first.id, "KILL")
    await engine.containers.start(first.id)
    assert engine.containers.get(first.id).sandbox_id != second.sandbox_id
    assert len(world.alive()) == 2
    await engine.containers.remove(first.id, force=True)
    assert engine.containers.get(second.id).state.status is Status.RUNNING
    await engine.containers.remove(second.id, force=True)
    await until(lambda: not world.alive())
    world.assert_no_vm_is_left()


async def test_a_start_that_fails_leaves_the_pod_as_it_was(world: World) -> None:
    engine = await world.daemon()
    first = await running(engine)
    world.faults["container.create"] = Internal("broken")
    with pytest.raises(HyperError, match="broken"):
        await running(engine, network_mode=f"container:{first.id}")
    assert plugged(world) == {first.id} and engine.containers.get(first.id).state.status is Status.RUNNING
    del world.faults["container.create"]
    await running(engine, network_mode=f"container:{first.id}")


async def test_a_guest_that_does_not_let_go_of_a_container_is_ended(world: World) -> None:
    """Its disk would be in two VMs at the next start."""
    engine = await world.daemon()
    first, second = await pod(engine)
    world.faults["container.delete"] = Internal("stuck")
    world.guest.exit(0, container_id=first.id)
    assert (await engine.containers.wait(second.id, "not-running")).exit_code == 137
    await until(lambda: not world.alive())


async def test_a_vm_that_dies_ends_all_that_are_in_it(world: World) -> None:
    engine = await world.daemon()
    first, second = await pod(engine)
    await world.power_off(first.sandbox_id)
    for container in (first, second):
        assert (await engine.containers.wait(container.id, "not-running")).exit_code == 137


async def test_the_next_daemon_finds_the_pod_again(world: World) -> None:
    engine = await world.daemon()
    first, second, third = await pod(engine, 3)
    await engine.containers.pause(third.id)
    engine = await world.next_daemon()
    assert plugged(world) == {first.id, second.id, third.id}
    assert engine.containers.get(third.id).state.status is Status.PAUSED
    world.guest.exit(5, container_id=second.id)
    assert (await engine.containers.wait(second.id, "not-running")).exit_code == 5
    fourth = await running(engine, pid_mode=f"container:{third.id}")
    assert fourth.sandbox_id == first.sandbox_id


async def test_what_ended_while_no_daemon_was_there_is_taken_out_of_the_pod(world: World) -> None:
    engine = await world.daemon()
    first, second = await pod(engine)
    await world.daemons.pop().leave()
    world.guest.exit(6, container_id=first.id)
    engine = await world.daemon()
    assert (await engine.containers.wait(first.id, "not-running")).exit_code == 6
    await until(lambda: first.id not in world.guest.containers)
    await until(lambda: plugged(world) == {second.id})


async def test_what_a_killed_daemon_was_taking_out_is_taken_out_by_the_next(world: World) -> None:
    """Its end was recorded; its container and its disk are still in the sandbox."""
    engine = await world.daemon()
    first, second = await pod(engine)
    world.faults["container.delete"] = "silent"
    world.guest.exit(7, container_id=first.id)
    assert (await engine.containers.wait(first.id, "not-running")).exit_code == 7
    await world.daemons.pop().leave()
    del world.faults["container.delete"]
    engine = await world.daemon()
    assert set(world.guest.containers) == {second.id} and plugged(world) == {second.id}
    await engine.containers.start(first.id)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"pid_mode": "container:{stopped}"}, Conflict, "cannot join PID of a non running container"),
        ({"network_mode": "container:{stopped}"}, Conflict, "cannot join network of a non running container"),
        ({"ipc_mode": "container:{first}"}, InvalidArgument, "non-shareable IPC"),
        ({"pid_mode": "container:nosuch"}, FailedPrecondition, "No such container: nosuch"),
        ({"pid_mode": "container:{first}", "network_mode": "container:{other}"}, Unsupported, "different VMs"),
    ],
)
async def test_what_cannot_be_joined_stops_the_start(
    world: World, changes: dict[str, str], error: type[HyperError], words: str
) -> None:
    engine = await world.daemon()
    first, other = await running(engine), await running(engine)
    stopped, _ = await engine.containers.create(config(), name=None)
    known = {"first": first.id, "other": other.id, "stopped": stopped.id}
    named = {member: mode.format(**known) for member, mode in changes.items()}
    container, _ = await engine.containers.create(config(**{"network_mode": "default", **named}), name=None)
    with pytest.raises(error, match=words):
        await engine.containers.start(container.id)


async def test_shared_memory_is_the_sandboxes_for_who_shares_it(world: World) -> None:
    engine = await world.daemon()
    first = await running(engine, ipc_mode="shareable")
    second = await running(engine, ipc_mode=f"container:{first.id}", pid_mode=f"container:{first.id}")

    def shm(container: Container) -> list[str]:
        mounts = world.guest.containers[container.id]["spec"]["mounts"]
        [found] = [mount for mount in mounts if mount["destination"] == "/dev/shm"]
        return [found["source"], *[option for option in found["options"] if option.startswith("size=")]]

    assert shm(first) == ["/dev/shm", f"size={64 << 20}"] and shm(second) == ["/dev/shm"]
    assert namespaces(world.guest, second) == {
        "pid": "/proc/42/ns/pid",
        "mount": "",
        "cgroup": "",
        "ipc": "/proc/42/ns/ipc",
        "uts": "",
        "network": "",
    }
