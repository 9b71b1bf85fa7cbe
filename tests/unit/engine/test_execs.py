"""Execs: their output and exit codes, also when the client, the container or the VM goes in the middle."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.engine.world import Guest, World, config, everything, running

from hyper.engine import execs as exec_module
from hyper.engine.engine import LiveEngine
from hyper.engine.model import ExecConfig
from hyper.errors import Conflict, InvalidArgument, NotFound, Unavailable


async def an_exec(engine: LiveEngine, container_id: str, **changes: bool) -> str:
    attached = {"attach_stdout": True, "attach_stderr": True, **changes}
    return await engine.execs.create(container_id, ExecConfig(command=("do", "it"), **attached))  # type: ignore[arg-type]


async def test_an_exec_from_create_to_exit(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    exec_id = await an_exec(engine, container.id)
    assert engine.execs.get(exec_id).exit_code is None
    client = await engine.execs.start(exec_id, detach=False)
    assert client is not None
    assert engine.execs.get(exec_id).running
    assert engine.containers.get(container.id).exec_ids == (exec_id,)
    world.guest.print(b"out", exec_id=exec_id)
    world.guest.print(b"err", exec_id=exec_id, stream="stderr")
    world.guest.exit(4, exec_id=exec_id)
    assert sorted([chunk async for chunk in client.output()]) == [("stderr", b"err"), ("stdout", b"out")]
    assert (engine.execs.get(exec_id).running, engine.execs.get(exec_id).exit_code) == (False, 4)
    assert engine.containers.get(container.id).exec_ids == ()
    with pytest.raises(Conflict, match="started before"):
        await engine.execs.start(exec_id, detach=False)
    await engine._tasks.settle("exec", timeout_s=5)
    assert world.guest.forgotten == [exec_id]


async def test_an_exec_is_started_once_also_by_two_clients_at_once(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    exec_id = await an_exec(engine, container.id)
    await engine.containers.pause(container.id)
    with pytest.raises(Conflict, match="is paused"):
        await engine.execs.start(exec_id, detach=True)
    await engine.containers.unpause(container.id)  # what could not be started may be tried again
    results = await asyncio.gather(
        *(engine.execs.start(exec_id, detach=True) for _ in range(2)), return_exceptions=True
    )
    assert sorted(type(result) for result in results if result is not None) == [Conflict]


async def test_what_an_exec_said_before_the_container_ended_is_heard(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    exec_id = await an_exec(engine, container.id)
    client = await engine.execs.start(exec_id, detach=False)
    assert client is not None
    guest = world.guest
    # The agent may tell the exec's end, and send its output, only after the container's own end.
    guest.exit(0, execs_first=False)
    await engine.containers.wait(container.id, "not-running")
    guest.print(b"last words", exec_id=exec_id)
    guest.exit(9, exec_id=exec_id)
    assert await everything(client) == b"last words"
    assert engine.execs.get(exec_id).exit_code == 9
    await engine._tasks.settle("teardown", timeout_s=5)
    world.assert_no_vm_is_left()


async def test_an_exec_in_a_vm_that_dies_was_killed(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    exec_id = await an_exec(engine, container.id)
    client = await engine.execs.start(exec_id, detach=False)
    assert client is not None
    await world.host.crash(container.sandbox_id, "it crashed")
    assert await everything(client) == b""
    assert engine.execs.get(exec_id).exit_code == 137


async def test_a_detached_exec_is_never_held_up(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    exec_id = await an_exec(engine, container.id)
    assert await engine.execs.start(exec_id, detach=True) is None
    for _ in range(3):
        world.guest.print(b"x" * (1 << 20), exec_id=exec_id)
    world.guest.exit(0, exec_id=exec_id)
    await engine._tasks.settle("exec", timeout_s=5)
    assert engine.execs.get(exec_id).exit_code == 0


async def test_a_client_that_hangs_up_while_an_exec_starts_does_not_hold_it_up(
    world: World, engine: LiveEngine
) -> None:
    container = await running(engine)
    exec_id = await an_exec(engine, container.id, attach_stdin=True)
    requests: list[asyncio.Task[object]] = []
    world.faults["process.exec"] = lambda guest: requests[0].cancel()
    requests.append(asyncio.create_task(engine.execs.start(exec_id, detach=False)))
    await asyncio.gather(*requests, return_exceptions=True)
    await engine._tasks.settle("request", timeout_s=5)
    assert engine.execs.get(exec_id).running
    await asyncio.wait_for(world.guest.model.inputs[world.guest.process(exec_id)["stdio"]["io"]].ended.wait(), 5)
    for _ in range(3):
        world.guest.print(b"x" * (1 << 20), exec_id=exec_id)
    world.guest.exit(0, exec_id=exec_id)
    await engine._tasks.settle("exec", timeout_s=5)
    assert engine.execs.get(exec_id).exit_code == 0


async def test_a_command_that_is_not_there(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    exec_id = await an_exec(engine, container.id)
    world.faults["process.exec"] = NotFound("no such file")
    with pytest.raises(NotFound):
        await engine.execs.start(exec_id, detach=False)
    assert engine.execs.get(exec_id).exit_code == 127
    assert engine.containers.get(container.id).exec_ids == ()


async def test_an_exec_into_a_container_that_has_just_ended_is_a_conflict(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    exec_id = await an_exec(engine, container.id)

    def end_and_refuse(guest: Guest) -> None:
        guest.exit(0)
        raise NotFound("no such container")

    world.faults["process.exec"] = end_and_refuse
    with pytest.raises(Conflict, match="is not running"):
        await engine.execs.start(exec_id, detach=False)
    with pytest.raises(Conflict, match="is not running"):
        await an_exec(engine, container.id)


async def test_execs_need_a_running_container_and_a_command(world: World, engine: LiveEngine) -> None:
    container, _ = await engine.containers.create(config(), name=None)
    with pytest.raises(Conflict, match="is not running"):
        await an_exec(engine, container.id)
    await engine.containers.start(container.id)
    with pytest.raises(InvalidArgument, match="No exec command specified"):
        await engine.execs.create(container.id, ExecConfig(command=()))
    exec_id = await an_exec(engine, container.id)
    with pytest.raises(Conflict, match="is not running"):
        await engine.execs.resize(exec_id, rows=1, columns=1)
    await engine.containers.pause(container.id)
    with pytest.raises(Conflict, match="is paused"):
        await engine.execs.start(exec_id, detach=False)
    await engine.containers.remove(container.id, force=True)
    with pytest.raises(NotFound, match="No such exec instance"):
        engine.execs.get(exec_id)


async def test_execs_are_bounded_and_running_ones_kept(
    world: World, engine: LiveEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exec_module, "KEPT_EXECS", 3)
    container = await running(engine)
    first = await an_exec(engine, container.id)
    await engine.execs.start(first, detach=True)
    rest = [await an_exec(engine, container.id) for _ in range(5)]
    assert [exec_id for exec_id in (first, *rest) if exec_id in engine.execs._execs] == [first, *rest[-2:]]


async def test_a_broken_exec_request_leaves_the_container_alone(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    exec_id = await an_exec(engine, container.id)
    world.faults["process.exec"] = Unavailable("not now")
    with pytest.raises(Unavailable):
        await engine.execs.start(exec_id, detach=True)
    ended = engine.containers.wait(container.id, "next-exit")
    world.guest.exit(0)
    assert (await ended).exit_code == 0
