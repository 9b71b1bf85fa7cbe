"""Starts without a pause: one behind the other while a pool refills, and many at once, beyond what a pool holds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from bench.engine import Engine
from bench.figures import COMPARED, compared, number
from bench.fleet import Fleet
from bench.plan import Plan
from bench.report import Section
from bench.rungs import RUNGS
from bench.starts import RUN, RUN_NONE


def measure(fleet: Fleet, plan: Plan) -> Section:
    """One kernel only: how rungs follow each other is the same with the other."""
    rows, notes = [], []
    samples: dict[str, dict[str, list[float]]] = {}
    with fleet.started(fleet.all(RUNGS, plan.kernels[:1])) as engines:
        for at_once in plan.at_once:
            what = f"{plan.burst} starts, " + (f"{at_once} at once" if at_once > 1 else "back to back")
            samples[what] = {}
            rates: dict[str, float] = {}
            for engine in engines:
                engine.timed(*RUN)
                engine.quiet()
                before = engine.rung_counts()
                seconds, samples[what][engine.name] = burst(engine, plan.burst, at_once)
                rates[engine.name] = plan.burst / seconds
                notes += served(f"{engine.name}, {what}", engine, before)
                engine.quiet()
            rows += [[what, name, number(rates[name], 1), *cells] for name, cells in compared(samples[what]).items()]
    header = ("what", "engine", "starts a second", *COMPARED)
    return Section("bursts", f"Starts without a pause: {RUN_NONE}, ms", header, rows, notes, samples)


def burst(engine: Engine, count: int, at_once: int) -> tuple[float, list[float]]:
    """Seconds for all of them, and each one's milliseconds."""
    with ThreadPoolExecutor(at_once) as clients:
        began = time.monotonic()
        results = list(clients.map(lambda _: engine.timed(*RUN), range(count)))
        return time.monotonic() - began, [result.seconds * 1e3 for result in results]


def served(what: str, engine: Engine, before: Mapping[str, int]) -> list[str]:
    """From which rungs, as hyperd counts them; nothing for an engine without rungs."""
    counts = {rung: count - before.get(rung, 0) for rung, count in engine.rung_counts().items()}
    words = ", ".join(f"{count} {rung}" for rung, count in counts.items() if count)
    return [f"{what}: served {words}."] if words else []
