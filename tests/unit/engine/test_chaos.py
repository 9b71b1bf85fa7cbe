"""Everything at once: whatever clients ask for in whatever order, hang up on or crash, memory, records and machines
agree in the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import Any

import pytest
from tests.unit.engine.world import World, config

from hyper.engine.engine import LiveEngine
from hyper.engine.model import ExecConfig, Status
from hyper.errors import HyperError


async def an_operation(world: World, engine: LiveEngine, choice: random.Random, reference: str, number: int) -> None:
    containers = engine.containers
    kind = choice.choice(
        ["start", "start", "stop", "kill", "term", "restart", "pause", "unpause", "rename", "rm", "exec"]
    )
    if choice.random() < 0.1:
        kind = "crash"
    work: Awaitable[Any]
    if kind == "crash":
        work = world.host.crash(containers.get(reference).sandbox_id, "it crashed")
    elif kind == "exec":
        work = engine.execs.start(
            await engine.execs.create(reference, ExecConfig(command=("x",), attach_stdout=True)), detach=True
        )
    elif kind == "rm":
        work = containers.remove(reference, force=choice.random() < 0.7)
    elif kind == "rename":
        work = containers.rename(reference, f"name{number}")
    elif kind in ("kill", "term"):
        work = containers.kill(reference, kind)
    else:
        work = getattr(containers, kind)(reference)
    await work


@pytest.mark.parametrize("seed", range(12))
async def test_operations_in_any_order_come_to_a_consistent_end(world: World, engine: LiveEngine, seed: int) -> None:
    choice = random.Random(seed)
    # A paused process dies of no signal but the last one, so that a stop waits for all of its time.
    asked = [config(auto_remove=number == 2, stop_timeout_s=0) for number in range(3)]
    ids = [(await engine.containers.create(one, name=None))[0].id for one in asked]
    tasks = []
    for number in range(60):
        tasks.append(asyncio.create_task(an_operation(world, engine, choice, choice.choice(ids), number)))
        for _ in range(choice.choice([0, 1, 5, 50, 400])):
            await asyncio.sleep(0)
        if choice.random() < 0.15:
            tasks[-1].cancel()  # its client hangs up
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [r for r in results if not isinstance(r, HyperError | asyncio.CancelledError | None)] == []
    await engine._tasks.settle("request", "teardown", "discard", "auto-remove", timeout_s=30)

    shown = {container.id: container for container in engine.containers.list()}
    live = {container.sandbox_id for container in shown.values() if container.state.live}
    assert set(world.alive()) == live == set(world.sandbox_files())
    assert world.recorded_sandboxes() == len(live)
    assert {name.split(".")[0] for name in world.container_files()} == set(shown)
    assert all(not managed.removing and (managed.run is not None) == managed.state.live for managed in engine._registry)
    assert len({container.name for container in shown.values()}) == len(shown)

    # The records say the same, and what is left can still be used and removed.
    engine = await world.next_daemon()
    again = {container.id: container.state.status for container in engine.containers.list()}
    assert again == {id_: container.state.status for id_, container in shown.items()}
    for id_, status in again.items():
        if status in (Status.CREATED, Status.EXITED):
            await engine.containers.start(id_)
        await engine.containers.remove(id_, force=True)
    await engine._tasks.settle("discard", timeout_s=30)
    world.assert_no_vm_is_left()
    assert world.container_files() == set()
