"""What containers use, and the removal of those that use nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.unit.engine.world import World, config, running

from hyper.engine.engine import LiveEngine
from hyper.engine.model import Container
from hyper.errors import Conflict, NotFound, Unavailable


async def test_a_running_container_is_asked_for_in_its_guest(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    world.guest.memory_stat = {"anon": 7, "active_file": 0, "inactive_file": 0, "slab_reclaimable": 0}
    found = await engine.containers.usage(container.id)
    assert found is not None
    assert (found.memory_bytes, found.memory_detail["anon"], found.cpus >= 1) == (7, 7, True)
    assert found.memory_limit_bytes > 0, "without a limit it is what its VM has"
    assert found.machine_ns == (found.time_ns - container.state.started_ns) * found.cpus


async def test_one_that_does_not_run_uses_nothing(world: World, engine: LiveEngine) -> None:
    container, _ = await engine.containers.create(config(), name=None)
    assert await engine.containers.usage(container.id) is None
    with pytest.raises(NotFound):
        await engine.containers.usage("nobody")


async def test_one_that_ends_meanwhile_uses_nothing(world: World, engine: LiveEngine) -> None:
    container = await running(engine)
    world.faults["container.stats"] = NotFound("container is gone")
    with pytest.raises(NotFound, match="gone"):  # while it runs, that is an error
        await engine.containers.usage(container.id)
    await engine.containers.kill(container.id, "KILL")
    assert await engine.containers.usage(container.id) is None


def everyone(container: Container) -> bool:
    return True


async def test_prune_removes_what_does_not_run_and_is_accepted(world: World, engine: LiveEngine) -> None:
    kept = await running(engine)
    ids: dict[str, str] = {}
    for name in ("one", "two"):
        container, _ = await engine.containers.create(config(), name=name)
        ids[name] = container.id
    only_one: Callable[[Container], bool] = lambda container: container.name == "one"  # noqa: E731
    removed, freed_bytes = await engine.containers.prune(only_one)
    assert (removed, freed_bytes >= 0) == ([ids["one"]], True)
    [told] = [event for event in engine.events._kept if event.action == "prune"]
    assert (told.type, told.attributes) == ("container", {"reclaimed": str(freed_bytes)})
    assert (await engine.containers.prune(everyone))[0] == [ids["two"]]
    assert [container.id for container in engine.containers.list()] == [kept.id]


async def test_one_prune_at_a_time(world: World, engine: LiveEngine) -> None:
    await engine.containers.create(config(), name=None)
    engine.containers._pruning = True
    with pytest.raises(Conflict, match="a prune operation is already running"):
        await engine.containers.prune(everyone)
    engine.containers._pruning = False


async def test_what_cannot_be_removed_does_not_stop_a_prune(
    world: World, engine: LiveEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = await engine.containers.create(config(), name=None)
    second, _ = await engine.containers.create(config(), name=None)
    remove = engine.containers.remove

    async def failing(reference: str, *, force: bool) -> None:
        if reference == first.id:
            raise Unavailable("taken meanwhile")
        await remove(reference, force=force)

    monkeypatch.setattr(engine.containers, "remove", failing)
    assert (await engine.containers.prune(everyone))[0] == [second.id]
