"""The next daemon: what it takes over, what it records, what it sweeps up."""

from __future__ import annotations

import errno

import pytest
from tests.unit.engine.world import World, config, everything, running, until

from hyper.engine.engine import LiveEngine
from hyper.engine.log_file import LogWriter
from hyper.engine.model import ExecConfig, Status, WaitResult
from hyper.errors import NotFound
from hyper.system.database import Database


async def logged(engine: LiveEngine, container_id: str) -> bytes:
    entries = engine.containers.logs(container_id, stdout=True, stderr=True, follow=False)
    return b"".join([entry.data async for entry in entries])


async def heard(world: World, engine: LiveEngine, container_id: str, text: bytes) -> None:
    """Until the engine has it (it has been published by then, and logged before)."""
    client = await engine.containers.attach(container_id, stdin=False, stdout=True, stderr=True, stream=True, logs=True)
    seen = b""
    async for _, data in client.output():
        seen += data
        if seen.endswith(text):
            break
    await client.close()


async def test_a_running_container_is_taken_over_with_its_streams(world: World, engine: LiveEngine) -> None:
    container = await running(engine, open_stdin=True)
    world.guest.print(b"before\nhalf a ")
    await heard(world, engine, container.id, b"half a ")
    stdin = await engine.containers.attach(
        container.id, stdin=True, stdout=False, stderr=False, stream=True, logs=False
    )
    await stdin.write(b"one")
    incoming = world.guest.model.inputs[world.guest.process()["stdio"]["io"]]
    await until(lambda: bytes(incoming.data) == b"one")

    engine = await world.next_daemon()
    state = engine.containers.get(container.id).state
    assert (state.status, state.started_ns) == (Status.RUNNING, container.state.started_ns)
    world.guest.print(b"line\nafter\n")
    stdin = await engine.containers.attach(
        container.id, stdin=True, stdout=False, stderr=False, stream=True, logs=False
    )
    await stdin.write(b"two")
    await until(lambda: bytes(incoming.data) == b"onetwo")
    ended = engine.containers.wait(container.id, "next-exit")
    world.guest.exit(6)
    assert (await ended).exit_code == 6
    assert await logged(engine, container.id) == b"before\nhalf a line\nafter\n"


async def test_output_lost_on_a_full_disk_does_not_break_the_link_of_the_next_daemon(
    world: World, engine: LiveEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = await running(engine)
    sent = world.guest.model.outputs[world.guest.process()["stdio"]["io"]]
    world.guest.print(b"kept\n")
    await until(lambda: sent.kept_bytes == 0)

    def full(self: LogWriter, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(LogWriter, "_write_all", full)
        world.guest.print(b"lost\n")
        await until(lambda: sent.kept_bytes == 0)  # acknowledged: the guest has it no longer
        engine = await world.next_daemon()
        world.guest.print(b"lost too\n")
        await until(lambda: sent.kept_bytes == 0)
    world.guest.print(b"kept again\n")
    ended = engine.containers.wait(container.id, "next-exit")
    world.guest.exit(0)
    assert await ended == WaitResult(exit_code=0)
    assert await logged(engine, container.id) == b"kept\nkept again\n"


async def test_an_exit_that_nobody_saw(world: World, engine: LiveEngine) -> None:
    container = await running(engine, auto_remove=False)
    removed = await running(engine, auto_remove=True)
    guests = [world.guests[one.sandbox_id] for one in (container, removed)]
    await world.daemons.pop().leave()
    for guest in guests:
        guest.print(b"bye\n")
        guest.exit(42)
    engine = await world.daemon()
    assert (await engine.containers.wait(container.id, "not-running")).exit_code == 42
    assert await logged(engine, container.id) == b"bye\n"
    await engine._tasks.settle("follow", "teardown", "discard", timeout_s=10)
    assert [item.id for item in engine.containers.list()] == [container.id]
    world.assert_no_vm_is_left()


async def test_a_pause_that_was_not_recorded_is_seen(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    world.guest.containers[container.id]["status"] = "paused"
    engine = await world.next_daemon()
    assert engine.containers.get(container.id).state.status is Status.PAUSED
    await engine.containers.unpause(container.id)


@pytest.mark.parametrize("auto_remove", [False, True])
async def test_a_vm_that_is_gone(world: World, engine: LiveEngine, auto_remove: bool) -> None:
    container = await running(engine, auto_remove=auto_remove)
    await world.daemons.pop().leave()
    await world.host.crash(container.sandbox_id, "it crashed")
    engine = await world.daemon()
    if auto_remove:
        assert engine.containers.list() == [] and world.container_files() == set()
    else:
        state = engine.containers.get(container.id).state
        assert (state.status, state.exit_code) == (Status.EXITED, 137)
        assert "VM ended while no hyperd was watching" in state.error
        await engine.containers.start(container.id)
        await engine.containers.kill(container.id, "KILL")
        await engine._tasks.settle("teardown", timeout_s=10)
    world.assert_no_vm_is_left()


@pytest.mark.parametrize(
    "lie", ["no such container", "no init", "two inits", "one stream for both", "never started", "no agent"]
)
async def test_a_guest_that_lies_loses_its_vm_and_stops_nobody(world: World, engine: LiveEngine, lie: str) -> None:
    liar, other = await running(engine), await running(engine)
    guest = world.guests[liar.sandbox_id]
    container = guest.containers[liar.id]
    [init] = container["processes"]
    if lie == "no such container":
        guest.containers.clear()
    elif lie == "no init":
        container["processes"] = []
    elif lie == "two inits":
        container["processes"] = [init, init]
    elif lie == "one stream for both":
        init["stdio"] = {**init["stdio"], "stderr": init["stdio"]["io"]}
    elif lie == "never started":
        container["status"] = "created"
    else:
        init["pid"] = "many"
    engine = await world.next_daemon()
    state = engine.containers.get(liar.id).state
    assert (state.status, state.exit_code) == (Status.EXITED, 137) and state.error
    assert world.alive() == [other.sandbox_id]
    assert engine.containers.get(other.id).state.status is Status.RUNNING
    await engine.containers.start(liar.id)


async def test_execs_of_the_daemon_before_are_dropped_as_they_end(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    ids = []
    for _ in range(2):
        exec_id = await engine.execs.create(container.id, ExecConfig(command=("x",), attach_stdout=True))
        await engine.execs.start(exec_id, detach=True)
        ids.append(exec_id)
    guest = world.guest
    guest.print(b"some", exec_id=ids[0])
    await world.daemons.pop().leave()
    guest.print(b"more", exec_id=ids[0])
    guest.exit(0, exec_id=ids[0])
    engine = await world.daemon()
    with pytest.raises(NotFound):
        engine.execs.get(ids[0])
    assert engine.containers.get(container.id).exec_ids == (ids[1],)
    guest.exit(0, exec_id=ids[1])
    await engine._tasks.settle("exec", timeout_s=5)
    assert sorted(guest.forgotten) == sorted(ids)
    stdio = guest.process()["stdio"]
    assert guest.model.resets and not {stdio["io"], stdio["stderr"]} & set(guest.model.resets)
    assert engine.containers.get(container.id).state.status is Status.RUNNING


async def test_what_no_record_names_is_swept(world: World, engine: LiveEngine) -> None:
    kept = await running(engine)
    stray = await running(engine)
    lost, _ = await engine.containers.create(config(), name="lost")
    await world.daemons[-1].leave()
    world.daemons.pop()
    database = Database(world.folder / "data" / "state.db")
    for container in (stray, lost):  # as if the daemon had been killed right behind the removal of the records
        database.connection.execute("DELETE FROM containers WHERE id = ?", (container.id,))
    database.close()
    engine = await world.daemon()
    assert world.alive() == [kept.sandbox_id] == world.sandbox_files()
    assert world.recorded_sandboxes() == 1
    assert {name.split(".")[0] for name in world.container_files()} == {kept.id}
    assert world.daemons[0].images.lease_holders() == [kept.id]


async def test_attached_clients_of_the_next_daemon_hear_the_rest(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    engine = await world.next_daemon()
    client = await engine.containers.attach(container.id, stdin=False, stdout=True, stderr=True, stream=True, logs=True)
    world.guest.print(b"now\n")
    world.guest.exit(0)
    assert await everything(client) == b"now\n"
