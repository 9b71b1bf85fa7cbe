"""Restart policies: their rules, and a container's life under them."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.engine.test_lifecycle import actions
from tests.unit.engine.world import World, config, everything, running, until

from hyper.engine import restart
from hyper.engine.engine import LiveEngine
from hyper.engine.model import ContainerState, ContainerUpdate, ExecConfig, RestartPolicy, Status, WaitResult
from hyper.engine.restart import Restarting, starts_with_daemon
from hyper.errors import Conflict, HyperError, NotFound, NotModified, Unavailable

ALWAYS = RestartPolicy(name="always")
UNLESS_STOPPED = RestartPolicy(name="unless-stopped")
ON_FAILURE = RestartPolicy(name="on-failure")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart, "FIRST_DELAY_S", 0.0)


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is to be restarted waits for it longer than any test."""
    monkeypatch.setattr(restart, "FIRST_DELAY_S", 86400.0)


def status(engine: LiveEngine, reference: str) -> Status:
    return engine.containers.get(reference).state.status


async def waiting(world: World, engine: LiveEngine, exit_code: int = 1) -> str:
    """A container that has failed and waits for its restart."""
    container = await running(engine, restart_policy=ALWAYS)
    ended = engine.containers.wait(container.id, "next-exit")
    world.guest.exit(exit_code)
    await ended
    assert status(engine, container.id) is Status.RESTARTING
    return container.id


# -- the rules


def delays(policy: RestartPolicy, *runs_s: float, exit_code: int = 1) -> list[float | None]:
    restarting = Restarting()
    return [
        restarting.next_delay_s(policy, ContainerState(restart_count=count), exit_code=exit_code, ran_s=ran_s)
        for count, ran_s in enumerate(runs_s)
    ]


def test_the_delay_doubles_from_100_ms_to_a_minute() -> None:
    assert delays(ALWAYS, *[0.0] * 12) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0, 60.0]


def test_a_run_of_ten_seconds_begins_the_delays_anew() -> None:
    assert delays(ALWAYS, 0.0, 9.9, 10.0, 0.0) == [0.1, 0.2, 0.1, 0.2]


def test_on_failure_restarts_failures_only_and_so_many_times() -> None:
    assert delays(ON_FAILURE, 0.0, exit_code=0) == [None]
    assert delays(RestartPolicy(name="on-failure", maximum_retry_count=2), 0.0, 0.0, 0.0) == [0.1, 0.2, None]
    assert delays(RestartPolicy(), 0.0) == [None]


def test_nothing_is_restarted_that_somebody_stopped() -> None:
    for policy in (ALWAYS, UNLESS_STOPPED, ON_FAILURE):
        stopped = Restarting(given_up=True)
        assert stopped.next_delay_s(policy, ContainerState(), exit_code=1, ran_s=0) is None


@pytest.mark.parametrize(
    ("policy", "after_a_stop", "after_a_failure", "after_success"),
    [
        (ALWAYS, True, True, True),
        (UNLESS_STOPPED, False, True, True),
        (ON_FAILURE, False, True, False),
        (RestartPolicy(), False, False, False),
    ],
)
def test_what_starts_with_the_daemon(
    policy: RestartPolicy, after_a_stop: bool, after_a_failure: bool, after_success: bool
) -> None:
    stopped = ContainerState(started_ns=1, exit_code=137, manually_stopped=True)
    assert starts_with_daemon(policy, stopped) is after_a_stop
    assert starts_with_daemon(policy, ContainerState(started_ns=1, exit_code=1)) is after_a_failure
    assert starts_with_daemon(policy, ContainerState(started_ns=1)) is after_success
    assert not starts_with_daemon(policy, ContainerState(exit_code=1)), "it was never started"


# -- a container's life


@pytest.mark.usefixtures("at_once")
async def test_a_container_that_fails_is_started_again(world: World, engine: LiveEngine) -> None:
    told = actions(engine)
    container = await running(engine, restart_policy=RestartPolicy(name="on-failure", maximum_retry_count=1))
    client = await engine.containers.attach(
        container.id, stdin=False, stdout=True, stderr=True, stream=True, logs=False
    )
    first = engine.containers.wait(container.id, "next-exit")
    world.guest.print(b"one\n")
    world.guest.exit(3)
    assert await first == WaitResult(exit_code=3)
    assert await everything(client) == b"one\n", "an attached client leaves with the process, as with Docker"
    await until(lambda: status(engine, container.id) is Status.RUNNING)
    assert engine.containers.get(container.id).state.restart_count == 1
    second = engine.containers.wait(container.id, "not-running")
    world.guest.print(b"two\n")
    world.guest.exit(4)
    assert await second == WaitResult(exit_code=4)
    state = engine.containers.get(container.id).state
    assert (state.status, state.exit_code, state.restart_count) == (Status.EXITED, 4, 1), "one retry was all it had"
    logged = [item.data async for item in engine.containers.logs(container.id, stdout=True, stderr=True, follow=False)]
    assert logged == [b"one\n", b"two\n"]
    assert told() == ["create", "start", "attach", "die", "start", "die"]


@pytest.mark.usefixtures("at_once")
async def test_somebodys_start_begins_the_count_anew(world: World, engine: LiveEngine) -> None:
    container = await running(engine, restart_policy=ALWAYS)
    world.guest.exit(1)
    await until(lambda: engine.containers.get(container.id).state.restart_count == 1)
    await until(lambda: status(engine, container.id) is Status.RUNNING)
    await engine.containers.restart(container.id)
    assert engine.containers.get(container.id).state.restart_count == 0


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("policy", [ALWAYS, UNLESS_STOPPED, ON_FAILURE])
async def test_stop_and_kill_are_final(world: World, engine: LiveEngine, policy: RestartPolicy) -> None:
    container = await running(engine, restart_policy=policy)
    await engine.containers.stop(container.id)
    assert status(engine, container.id) is Status.EXITED
    await engine.containers.start(container.id)
    await engine.containers.kill(container.id, "KILL")
    assert status(engine, container.id) is Status.EXITED
    assert engine.containers.get(container.id).state.manually_stopped
    await engine.containers.start(container.id)
    assert not engine.containers.get(container.id).state.manually_stopped


@pytest.mark.usefixtures("never")
async def test_a_container_that_waits_counts_as_running(world: World, engine: LiveEngine) -> None:
    container_id = await waiting(world, engine)
    assert engine.containers.get(container_id).state.up
    with pytest.raises(NotModified):
        await engine.containers.start(container_id)
    with pytest.raises(Conflict, match="container is restarting: stop the container before removing"):
        await engine.containers.remove(container_id, force=False)
    asked = [
        engine.containers.pause(container_id),
        engine.execs.create(container_id, ExecConfig(command=("ls",))),
        engine.containers.attach(container_id, stdin=False, stdout=True, stderr=True, stream=True, logs=False),
    ]
    for request in asked:
        with pytest.raises(Conflict, match=f"Container {container_id} is restarting, wait until"):
            await request


@pytest.mark.usefixtures("never")
async def test_stop_gives_a_planned_restart_up(world: World, engine: LiveEngine) -> None:
    container_id = await waiting(world, engine, 5)
    told = actions(engine)
    over = engine.containers.wait(container_id, "not-running")
    await engine.containers.stop(container_id)
    assert await over == WaitResult(exit_code=5)
    assert told() == ["stop"]
    assert status(engine, container_id) is Status.EXITED
    await engine.containers.remove(container_id, force=False)


@pytest.mark.usefixtures("never")
async def test_kill_gives_a_planned_restart_up(world: World, engine: LiveEngine) -> None:
    container_id = await waiting(world, engine)
    await engine.containers.kill(container_id, "KILL")
    assert status(engine, container_id) is Status.EXITED
    with pytest.raises(Conflict, match="is not running"):
        await engine.containers.kill(container_id, "KILL")


@pytest.mark.usefixtures("never")
async def test_force_removes_what_waits(world: World, engine: LiveEngine) -> None:
    container_id = await waiting(world, engine)
    await engine.containers.remove(container_id, force=True)
    with pytest.raises(NotFound):
        engine.containers.get(container_id)
    assert world.container_files() == set()


@pytest.mark.usefixtures("never")
async def test_restart_does_not_wait_for_the_delay(world: World, engine: LiveEngine) -> None:
    container_id = await waiting(world, engine)
    await engine.containers.restart(container_id)
    assert status(engine, container_id) is Status.RUNNING


async def test_a_stop_while_its_policy_starts_it_stops_it(
    world: World, engine: LiveEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart, "FIRST_DELAY_S", 0.0)
    container = await running(engine, restart_policy=ALWAYS)
    world.booting.clear()
    world.may_boot.clear()
    world.guest.exit(1)
    await world.booting.wait()
    stop = asyncio.create_task(engine.containers.stop(container.id))
    world.may_boot.set()
    await stop
    assert status(engine, container.id) is Status.EXITED


@pytest.mark.usefixtures("at_once")
async def test_what_cannot_be_started_is_not_tried_again(world: World, engine: LiveEngine) -> None:
    container = await running(engine, restart_policy=ALWAYS)
    world.faults["container.create"] = Unavailable("no room")
    world.guest.exit(1)
    await until(lambda: status(engine, container.id) is Status.EXITED)
    state = engine.containers.get(container.id).state
    assert (state.exit_code, "no room" in state.error) == (128, True)


@pytest.mark.usefixtures("at_once")
async def test_update_gives_a_running_container_a_policy(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    await engine.containers.update(container.id, ContainerUpdate(restart_policy=ALWAYS))
    world.guest.exit(0)
    await until(lambda: engine.containers.get(container.id).state.restart_count == 1)
    await until(lambda: status(engine, container.id) is Status.RUNNING)
    await engine.containers.update(container.id, ContainerUpdate(restart_policy=RestartPolicy()))
    world.guest.exit(0)
    await until(lambda: status(engine, container.id) is Status.EXITED)


# -- the next daemon


async def restarted(world: World, *, stop_containers: bool) -> LiveEngine:
    await world.daemons.pop().leave(stop_containers=stop_containers)
    return await world.daemon()


@pytest.mark.parametrize("policy", [ALWAYS, UNLESS_STOPPED, ON_FAILURE])
async def test_a_graceful_stop_of_the_daemon_is_nobodys_stop(
    world: World, engine: LiveEngine, policy: RestartPolicy
) -> None:
    container = await running(engine, restart_policy=policy)
    engine = await restarted(world, stop_containers=True)
    state = engine.containers.get(container.id).state
    assert (state.status, state.restart_count) == (Status.RUNNING, 0)


async def test_the_next_daemon_starts_what_somebody_stopped_under_always_only(world: World, engine: LiveEngine) -> None:
    names = {"always": ALWAYS, "unless-stopped": UNLESS_STOPPED, "on-failure": ON_FAILURE}
    for name, policy in names.items():
        await engine.containers.create(config(restart_policy=policy), name=name)
        await engine.containers.start(name)
        await engine.containers.stop(name)
    engine = await world.next_daemon()
    assert [name for name in names if status(engine, name) is Status.RUNNING] == ["always"]


async def test_a_container_that_ended_with_its_vm_is_started_again(world: World, engine: LiveEngine) -> None:
    container = await running(engine, restart_policy=UNLESS_STOPPED)
    [sandbox_id] = world.alive()
    await world.daemons.pop().leave()
    await world.power_off(sandbox_id)
    engine = await world.daemon()
    assert status(engine, container.id) is Status.RUNNING
    assert world.alive() != [sandbox_id]


@pytest.mark.usefixtures("never")
async def test_who_waited_under_the_last_daemon_is_started_by_the_next(world: World, engine: LiveEngine) -> None:
    container_id = await waiting(world, engine)
    engine = await world.next_daemon()
    assert status(engine, container_id) is Status.RUNNING


@pytest.mark.usefixtures("never")
async def test_a_daemon_that_cannot_start_them_answers_all_the_same(world: World, engine: LiveEngine) -> None:
    container_id = await waiting(world, engine)
    fault: HyperError = Unavailable("no room")
    world.faults["container.create"] = fault
    engine = await world.next_daemon()
    assert (status(engine, container_id), engine.containers.get(container_id).state.error) == (
        Status.EXITED,
        "no room",
    )
