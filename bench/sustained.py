"""Containers created, run and gone, a second, for as long as a minute; and what one of them costs in processor
time, by process.

The costs are taken when the engine has come to rest again, so that what is done behind the answers is in them.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.bursts import served
from bench.engine import Engine
from bench.figures import Figures, number, ratio
from bench.fleet import Fleet
from bench.plan import Plan
from bench.processes import kernel_threads_cpu_s
from bench.report import Section
from bench.rungs import RUNGS
from bench.starts import RUN, RUN_NONE

HEADER = (
    "engine", "a second", "÷ docker", "median ms", "p95 ms", "client", "daemon", "workers", "sum", "kernel threads",
)  # fmt: skip


@dataclass(frozen=True)
class Cycles:
    """``cpu_ms``: of one cycle's client, daemon and workers; ``kernel_ms``: of the kernel's own threads, which write
    back, and take namespaces and disks apart."""

    times_ms: list[float]
    seconds: float
    cpu_ms: tuple[float, float, float]
    kernel_ms: float

    @property
    def rate(self) -> float:
        return len(self.times_ms) / self.seconds


def measure(fleet: Fleet, plan: Plan) -> Section:
    notes: list[str] = []
    found: dict[str, Cycles] = {}
    with fleet.started(fleet.all(RUNGS, plan.kernels[:1])) as engines:
        for engine in engines:
            for client in engine.clients:
                before = engine.rung_counts()
                label = engine.label(client)
                found[label] = cycles(engine, client, plan)
                notes += served(label, engine, before)
    docker = found["docker"].rate if "docker" in found else None
    rows = []
    for label, one in found.items():
        figures = Figures.of(one.times_ms)
        times = (number(figures.median), number(figures.p95))
        costs = (number(value) for value in (*one.cpu_ms, sum(one.cpu_ms), one.kernel_ms))
        rows.append([label, number(one.rate, 2), ratio(one.rate, docker), *times, *costs])
    notes.append(
        "Workers are VMMs, or shims, runtimes and containers; Podman has no daemon, its client does the work. The "
        "kernel's threads work for everybody on the machine and are not in the sum."
    )
    title = f"Sustained: {RUN_NONE} by {plan.workers} clients for {plan.sustained_s:.0f} s; CPU-ms of one cycle"
    samples = {label: one.times_ms for label, one in found.items()}
    return Section("sustained", title, HEADER, rows, notes, {"cycle": samples})


def cycles(engine: Engine, client: str, plan: Plan) -> Cycles:
    engine.timed(*RUN, client=client)
    engine.quiet()
    usage, kernel, began = engine.usage(), kernel_threads_cpu_s(), time.monotonic()

    def work(_: int) -> list[tuple[float, float]]:
        mine = []
        while time.monotonic() - began < plan.sustained_s:
            result = engine.timed(*RUN, client=client)
            mine.append((result.seconds, result.cpu_s))
        return mine

    with ThreadPoolExecutor(plan.workers) as clients:
        done = [cycle for mine in clients.map(work, range(plan.workers)) for cycle in mine]
    seconds = time.monotonic() - began
    engine.quiet()
    after = engine.usage()
    per = 1e3 / len(done)
    client_s = sum(cpu_s for _, cpu_s in done)
    workers_s = after.workers - usage.workers - (client_s if engine.counts_clients else 0)
    cpu_ms = (client_s * per, (after.daemon - usage.daemon) * per, workers_s * per)
    return Cycles([cycle_s * 1e3 for cycle_s, _ in done], seconds, cpu_ms, (kernel_threads_cpu_s() - kernel) * per)
