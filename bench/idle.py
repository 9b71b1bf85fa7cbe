"""What containers cost that do nothing: memory and processor time of each, and of the daemon, at 1, 10, 50 and 200
alive.

Memory is the proportional set size (PSS): a page that n processes share counts 1/n for each of them, so that sums
are true. Neighbours: ``engine.py`` (which processes are a container's).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import fmean

from bench.engine import IMAGE, Engine
from bench.figures import number
from bench.fleet import Fleet
from bench.plan import Plan
from bench.processes import available_mib, own_cpu_s, pss_mib, vmm_parts_mib
from bench.report import Section
from bench.starts import STOPPABLE

OTHERS_AT_MOST = 50
"""Docker's and Podman's containers cost the same from the first to the last."""
HEADER = (
    "engine", "alive", "all started in, s", "PSS of one, MiB", "marginal PSS, MiB", "host memory for one more, MiB",
    "CPU of one, % of a core", "daemon's CPU, %", "daemon's PSS, MiB",
)  # fmt: skip


def measure(fleet: Fleet, plan: Plan) -> Section:
    """One engine after the other: they are to have the machine's memory for themselves. Of Hyper with the pool, as it
    is used; what it could not hold ready was cloned from the template, and is the same then."""
    notes: list[str] = []

    def use(engine: Engine) -> list[list[str]]:
        counts = [count for count in plan.idle if engine.kind == "hyper" or count <= OTHERS_AT_MOST]
        return crowd(engine, counts, plan, notes)

    rows = [row for rows in fleet.each(fleet.all(("pool",), plan.kernels[:1]), use) for row in rows]
    if max(plan.idle) > OTHERS_AT_MOST:
        notes.append(f"Docker and Podman were measured up to {OTHERS_AT_MOST}.")
    title = f"Idle containers: busybox waiting, default network; processor time over {plan.idle_window_s:.0f} s"
    return Section("idle", title, HEADER, rows, notes)


def crowd(engine: Engine, counts: Sequence[int], plan: Plan, notes: list[str]) -> list[list[str]]:
    """Fill it up from count to count; one row for each."""
    rows = []
    containers: list[str] = []
    engine.quiet()
    notes += [engine.describe()]
    if spare := engine.spare():
        pss = sum(map(pss_mib, spare)) / len(spare)
        notes.append(f"{engine.name}: a clone that waits in the pool has {pss:.1f} MiB PSS, with {len(spare)} of them.")
    before, available, since, spent_s = 0.0, available_mib(), 0, 0.0
    try:
        for count in counts:
            began = time.monotonic()
            with ThreadPoolExecutor(plan.workers) as clients:
                start = partial(engine.out, "run", "-d", IMAGE, *STOPPABLE)
                containers += clients.map(lambda _, start=start: start(), range(count - len(containers)))
            spent_s += time.monotonic() - began
            engine.quiet(len(containers))
            # Before anything is read of them: that costs processor time, too.
            one_cpu, daemon_cpu = idle_cpu(engine, containers, plan.idle_window_s)
            pids = engine.processes_of(containers)
            pss, left, more = sum(map(pss_mib, pids)), available_mib(), count - since
            rows.append(
                [
                    engine.name,
                    str(count),
                    number(spent_s, 1),
                    number(pss / count, 1),
                    number((pss - before) / more, 1),
                    number((available - left) / more, 1),
                    number(one_cpu * 100, 2),
                    number(daemon_cpu * 100, 1),
                    number(engine.daemon_pss_mib()),
                ]
            )
            before, available, since = pss, left, count
        if engine.kind == "hyper":
            parts = [vmm_parts_mib(pid) for pid in pids]
            words = ", ".join(f"{part} {fmean(one[part] for one in parts):.1f}" for part in parts[0])
            notes.append(f"{engine.name}: PSS of one of {len(pids)} VMMs, MiB: {words}.")
    finally:
        for first in range(0, len(containers), 50):
            engine.timed("rm", "-f", *containers[first : first + 50], check=False, timeout_s=300)
    engine.quiet()
    return rows


def idle_cpu(engine: Engine, containers: Sequence[str], window_s: float) -> tuple[float, float]:
    """Processors that one container, and the daemon, use."""
    mine = engine.processes_of(containers)

    def used() -> tuple[float, float]:
        return sum(map(own_cpu_s, mine)), sum(map(own_cpu_s, engine.daemon_pids))

    before = used()
    time.sleep(window_s)  # the window of the measurement
    after = used()
    return (after[0] - before[0]) / window_s / len(containers), (after[1] - before[1]) / window_s
