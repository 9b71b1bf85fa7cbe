"""The pool: full when it can be, never in the way, and no promise: who finds it empty or broken takes a slower way."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.sandboxes.world import World, full, ready, until

from hyper.errors import DeadlineExceeded, HyperError, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from hyper.sandboxes import pool, templates
from hyper.sandboxes import source as source_module
from hyper.sandboxes.boot_image import BootImage, GuestSettings
from hyper.sandboxes.pool import default_size
from hyper.sandboxes.source import SandboxSource

GIB = 1 << 30


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens every few seconds happens every few milliseconds."""
    monkeypatch.setattr(pool, "_CHECK_S", 0.01)
    monkeypatch.setattr(pool, "_RETRY_S", 0.01)
    monkeypatch.setattr(pool, "_YIELD_S", 0.01)


@pytest.fixture
async def source(world: World) -> SandboxSource:
    """With two ready, none of the shared kind."""
    made = world.source(templates=True, pool=2)
    await ready(made)
    return made


def words(source: SandboxSource) -> str:
    return source.describe().pool


async def test_it_fills_with_rehearsed_clones_that_belong_to_nobody(world: World, source: SandboxSource) -> None:
    assert words(source) == "2 of 2 ready"
    pooled = world.alive()
    assert len(pooled) == 2 and world.records == []
    assert {sandbox.id for sandbox in world.rehearsed} >= set(pooled)
    assert all(world.machine(sandbox_id).deferred for sandbox_id in pooled)
    assert all(world.agent(sandbox_id).configured is None for sandbox_id in pooled)


async def test_one_that_is_taken_is_told_who_it_is_goes_first_and_is_replaced(
    world: World, source: SandboxSource
) -> None:
    pooled = world.alive()
    sandbox = await source.acquire(world.request(card=True))
    assert sandbox.rung == "pool" and sandbox.id in pooled and sandbox.card == "tap0"
    assert not world.machine(sandbox.id).deferred
    assert set(sandbox.timings) == {"configure"}, "what was done before it was asked for is no part of the start"
    configured = world.agent(sandbox.id).configured
    assert configured is not None and configured.hostname == "box" and configured.interfaces
    assert configured.time_ns and len(configured.entropy or b"") >= 32
    assert world.records == [sandbox.record]
    await until(lambda: words(source) == "2 of 2 ready" and len(world.alive()) == 3)


async def test_one_that_dies_is_replaced(world: World, source: SandboxSource) -> None:
    dead = world.alive()[0]
    await world.host.crash(dead, "it was shot")
    await until(lambda: len(world.alive()) == 2 and full(source))
    assert dead not in world.alive() and dead not in world.directories() and world.gone == []


async def test_one_that_dies_just_as_it_is_taken_is_passed_over(world: World, source: SandboxSource) -> None:
    world.next["configure"] = [Unavailable("it was shot")]
    sandbox = await source.acquire(world.request())
    assert sandbox.rung == "pool"
    await until(lambda: full(source))
    assert len(world.alive()) == 3


async def test_one_that_does_not_answer_any_more_is_replaced(
    world: World, source: SandboxSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(world.alive())
    world.next["ping"] = [DeadlineExceeded("no answer")]
    monkeypatch.setattr(pool, "_PING_EVERY_S", 0.0)
    await until(lambda: len(before & set(world.alive())) == 1)
    await until(lambda: full(source))
    assert len(world.alive()) == 2


async def test_it_is_given_up_when_the_host_runs_short_of_memory_and_filled_when_there_is_plenty(
    world: World, source: SandboxSource
) -> None:
    world.free_memory = 1 * GIB
    await until(lambda: world.alive() == [])
    assert words(source) == "0 of 2 ready; given up while the host is short of memory"
    assert (await source.acquire(world.request())).rung == "template"
    world.free_memory = 2 * GIB
    await until(lambda: words(source) == "0 of 2 ready; the host has not enough free memory for more")
    world.free_memory = 8 * GIB
    await until(lambda: words(source) == "2 of 2 ready")


async def test_a_pool_larger_than_the_memory_says_so_and_starts_go_on(world: World) -> None:
    source = world.source(templates=True, pool=4096)
    made: list[str] = []

    def used() -> int:
        made[:] = world.alive()
        return 16 * GIB - len(made) * 4 * GIB

    source._pool._available_bytes = used
    await source.open()
    await until(lambda: "not enough free memory for more" in words(source) and len(made) == 4)
    assert words(source) == "4 of 4096 ready; the host has not enough free memory for more"
    assert (await source.acquire(world.request())).rung == "pool"


async def test_a_burst_larger_than_the_pool_takes_the_slower_ways(world: World, source: SandboxSource) -> None:
    world.faults["rehearse"] = "hang"  # nothing comes after
    world.next["connect"] = [None, None, Unavailable("no"), None]  # refill, clone, a clone that fails, its cold boot
    sandboxes = [await source.acquire(world.request()) for _ in range(4)]
    assert [sandbox.rung for sandbox in sandboxes] == ["pool", "pool", "template", "cold"]
    assert len({sandbox.id for sandbox in sandboxes}) == 4


async def test_many_at_once_get_each_their_own(world: World, source: SandboxSource) -> None:
    sandboxes = await world.enough(source, 12)
    assert len({sandbox.id for sandbox in sandboxes}) == 12
    assert {"pool", "template"} == {sandbox.rung for sandbox in sandboxes}
    await until(lambda: full(source))
    assert len(world.alive()) == 14


# -- those that hang or fail


async def test_one_that_hangs_falls_through_in_bounded_time(
    world: World, source: SandboxSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_CLONE_S", 0.05)
    hung = world.alive()
    world.next["configure"] = ["hang"]
    sandbox = await source.acquire(world.request())
    assert sandbox.rung == "template" and sandbox.id in world.alive()
    assert len(set(hung) & set(world.alive())) == 1, "the one that hung is ended"


async def test_a_pool_full_of_hanging_ones_costs_no_more_than_one(
    world: World, source: SandboxSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_CLONE_S", 0.05)
    world.next["configure"] = ["hang", "hang"]
    sandbox = await source.acquire(world.request())
    assert sandbox.rung == "cold", "one of the pool, a clone, a boot"


@pytest.mark.parametrize("error", [DeadlineExceeded("slow"), NotFound("odd"), ResourceExhausted("full"), OSError("io")])
async def test_one_that_fails_falls_through(world: World, source: SandboxSource, error: HyperError | OSError) -> None:
    world.next["configure"] = [error]
    assert (await source.acquire(world.request())).rung == "template"


async def test_a_request_that_no_way_can_satisfy_is_refused_by_the_first(world: World, source: SandboxSource) -> None:
    world.faults["configure"] = InvalidArgument("there is no such sysctl")
    configured = world.reach("configure")
    with pytest.raises(InvalidArgument, match="no such sysctl"):
        await source.acquire(world.request())
    assert configured.is_set()
    await until(lambda: full(source))
    assert len(world.alive()) == 2 and world.records == []


async def test_cancelling_a_start_ends_the_one_it_had_taken(world: World, source: SandboxSource) -> None:
    before = world.alive()
    world.next["configure"] = ["hang"]
    hanging = world.reach("configure")
    task = asyncio.create_task(source.acquire(world.request()))
    await hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: full(source))
    assert len(world.alive()) == 2 and len(set(before) & set(world.alive())) == 1 and world.records == []


@pytest.mark.parametrize("error", [Unavailable("no"), FileExistsError("tap0"), RuntimeError("a bug")])
async def test_what_hinders_filling_is_told_and_gets_over(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    world.next["rehearse"] = [None]  # the template's
    world.faults["rehearse"] = error  # type: ignore[assignment]
    monkeypatch.setattr(templates, "_FAILURES", 1000)
    source = world.source(templates=True, pool=1)
    await source.open()
    await until(lambda: words(source) == f"0 of 1 ready; {error if isinstance(error, HyperError) else repr(error)}")
    assert (await source.acquire(world.request())).rung == "template"
    del world.faults["rehearse"]
    await until(lambda: words(source) == "1 of 1 ready")


# -- when


async def test_refills_wait_for_starts_under_way_but_not_for_ever(
    world: World, source: SandboxSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_YIELD_S", 3600.0)
    launched = len(world.host.machines)
    with source.starting():
        with source.starting():
            await source.acquire(world.request())
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert len(world.host.machines) == launched, "an outer start is still under way"
    await until(lambda: full(source))

    monkeypatch.setattr(pool, "_YIELD_S", 0.01)
    with source.starting():
        await source.acquire(world.request())
        await until(lambda: full(source))


async def test_without_a_template_it_waits_for_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_RETRY_S", 0.0)
    world.next["rehearse"] = [Unavailable("no")]
    source = world.source(templates=True, pool=1)
    await ready(source)


async def test_it_fills_once_what_was_missing_at_the_start_is_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = BootImage.prepare

    def missing(settings: GuestSettings) -> BootImage:
        raise NotFound("there is no guest kernel")

    monkeypatch.setattr(BootImage, "prepare", missing)
    source = world.source(templates=True, pool=1)
    await source.open()
    with pytest.raises(NotFound, match="no guest kernel"):
        await source.acquire(world.request())
    monkeypatch.setattr(BootImage, "prepare", prepare)
    assert (await source.acquire(world.request())).rung == "cold"
    await until(lambda: words(source) == "1 of 1 ready")


async def test_both_kinds_are_kept_and_never_mixed(world: World) -> None:
    source = world.source(templates=True, pool=1, shared_pool=1)
    await ready(source)
    assert words(source) == "2 of 2 ready"
    for shared in (True, False):
        sandbox = await source.acquire(world.request(shared_memory=shared))
        file = world.machine(sandbox.id).spec.memory_file
        assert file is not None and file.shared is shared and sandbox.rung == "pool"


@pytest.mark.parametrize("size", [0, 2])
async def test_closing_ends_all_that_nobody_took(world: World, size: int) -> None:
    source = world.source(templates=True, pool=size)
    await ready(source)
    taken = await source.acquire(world.request())
    await source.close()
    assert world.alive() == [taken.id] == world.directories()
    assert not any(task.get_name().startswith("pool") for task in asyncio.all_tasks())


async def test_closing_while_it_fills_leaves_nothing(world: World) -> None:
    world.next["rehearse"] = [None]
    world.faults["rehearse"] = "hang"
    source = world.source(templates=True, pool=2)
    await source.open()
    await until(lambda: len(world.alive()) == 1 and "MiB" in source.describe().template)
    await source.close()
    assert (world.alive(), world.directories()) == ([], [])


async def test_a_killed_daemons_pool_is_strays(world: World, source: SandboxSource) -> None:
    taken = await source.acquire(world.request())
    await until(lambda: full(source))
    for task in (*source._pool._tasks, *source._pool._watchers.values()):
        task.cancel()  # as kill -9 would
    successor = world.source(templates=True, pool=2)
    strays = await successor.reap_strays(frozenset({taken.id}))
    assert len(strays) == 2 and world.alive() == [taken.id] == world.directories()


async def test_an_empty_pool_is_off(world: World) -> None:
    source = world.source(templates=True, pool=0)
    await ready(source)
    assert words(source) == "switched off"
    assert (await source.acquire(world.request())).rung == "template"


@pytest.mark.parametrize(("memory_bytes", "size"), [(1 * GIB, 0), (4 * GIB, 1), (24 * GIB, 8), (512 * GIB, 8)])
def test_the_default_size_is_a_small_share_of_the_memory(memory_bytes: int, size: int) -> None:
    assert default_size(memory_bytes) == size
