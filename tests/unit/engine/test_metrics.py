"""What the engine counts of a container's life."""

from __future__ import annotations

import pytest
from tests.unit.engine.world import World, config, running

from hyper import __version__
from hyper.engine.engine import LiveEngine
from hyper.errors import HyperError, NotFound, Unavailable
from hyper.metrics import Distribution


def values(world: World, name: str) -> dict[tuple[str, ...], float | Distribution]:
    return next(
        dict(family.values) for family in world.daemons[-1].metrics.families() if family.name == f"hyper_{name}"
    )


async def test_starts_and_their_phases_by_rung(world: World, engine: LiveEngine) -> None:
    assert values(world, "container_starts_total") == {("pool",): 0, ("template",): 0, ("cold",): 0}
    container = await running(engine)
    assert values(world, "container_starts_total")[("cold",)] == 1
    [total] = values(world, "container_start_seconds").values()
    phases = values(world, "container_start_phase_seconds")
    assert isinstance(total, Distribution)
    assert total.sum == pytest.approx(container.timings_ms["total"] / 1e3)
    assert {phase for phase, _ in phases} == container.timings_ms.keys() - {"total"}
    assert {rung for _, rung in phases} == {"cold"}


@pytest.mark.parametrize(
    ("method", "error", "labels"),
    [
        ("sandbox.configure", Unavailable("no"), ("none", "Unavailable")),
        ("container.start", NotFound("no"), ("cold", "NotFound")),
    ],
)
async def test_failures_by_rung_and_kind(
    world: World, engine: LiveEngine, method: str, error: HyperError, labels: tuple[str, str]
) -> None:
    container, _ = await engine.containers.create(config(), name=None)
    world.faults[method] = error
    with pytest.raises(type(error)):
        await engine.containers.start(container.id)
    assert values(world, "container_start_failures_total") == {labels: 1}
    assert values(world, "container_starts_total")[("cold",)] == 0


async def test_exits_by_how(world: World, engine: LiveEngine) -> None:
    for code in (0, 3):
        container = await running(engine)
        ended = engine.containers.wait(container.id, "not-running")
        world.guest.exit(code)
        await ended
    container = await running(engine)
    ended = engine.containers.wait(container.id, "not-running")
    await world.power_off(world.alive()[0])
    await ended
    assert values(world, "container_exits_total") == {("success",): 1, ("failure",): 1, ("oom",): 0, ("vm_lost",): 1}


async def test_what_there_is_now(world: World, engine: LiveEngine) -> None:
    await engine.containers.create(config(), name=None)
    container = await running(engine)
    await engine.containers.pause(container.id)
    assert values(world, "containers") == {
        ("created",): 1,
        ("running",): 0,
        ("paused",): 1,
        ("restarting",): 0,
        ("removing",): 0,
        ("exited",): 0,
        ("dead",): 0,
    }
    assert values(world, "images") == {(): 1}
    [(version, _python)] = values(world, "build_info")
    assert version == __version__
    assert len(values(world, "hypervisor_info")) == 1
