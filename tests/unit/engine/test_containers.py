"""Create, rename, remove, attach: what clients do at the same time, and when they hang up."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from tests.unit.engine.world import World, config, everything, running, until

from hyper.engine.engine import LiveEngine
from hyper.engine.model import Status, WaitResult
from hyper.errors import Conflict, HyperError, InvalidArgument, NotFound, ResourceExhausted
from hyper.images.writable import WritableDisks


async def test_a_failed_create_leaves_nothing(
    world: World, engine: LiveEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.containers.create(config(), name="one")
    files = world.container_files()
    for name, error in (("one", Conflict), ("/one", Conflict), ("!", InvalidArgument), ("x", InvalidArgument)):
        with pytest.raises(error):
            await engine.containers.create(config(), name=name)
    with pytest.raises(NotFound, match="No such image"):
        await engine.containers.create(config(image="nosuch"), name="two")

    async def full(self: WritableDisks, disk_id: str, size_bytes: int) -> None:
        raise ResourceExhausted("no space")

    monkeypatch.setattr(WritableDisks, "create", full)
    with pytest.raises(ResourceExhausted):
        await engine.containers.create(config(), name="two")
    assert world.container_files() == files
    assert len(world.daemons[0].images.lease_holders()) == 1


async def test_of_two_creates_with_one_name_one_wins(world: World, engine: LiveEngine) -> None:
    results = await asyncio.gather(
        *(engine.containers.create(config(), name="one") for _ in range(2)), return_exceptions=True
    )
    [loser] = [result for result in results if isinstance(result, HyperError)]
    [winner] = engine.containers.list()
    assert loser.message == (
        f'Conflict. The container name "/one" is already in use by container "{winner.id}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
    assert all(winner.id in name for name in world.container_files())


async def test_unnamed_containers_created_at_once_get_different_names(
    engine: LiveEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "hyper.engine.containers.generate", lambda taken: next(name for name in ("aa", "bb", "cc") if not taken(name))
    )
    made = await asyncio.gather(*(engine.containers.create(config(), name=None) for _ in range(3)))
    assert sorted(container.name for container, _ in made) == ["aa", "bb", "cc"]


async def test_a_client_that_hangs_up_during_create_leaves_all_or_nothing(world: World, engine: LiveEngine) -> None:
    request = asyncio.create_task(engine.containers.create(config(), name="one"))
    await asyncio.sleep(0)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await engine._tasks.settle("request", timeout_s=10)
    known = {container.id for container in engine.containers.list()}
    assert (
        {name.split(".")[0] for name in world.container_files()}
        == known
        == set(world.daemons[0].images.lease_holders())
    )


async def test_rename(engine: LiveEngine) -> None:
    container, _ = await engine.containers.create(config(), name="one")
    await engine.containers.create(config(), name="two")
    await engine.containers.rename("one", "/uno")
    assert engine.containers.get("uno").id == container.id
    with pytest.raises(NotFound, match="No such container: one"):
        engine.containers.get("one")
    with pytest.raises(Conflict, match='name "/two" is already in use'):
        await engine.containers.rename("uno", "two")
    with pytest.raises(InvalidArgument, match="same name as its current name"):
        await engine.containers.rename("uno", "uno")
    with pytest.raises(InvalidArgument, match="Invalid container name"):
        await engine.containers.rename("uno", "un o")
    assert engine.containers.get(container.id).name == "uno"


async def test_a_rename_behind_a_removal_takes_no_name(engine: LiveEngine) -> None:
    await running_and_exited(engine)
    removal = asyncio.create_task(engine.containers.remove("one", force=True))
    await asyncio.sleep(0)
    results = await asyncio.gather(removal, engine.containers.rename("one", "two"), return_exceptions=True)
    assert results[0] is None
    await engine.containers.create(config(), name="two" if isinstance(results[1], NotFound) else "three")
    assert isinstance(results[1], NotFound)


async def running_and_exited(engine: LiveEngine) -> None:
    await engine.containers.create(config(), name="one")
    await engine.containers.start("one")
    await engine.containers.kill("one", "KILL")


async def test_remove_needs_force_while_it_runs(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    with pytest.raises(Conflict, match="stop the container before removing or force remove"):
        await engine.containers.remove(container.id, force=False)
    await engine.containers.pause(container.id)
    with pytest.raises(Conflict, match="is paused and must be unpaused first"):
        await engine.containers.remove(container.id, force=False)
    removed = engine.containers.wait(container.id, "removed")
    await engine.containers.remove(container.id, force=True)
    assert await removed == WaitResult(exit_code=137)
    assert world.container_files() == set() and engine.containers.list() == []
    world.assert_no_vm_is_left()


async def test_of_two_forced_removals_one_is_told_that_it_is_under_way(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    results = await asyncio.gather(
        *(engine.containers.remove(container.id, force=True) for _ in range(2)), return_exceptions=True
    )
    [refused] = [result for result in results if result is not None]
    assert isinstance(refused, Conflict) and "is already in progress" in refused.message
    assert engine.containers.list() == []


async def test_a_forced_removal_during_the_start_removes_it(world: World, engine: LiveEngine) -> None:
    container, _ = await engine.containers.create(config(), name=None)
    world.may_boot.clear()
    start = asyncio.create_task(engine.containers.start(container.id))
    await world.booting.wait()
    removal = asyncio.create_task(engine.containers.remove(container.id, force=True))
    await until(lambda: engine.containers.get(container.id).state.status is Status.REMOVING)
    late_start = asyncio.create_task(engine.containers.start(container.id))
    world.may_boot.set()
    await asyncio.gather(start, removal)
    with pytest.raises((Conflict, NotFound)):
        await late_start
    world.assert_no_vm_is_left()
    assert engine.containers.list() == [] and world.container_files() == set()


async def test_a_removal_during_the_start_without_force_is_refused(world: World, engine: LiveEngine) -> None:
    container, _ = await engine.containers.create(config(), name=None)
    world.may_boot.clear()
    start = asyncio.create_task(engine.containers.start(container.id))
    await world.booting.wait()
    removal = asyncio.create_task(engine.containers.remove(container.id, force=False))
    world.may_boot.set()
    await start
    with pytest.raises(Conflict, match="container is running"):
        await removal
    assert engine.containers.get(container.id).state.status is Status.RUNNING


async def test_a_client_that_hangs_up_during_a_removal_does_not_stop_it(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    removed = engine.containers.wait(container.id, "removed")
    request = asyncio.create_task(engine.containers.remove(container.id, force=True))
    await asyncio.sleep(0)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await removed
    await engine._tasks.settle("request", "discard", timeout_s=10)
    assert world.container_files() == set()
    world.assert_no_vm_is_left()


@pytest.mark.parametrize("vanish", ["before the start", "after the start"])
async def test_a_client_that_vanishes_ends_the_stdin_that_is_its_own(
    world: World, engine: LiveEngine, vanish: str
) -> None:
    container, _ = await engine.containers.create(config(open_stdin=True, stdin_once=True), name=None)
    client = await engine.containers.attach(container.id, stdin=True, stdout=True, stderr=True, stream=True, logs=False)
    if vanish == "before the start":
        writing = asyncio.create_task(client.write(b"never sent"))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await client.close()
        await engine.containers.start(container.id)
        expected = b""
    else:
        await engine.containers.start(container.id)
        await client.write(b"sent")
        await client.close()
        expected = b"sent"
    incoming = world.guest.model.inputs[world.guest.process()["stdio"]["io"]]
    await asyncio.wait_for(incoming.ended.wait(), 5)
    assert bytes(incoming.data) == expected


async def test_stdin_that_is_not_a_clients_own_stays_open(world: World, engine: LiveEngine) -> None:
    container = await running(engine, open_stdin=True)
    for word in (b"one", b"two"):
        client = await engine.containers.attach(
            container.id, stdin=True, stdout=True, stderr=True, stream=True, logs=False
        )
        await client.write(word)
        await client.finish()
        await client.close()
    incoming = world.guest.model.inputs[world.guest.process()["stdio"]["io"]]
    await until(lambda: bytes(incoming.data) == b"onetwo")
    assert not incoming.ended.is_set()


async def test_attach_with_logs_shows_each_byte_once(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    first = await engine.containers.attach(container.id, stdin=False, stdout=True, stderr=True, stream=True, logs=False)
    live = first.output()
    world.guest.print(b"kept\nwaits for its ")
    assert (await anext(live))[1] == b"kept\nwaits for its "
    second = await engine.containers.attach(container.id, stdin=False, stdout=True, stderr=True, stream=True, logs=True)
    only_logs = await engine.containers.attach(
        container.id, stdin=False, stdout=True, stderr=True, stream=False, logs=True
    )
    world.guest.print(b"newline\nand more")
    world.guest.exit(0)
    assert await everything(second) == b"kept\nwaits for its newline\nand more"
    assert await everything(only_logs) == b"kept\nwaits for its "


async def test_logs_follow_to_the_exit(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    followed = engine.containers.logs(container.id, stdout=True, stderr=False, follow=True)
    world.guest.print(b"one\n")
    world.guest.print(b"not this\n", stream="stderr")
    assert (await anext(followed)).data == b"one\n"
    world.guest.print(b"two")
    world.guest.exit(0)
    assert [entry.data async for entry in followed] == [b"two"]


async def test_references_are_ids_names_and_prefixes(engine: LiveEngine) -> None:
    container, _ = await engine.containers.create(config(), name="abc")
    for reference in (container.id, container.id[:5], "abc", "/abc"):
        assert engine.containers.get(reference).id == container.id
    with pytest.raises(NotFound, match="No such container: nosuch"):
        engine.containers.get("nosuch")
    while len({item.id[0] for item in engine.containers.list()}) == len(engine.containers.list()):
        await engine.containers.create(config(), name=None)
    ids = sorted(item.id for item in engine.containers.list())
    shared = next(one[0] for one, other in itertools.pairwise(ids) if one[0] == other[0])
    with pytest.raises(InvalidArgument, match="Multiple IDs found with provided prefix"):
        engine.containers.get(shared)


async def test_an_image_in_use_is_not_removed(engine: LiveEngine) -> None:
    await engine.containers.create(config(), name="one")
    with pytest.raises(Conflict):
        engine.images.remove("tool", force=False)
