"""Files of containers over fake machines: whose sandbox is asked, who gives a disk back when, what a client that leaves
leaves behind."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from tests.unit.engine.world import World, config, running, until

from hyper.engine import caretakers
from hyper.engine.engine import LiveEngine
from hyper.engine.model import Status
from hyper.errors import Conflict, HyperError, NotFound, ResourceExhausted, Unavailable


async def created(engine: LiveEngine) -> str:
    container, _ = await engine.containers.create(config(), name=None)
    return container.id


async def content(engine: LiveEngine, container: str, path: str = "/file") -> bytes:
    _, pieces = await engine.files.read(container, path)
    return b"".join([piece async for piece in pieces])


def requests(world: World, method: str) -> list[dict[str, object]]:
    return [params for guest in world.guests.values() for name, params in guest.model.requests if name == method]


async def test_a_running_containers_own_sandbox_is_asked(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    assert (await engine.files.stat(container.id, "/file")).size == 7
    assert await content(engine, container.id) == b"content"
    assert [item["at"] for item in requests(world, "files.read")] == [{"container": container.id}]
    assert len(world.alive()) == 1


async def test_a_paused_container_can_be_read(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    await engine.containers.pause(container.id)
    assert await content(engine, container.id) == b"content"


async def test_a_caretaker_serves_several_requests_and_lets_go_for_a_start(world: World, engine: LiveEngine) -> None:
    container = await created(engine)
    for _ in range(3):
        assert await content(engine, container) == b"content"
    assert len(world.alive()) == 1
    [at] = {str(item["at"]) for item in requests(world, "files.read")}
    assert "rootfs" in at
    caretaker = world.alive()
    await engine.containers.start(container)
    assert len(world.alive()) == 1
    assert world.alive() != caretaker


async def test_an_idle_caretaker_goes(world: World, engine: LiveEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caretakers, "IDLE_S", 0.0)
    container = await created(engine)
    assert await content(engine, container) == b"content"
    await until(lambda: not world.alive())
    assert await content(engine, container) == b"content"  # and another comes


async def test_a_removed_containers_caretaker_goes_with_it(world: World, engine: LiveEngine) -> None:
    container = await created(engine)
    await content(engine, container)
    await engine.containers.remove(container, force=False)
    world.assert_no_vm_is_left()
    with pytest.raises(NotFound, match="No such container"):
        await engine.files.stat(container, "/file")


async def test_a_start_breaks_off_a_request_that_does_not_end(
    world: World, engine: LiveEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caretakers, "GRACE_S", 0.0)
    container = await created(engine)
    await content(engine, container)
    world.guest.stalled = True
    _, pieces = await engine.files.read(container, "/file")
    assert await anext(pieces) == b"content"
    waiting = asyncio.ensure_future(anext(pieces))
    await engine.containers.start(container)
    with pytest.raises((Conflict, Unavailable)):
        await waiting
    assert engine.containers.get(container).state.status is Status.RUNNING


async def test_a_client_that_leaves_ends_the_work_in_the_guest(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    guest = world.guest
    guest.stalled = True
    _, pieces = await engine.files.read(container.id, "/file")
    async with aclosing(pieces):
        assert await anext(pieces) == b"content"
    [request] = requests(world, "files.read")
    assert guest.closed_streams == [request["stream"]]


async def test_what_is_not_there_is_told_with_the_users_own_words(engine: LiveEngine) -> None:
    container = await created(engine)
    name = engine.containers.get(container).name
    with pytest.raises(NotFound, match=f"Could not find the file /none in container {name}"):
        await engine.files.read(name, "/none")


async def test_changes_are_read_and_a_lying_guest_is_refused(
    world: World, engine: LiveEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = await running(engine)
    found = await engine.files.changes(container.id)
    listed = [(change.path, change.kind) for change in found]
    assert listed == [
        ("/etc", "changed"),
        ("/etc/x", "added"),
        ("/y", "deleted"),
    ]
    world.guest.changes = b"?/etc\0"
    with pytest.raises(Unavailable):
        await engine.files.changes(container.id)
    monkeypatch.setattr("hyper.engine.files.MAX_CHANGES_BYTES", 10)
    world.guest.changes = b"A/" + b"x" * 100 + b"\0"
    with pytest.raises(ResourceExhausted):
        await engine.files.changes(container.id)


async def test_a_caretaker_that_does_not_come_leaves_nothing(world: World, engine: LiveEngine) -> None:
    container = await created(engine)
    world.faults["sandbox.configure"] = Unavailable("no")
    with pytest.raises(HyperError):
        await engine.files.stat(container, "/file")
    world.assert_no_vm_is_left()
    world.faults.clear()
    await engine.containers.start(container)


async def test_no_more_than_a_few_caretakers_are_kept(
    world: World, engine: LiveEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caretakers, "MOST", 2)
    for _ in range(4):
        await content(engine, await created(engine))
    assert len(world.alive()) == 2
