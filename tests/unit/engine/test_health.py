"""Health checks: their rules, and what a container's checks say of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.engine.test_lifecycle import actions
from tests.unit.engine.world import World, config, running, until

from hyper.engine import health
from hyper.engine.engine import LiveEngine
from hyper.engine.model import (
    Container,
    ContainerConfig,
    ContainerState,
    ExecConfig,
    Health,
    HealthCheck,
    HealthResult,
    Status,
)
from hyper.errors import InvalidArgument

SECOND_NS = 1_000_000_000
OFTEN = HealthCheck(test=("CMD-SHELL", "is it well"), interval_ns=1_000_000, retries=2)


def result(exit_code: int, began_ns: int = 0) -> HealthResult:
    return HealthResult(began_ns=began_ns, ended_ns=began_ns, exit_code=exit_code, output="")


def statuses(check: HealthCheck, *exit_codes: int) -> list[str]:
    """After each of these results, a second apart, of a container that started at 0."""
    now, seen = Health(), []
    for second, code in enumerate(exit_codes):
        now = health.after(now, check, result(code, second * SECOND_NS), started_ns=0)
        seen.append(now.status)
    return seen


# -- the rules


def test_three_failures_in_a_row_make_it_unhealthy_and_one_success_healthy() -> None:
    assert statuses(HealthCheck(), 1, 1, 0, 1, 1, 1, 0) == [
        *("starting", "starting", "healthy", "healthy", "healthy", "unhealthy", "healthy")
    ]
    assert statuses(HealthCheck(retries=1), 1) == ["unhealthy"]


def test_failures_of_the_start_period_do_not_count_unless_it_was_healthy() -> None:
    check = HealthCheck(retries=1, start_period_ns=3 * SECOND_NS)
    assert statuses(check, 1, 1, 1, 1) == ["starting", "starting", "starting", "unhealthy"]
    assert statuses(check, 0, 1) == ["healthy", "unhealthy"]


def test_the_last_five_results_are_kept() -> None:
    now = Health()
    for number in range(7):
        now = health.after(now, HealthCheck(), result(number), started_ns=0)
    assert [kept.exit_code for kept in now.log] == [2, 3, 4, 5, 6]
    assert now.failing_streak == 6


def test_checks_are_more_frequent_while_it_starts() -> None:
    check = HealthCheck(start_period_ns=10 * SECOND_NS)
    starting, healthy = ContainerState(health=Health()), ContainerState(health=Health(status="healthy"))
    assert health.interval_s(starting, check, now_ns=9 * SECOND_NS) == 5
    assert health.interval_s(starting, check, now_ns=10 * SECOND_NS) == 30
    assert health.interval_s(healthy, check, now_ns=1) == 30
    own = HealthCheck(interval_ns=2 * SECOND_NS, start_interval_ns=SECOND_NS, start_period_ns=10 * SECOND_NS)
    assert [health.interval_s(state, own, now_ns=1) for state in (starting, healthy)] == [1, 2]


@pytest.mark.parametrize(
    ("test", "shell", "words"),
    [
        (("CMD", "/bin/check", "-v"), (), ("/bin/check", "-v")),
        (("CMD-SHELL", "check || exit 1"), (), ("/bin/sh", "-c", "check || exit 1")),
        (("CMD-SHELL", "check"), ("/bin/bash", "-ec"), ("/bin/bash", "-ec", "check")),
        (("NONE",), (), None),
        ((), (), None),
    ],
)
def test_what_is_run(test: tuple[str, ...], shell: tuple[str, ...], words: tuple[str, ...] | None) -> None:
    asked = ContainerConfig(image="x", health_check=HealthCheck(test=test), shell=shell)
    assert health.words(asked) == words


def test_what_the_user_leaves_open_is_the_images() -> None:
    image = HealthCheck(test=("CMD", "a"), interval_ns=1, retries=7)
    assert health.merged(None, image) == image
    assert health.merged(HealthCheck(retries=2), image) == msgspec.structs.replace(image, retries=2)
    none = health.merged(HealthCheck(test=("NONE",)), image)
    assert none is not None and none.test == ("NONE",)
    assert health.merged(None, None) is None


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"interval_ns": 999_999}, "Interval in Healthcheck cannot be less than 1ms"),
        ({"timeout_ns": -1}, "Timeout in Healthcheck cannot be less than 1ms"),
        ({"start_period_ns": 5}, "StartPeriod in Healthcheck cannot be less than 1ms"),
        ({"start_interval_ns": 5}, "StartInterval in Healthcheck cannot be less than 1ms"),
        ({"retries": -1}, "Retries in Healthcheck cannot be negative"),
        ({"test": ("PING", "x")}, 'unknown type "PING" in Healthcheck'),
    ],
)
def test_what_cannot_be_is_said_in_dockers_words(members: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        health.check(HealthCheck(**{"test": ("CMD", "x"), **members}))


# -- a container's checks


def probe(world: World) -> str:
    """The check that runs in the guest; empty when none does."""
    [container] = world.guest.containers.values()
    running = [one["process"] for one in container["processes"] if one["process"] and one["status"] == "running"]
    return running[0] if running else ""


async def checked(world: World, code: int, said: bytes = b"") -> None:
    await until(lambda: probe(world) != "")
    exec_id = probe(world)
    if said:
        world.guest.print(said, exec_id=exec_id)
    world.guest.exit(code, exec_id=exec_id)
    await until(lambda: exec_id in world.guest.forgotten)


def health_of(engine: LiveEngine, container: Container) -> Health:
    found = engine.containers.get(container.id).state.health
    assert found is not None
    return found


async def test_a_container_becomes_healthy_then_unhealthy_and_is_told_of(world: World, engine: LiveEngine) -> None:
    container = await running(engine, health_check=OFTEN)
    assert health_of(engine, container).status == "starting"
    told = actions(engine)
    await checked(world, 0, b"fine\n")
    await until(lambda: health_of(engine, container).status == "healthy")
    [kept] = health_of(engine, container).log
    assert (kept.exit_code, kept.output, kept.ended_ns >= kept.began_ns > 0) == (0, "fine\n", True)
    assert told() == [
        *("exec_create: /bin/sh -c is it well", "exec_start: /bin/sh -c is it well", "exec_die"),
        "health_status: healthy",
    ]
    await checked(world, 1)
    await checked(world, 7)
    await until(lambda: health_of(engine, container).status == "unhealthy")
    assert [kept.exit_code for kept in health_of(engine, container).log] == [0, 1, 7]
    assert health_of(engine, container).failing_streak == 2


async def test_a_check_that_takes_too_long_is_killed(world: World, engine: LiveEngine) -> None:
    asked = msgspec.structs.replace(OFTEN, timeout_ns=1_000_000, retries=1)
    container = await running(engine, health_check=asked)
    killed: list[int] = []

    def signalled(params: dict[str, Any]) -> dict[str, Any]:
        killed.append(params["signal"])
        world.guest.exit(137, exec_id=params["exec_id"], signal=9)
        return {}

    world.guest._process_signal = signalled  # type: ignore[attr-defined]
    await until(lambda: health_of(engine, container).status == "unhealthy")
    assert killed[:1] == [9]
    kept = health_of(engine, container).log[0]
    assert (kept.exit_code, kept.output) == (-1, "Health check exceeded timeout (1ms)")


async def test_a_check_that_cannot_be_started_is_a_failure(world: World, engine: LiveEngine) -> None:
    asked = msgspec.structs.replace(OFTEN, test=("CMD",), retries=1)
    container = await running(engine, health_check=asked)
    await until(lambda: health_of(engine, container).status == "unhealthy")
    assert health_of(engine, container).log[0].output == "No exec command specified"


async def test_nothing_is_checked_while_it_is_paused_or_after_its_end(world: World, engine: LiveEngine) -> None:
    container = await running(engine, health_check=OFTEN)
    await checked(world, 0)
    await engine.containers.pause(container.id)
    watched = [task for task in engine._tasks._tasks if task.get_name().startswith("health")]
    await until(lambda: all(task.done() for task in watched))
    assert not [task for task in engine._tasks._tasks if task.get_name().startswith("health")]
    await engine.containers.unpause(container.id)
    await checked(world, 0)
    await engine.containers.kill(container.id, "KILL")
    await until(lambda: not [task for task in engine._tasks._tasks if task.get_name().startswith("health")])
    state = engine.containers.get(container.id).state
    assert (state.status, state.health and state.health.status) == (Status.EXITED, "healthy"), "as it was last seen"
    await engine.containers.start(container.id)
    assert health_of(engine, container) == Health()


async def test_none_switches_checks_off_and_leaves_no_health(world: World, engine: LiveEngine) -> None:
    container = await running(engine, health_check=HealthCheck(test=("NONE",)))
    assert engine.containers.get(container.id).state.health is None


async def test_the_next_daemon_checks_on(world: World, engine: LiveEngine) -> None:
    container = await running(engine, health_check=OFTEN)
    await checked(world, 0)
    await until(lambda: health_of(engine, container).status == "healthy")
    engine = await world.next_daemon()
    assert health_of(engine, container).status == "healthy"
    await until(lambda: probe(world) != "")
    await checked(world, 1)
    await checked(world, 1)
    await until(lambda: health_of(engine, container).status == "unhealthy")


async def test_checks_do_not_push_out_what_users_run(world: World, engine: LiveEngine) -> None:
    container = await running(engine, health_check=OFTEN)
    exec_id = await engine.execs.create(container.id, ExecConfig(command=("x",)))
    for _ in range(3):
        await checked(world, 0)
    await until(lambda: len(health_of(engine, container).log) >= 3)
    assert len(engine.execs._execs) <= 2, "the user's, and at most the check that runs"
    assert engine.execs.get(exec_id).id == exec_id


def test_an_unknown_kind_of_check_is_refused_at_create() -> None:
    with pytest.raises(InvalidArgument):
        health.check(config(health_check=HealthCheck(test=("WHAT",))).health_check)
