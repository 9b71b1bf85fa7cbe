"""Start, stop, kill, pause, restart, and everything that can come in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.unit.engine.world import World, config, everything, running

from hyper.engine import lifecycle
from hyper.engine.engine import LiveEngine
from hyper.engine.model import Container, Status, WaitResult
from hyper.engine.records import EngineRecords
from hyper.errors import (
    Conflict,
    FailedPrecondition,
    HyperError,
    InvalidArgument,
    NotFound,
    NotModified,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)


def actions(engine: LiveEngine) -> Callable[[], list[str]]:
    """The actions of containers' events since then."""
    kept = engine.events._kept
    begin = len(kept)
    return lambda: [event.action for event in list(kept)[begin:] if event.type == "container"]


async def test_a_run_from_create_to_removal(world: World, engine: LiveEngine) -> None:
    told = actions(engine)
    container, warnings = await engine.containers.create(config(), name="one")
    assert warnings == () and container.path == "/bin/tool"
    client = await engine.containers.attach("one", stdin=False, stdout=True, stderr=True, stream=True, logs=False)
    ended = engine.containers.wait("one", "next-exit")
    await engine.containers.start("one")
    assert engine.containers.get("one").state.status is Status.RUNNING
    world.guest.print(b"hello\n")
    world.guest.exit(7)
    assert await ended == WaitResult(exit_code=7)
    assert await everything(client) == b"hello\n"
    state = engine.containers.get("one").state
    assert (state.status, state.exit_code, state.pid, state.error) == (Status.EXITED, 7, 0, "")
    logged = [item.data async for item in engine.containers.logs("one", stdout=True, stderr=True, follow=False)]
    assert logged == [b"hello\n"]
    await engine.containers.remove("one", force=False)
    world.assert_no_vm_is_left()
    assert world.container_files() == set()
    assert told() == ["create", "attach", "start", "die", "destroy"]


@pytest.mark.parametrize("auto_remove", [False, True])
async def test_only_a_container_that_is_removed_at_its_end_is_ephemeral(
    world: World, engine: LiveEngine, auto_remove: bool
) -> None:
    await running(engine, auto_remove=auto_remove)
    [params] = [params for method, params in world.guest.model.requests if method == "container.create"]
    assert params["ephemeral"] is auto_remove


async def test_who_starts_a_container_that_ends_at_once_still_hears_how_it_started(
    world: World, engine: LiveEngine
) -> None:
    container, _ = await engine.containers.create(config(auto_remove=True), name=None)
    removed = engine.containers.wait(container.id, "removed")
    world.faults["container.start"] = lambda guest: guest.exit(0)
    started = await engine.containers.start(container.id)
    assert (started.state.status, started.state.rung) == (Status.RUNNING, "cold")
    assert {"sandbox", "agent.start", "total"} < started.timings_ms.keys()
    await removed


async def test_a_failed_start_has_no_timeline(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    await engine.containers.kill(container.id, "KILL")
    world.faults["container.start"] = NotFound("no")
    with pytest.raises(NotFound):
        await engine.containers.start(container.id)
    failed = engine.containers.get(container.id)
    assert (failed.timings_ms, failed.state.rung) == ({}, "")


@pytest.mark.parametrize("step", ["container.create", "container.start"])
@pytest.mark.parametrize(
    ("error", "code"), [(NotFound("no"), 127), (PermissionDenied("no"), 126), (Unavailable("no"), 128)]
)
async def test_a_failed_start_leaves_nothing_and_is_told_as_docker_tells_it(
    world: World, engine: LiveEngine, step: str, error: HyperError, code: int
) -> None:
    container, _ = await engine.containers.create(config(), name="one")
    told = actions(engine)
    next_exit = engine.containers.wait("one", "next-exit")
    removed = engine.containers.wait("one", "removed")
    world.faults[step] = error
    with pytest.raises(type(error), match="no"):
        await engine.containers.start("one")
    world.assert_no_vm_is_left()
    state = engine.containers.get("one").state
    assert (state.status, state.exit_code, state.error) == (Status.CREATED, code, "no")
    assert await engine.containers.wait("one", "not-running") == WaitResult(exit_code=code, error="no")
    assert not next_exit.done()  # type: ignore[attr-defined]
    assert told() == []
    # It can be started when the reason is gone.
    del world.faults[step]
    await engine.containers.start("one")
    assert engine.containers.get("one").state.error == ""
    world.faults["container.start"] = error
    await engine.containers.kill("one", "KILL")
    with pytest.raises(type(error)):
        await engine.containers.start(container.id)
    await engine.containers.remove("one", force=False)
    assert await removed == WaitResult(exit_code=code)  # no error: the docker CLI would print it once more


async def test_what_the_host_lacks_is_not_taken_for_a_missing_program(world: World, engine: LiveEngine) -> None:
    container, _ = await engine.containers.create(config(), name=None)
    world.faults["sandbox.configure"] = NotFound("there is no guest kernel")
    with pytest.raises(FailedPrecondition, match="no guest kernel"):
        await engine.containers.start(container.id)
    assert engine.containers.get(container.id).state.exit_code == 128
    world.assert_no_vm_is_left()


async def test_a_failed_start_of_rm_removes_it(world: World, engine: LiveEngine) -> None:
    world.faults["container.start"] = NotFound("no")
    container, _ = await engine.containers.create(config(auto_remove=True), name=None)
    removed = engine.containers.wait(container.id, "removed")
    with pytest.raises(NotFound):
        await engine.containers.start(container.id)
    assert await removed == WaitResult(exit_code=127)


async def test_a_client_that_hangs_up_does_not_stop_a_start(world: World, engine: LiveEngine) -> None:
    container, _ = await engine.containers.create(config(), name=None)
    world.may_boot.clear()
    request = asyncio.create_task(engine.containers.start(container.id))
    await world.booting.wait()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    world.may_boot.set()
    with pytest.raises(NotModified):
        await engine.containers.start(container.id)  # waits for the one under way
    assert engine.containers.get(container.id).state.status is Status.RUNNING


async def test_a_daemon_that_closes_during_a_start_leaves_nothing(world: World, engine: LiveEngine) -> None:
    container, _ = await engine.containers.create(config(), name=None)
    world.may_boot.clear()
    request = asyncio.create_task(engine.containers.start(container.id))
    await world.booting.wait()
    await engine.close(stop_containers=True)
    await asyncio.gather(request, return_exceptions=True)
    world.assert_no_vm_is_left()
    assert engine.containers.get(container.id).state.status is Status.CREATED


async def test_a_start_that_cannot_be_recorded_did_not_happen(
    world: World, engine: LiveEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    container, _ = await engine.containers.create(config(), name=None)

    def full(self: EngineRecords, container: object) -> None:
        raise ResourceExhausted("the disk is full")

    monkeypatch.setattr(EngineRecords, "update", full)
    with pytest.raises(ResourceExhausted):
        await engine.containers.start(container.id)
    world.assert_no_vm_is_left()
    assert engine.containers.get(container.id).state.status is Status.CREATED


async def test_an_end_that_cannot_be_recorded_is_told_all_the_same(
    world: World, engine: LiveEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = await running(engine)
    ended = engine.containers.wait(container.id, "next-exit")

    def full(self: EngineRecords, container: object) -> None:
        raise ResourceExhausted("the disk is full")

    monkeypatch.setattr(EngineRecords, "update", full)
    world.guest.exit(3)
    assert await ended == WaitResult(exit_code=3)
    assert engine.containers.get(container.id).state.status is Status.EXITED


async def test_a_vm_that_dies_during_the_start_fails_it(world: World, engine: LiveEngine) -> None:
    container, _ = await engine.containers.create(config(), name=None)
    world.faults["container.create"] = lambda guest: world.spawn(world.host.crash(guest.sandbox_id, "it crashed"))
    world.faults["container.start"] = "silent"
    with pytest.raises(Unavailable):
        await engine.containers.start(container.id)
    world.assert_no_vm_is_left()
    assert engine.containers.get(container.id).state.exit_code == 128


async def test_a_vm_that_dies_takes_the_container_with_it_and_says_why(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    ended = engine.containers.wait(container.id, "next-exit")
    await world.host.crash(container.sandbox_id, "out of luck")
    result = await ended
    assert result.exit_code == 137 and "out of luck" in result.error
    await engine.containers.start(container.id)
    assert engine.containers.get(container.id).state.error == ""


async def test_stop_asks_then_kills(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    told = actions(engine)
    world.guest.ignored_signals = {15}  # what the image names is nonsense, so it is SIGTERM
    await engine.containers.stop(container.id, timeout_s=0)
    assert engine.containers.get(container.id).state.exit_code == 137
    with pytest.raises(NotModified):
        await engine.containers.stop(container.id)
    assert [action for action in told() if action != "kill"] == ["die", "stop"]
    await engine.containers.start(container.id)
    await engine.containers.stop(container.id, signal="USR1", timeout_s=-1)
    assert engine.containers.get(container.id).state.exit_code == 138


@pytest.mark.parametrize("how", ["stop", "kill", "remove"])
async def test_a_guest_that_does_not_answer_is_ended_in_bounded_time(
    world: World, engine: LiveEngine, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(lifecycle, "_KILL_WAIT_S", 0.05)
    container = await running(engine)
    world.faults["container.signal"] = "silent"
    async with asyncio.timeout(20):
        if how == "stop":
            await engine.containers.stop(container.id, timeout_s=0)
        elif how == "kill":
            await engine.containers.kill(container.id, "9")
        else:
            await engine.containers.remove(container.id, force=True)
    assert world.alive() == []


@pytest.mark.parametrize("how", ["stop", "kill -9", "kill -15", "remove"])
async def test_a_paused_container_can_be_ended(world: World, engine: LiveEngine, how: str) -> None:
    container = await running(engine)
    await engine.containers.pause(container.id)
    ended = engine.containers.wait(container.id, "next-exit")
    if how == "stop":
        await engine.containers.stop(container.id)
    elif how == "remove":
        await engine.containers.remove(container.id, force=True)
    else:
        await engine.containers.kill(container.id, how.removeprefix("kill -"))
    assert (await ended).exit_code in (137, 143)


async def test_a_signal_that_docker_thaws_for_leaves_it_running(world: World, engine: LiveEngine) -> None:
    container = await running(engine, stop_signal="SIGUSR1")
    world.guest.ignored_signals = {10, 15}
    await engine.containers.pause(container.id)
    await engine.containers.kill(container.id, "TERM")
    assert engine.containers.get(container.id).state.status is Status.PAUSED
    await engine.containers.kill(container.id, "USR1")
    assert engine.containers.get(container.id).state.status is Status.RUNNING


@pytest.mark.parametrize("method", ["container.pause", "container.resume"])
async def test_an_exit_during_pause_or_unpause_stays_an_exit(world: World, engine: LiveEngine, method: str) -> None:
    container = await running(engine)
    if method == "container.resume":
        await engine.containers.pause(container.id)
    ended = engine.containers.wait(container.id, "next-exit")

    def hold_the_answer_until_the_end(guest: object) -> None:
        world.guest.exit(5)
        world.faults.clear()

    world.faults[method] = hold_the_answer_until_the_end
    call = engine.containers.pause if method == "container.pause" else engine.containers.unpause
    await asyncio.gather(call(container.id), return_exceptions=True)
    assert (await ended).exit_code == 5
    assert engine.containers.get(container.id).state.status is Status.EXITED
    await engine.containers.start(container.id)


async def test_restart_of_rm_restarts_and_its_end_removes(world: World, engine: LiveEngine) -> None:
    container = await running(engine, auto_remove=True)
    removed = engine.containers.wait(container.id, "removed")
    told = actions(engine)
    await engine.containers.restart(container.id)
    assert told() == ["kill", "die", "stop", "start", "restart"]
    assert engine.containers.get(container.id).state.status is Status.RUNNING
    world.guest.exit(2)
    assert (await removed).exit_code == 2


async def test_stop_and_start_at_once_come_to_a_clear_end(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    jobs = [engine.containers.stop, engine.containers.start, engine.containers.restart, engine.containers.stop]
    results = await asyncio.gather(*(job(container.id) for job in jobs), return_exceptions=True)
    assert all(isinstance(result, NotModified | Container | None) for result in results)
    state = engine.containers.get(container.id).state
    assert len(world.alive()) == 1 or state.status is Status.EXITED


async def test_kill_needs_a_process_and_a_signal(world: World, engine: LiveEngine) -> None:
    container, _ = await engine.containers.create(config(), name="one")
    with pytest.raises(Conflict, match=f"cannot kill container: one: container {container.id} is not running"):
        await engine.containers.kill("one", "TERM")
    with pytest.raises(InvalidArgument):
        await engine.containers.kill("one", "NOPE")
    with pytest.raises(Conflict, match="not running"):
        await engine.containers.pause("one")


async def test_a_stalled_client_does_not_delay_the_exit(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    client = await engine.containers.attach(
        container.id, stdin=False, stdout=True, stderr=True, stream=True, logs=False
    )
    ended = engine.containers.wait(container.id, "next-exit")
    line = b"x" * 1023 + b"\n"
    world.guest.print(line * 1024)
    world.guest.print(line * 512)
    world.guest.exit(0)
    assert (await asyncio.wait_for(ended, 5)).exit_code == 0
    assert await everything(client) == line * 1536


async def test_close_stops_what_runs_and_waits_until_it_is_gone(world: World, engine: LiveEngine) -> None:
    kept = await running(engine)
    gone = await running(engine, auto_remove=True)
    await engine.close(stop_containers=True)
    world.assert_no_vm_is_left()
    assert engine.containers.get(kept.id).state.exit_code == 143
    assert gone.id not in " ".join(world.container_files())
