"""How much a run measures: the full form gives the numbers of docs/benchmarks.md, the small one shows in minutes
that all of it works."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.rungs import KINDS, kernels


@dataclass(frozen=True)
class Plan:
    """Sizes of all benchmarks. ``workers``: clients that start containers at once when a rate is measured;
    ``kernels``: the kinds to measure with, those that take only one take the first."""

    runs: int
    warm_up: int
    burst: int
    at_once: tuple[int, ...]
    sustained_s: float
    workers: int
    web_runs: int
    idle: tuple[int, ...]
    idle_window_s: float
    load_mib: int
    load_runs: int
    own_runs: int
    """Of each measurement of the benchmarks that repeat few long things: cold-start, import."""
    kernels: tuple[str, ...] = ()


FULL = Plan(
    runs=20,
    warm_up=2,
    burst=50,
    at_once=(1, 4, 16),
    sustained_s=60,
    workers=4,
    web_runs=20,
    idle=(1, 10, 50, 200),
    idle_window_s=10,
    load_mib=256,
    load_runs=3,
    own_runs=5,
)
SMALL = Plan(
    runs=3,
    warm_up=1,
    burst=8,
    at_once=(1, 4),
    sustained_s=8,
    workers=4,
    web_runs=2,
    idle=(1, 4),
    idle_window_s=3,
    load_mib=32,
    load_runs=1,
    own_runs=2,
)


def plan_of(*, small: bool, runs: int | None, kernel: str | None) -> Plan:
    """With the kernels of this machine, or the one that was asked for; a small one with one of them. ``runs``: instead
    of every number of repetitions."""
    plan = SMALL if small else FULL
    if runs is not None:
        plan = replace(plan, runs=runs, web_runs=runs, load_runs=runs, own_runs=runs)
    present = kernels()
    kinds = tuple(kind for kind in ((kernel,) if kernel else KINDS) if kind in present)
    return replace(plan, kernels=kinds[:1] if small else kinds)
