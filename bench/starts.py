"""Whole commands of real clients, one at a time on a machine at rest: `run`, `run -d`, `exec`, `stop`, `version`,
on every engine.

Round robin: every engine does a command before any does it again, and who begins changes, so that the machine's
mood is in all columns alike. After each command the engine is given the time that it needs to come to rest (a pool
to be full again); that time is printed, and what it is like without it is measured by ``bursts.py``.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.engine import IMAGE, Engine
from bench.figures import COMPARED, compared
from bench.fleet import Fleet
from bench.plan import Plan
from bench.report import Section
from bench.rungs import RUNGS

RUN = ("run", "--rm", "--network", "none", IMAGE, "true")
STOPPABLE = ("sh", "-c", "trap exit TERM; sleep 100000 & wait")
"""Ends when it is asked to, as a server does; a plain `sleep` as process 1 would not."""
RUN_NONE = " ".join(RUN)
RUN_DEFAULT = "run --rm busybox true"
RUN_DETACHED = "run -d"
EXEC_FIRST, EXEC_NEXT = "exec CONTAINER true, the first", "exec CONTAINER true, the next"


@dataclass
class Samples:
    """``ms``: by row, then by engine. By engine: ``rests_s`` after each command, ``gaps_s`` between the end of one and
    the beginning of the next, ``rungs`` (how often which)."""

    ms: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    rests_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    gaps_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rungs: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    _ended_s: dict[str, float] = field(default_factory=dict)

    def run(self, row: str, engine: Engine, *arguments: str, client: str = "", running: int = 0) -> str:
        """Time a command that starts a container, and wait for rest with ``running`` containers; what it printed."""
        result = engine.timed(*arguments, client=client)
        ended_s = time.monotonic()
        if engine.name in self._ended_s:
            self.gaps_s[engine.name].append(ended_s - result.seconds - self._ended_s[engine.name])
        self._ended_s[engine.name] = ended_s
        self.ms[row][engine.label(client)].append(result.seconds * 1e3)
        self.rests_s[engine.name].append(engine.quiet(running))
        return result.output.strip()

    def time(self, row: str, engine: Engine, *arguments: str, client: str = "", running: int = 0) -> None:
        """The same of any other command."""
        self.ms[row][engine.label(client)].append(engine.timed(*arguments, client=client).seconds * 1e3)
        engine.quiet(running)


Visit = Callable[[Engine, Samples], None]


def run_none(engine: Engine, samples: Samples) -> None:
    for client in engine.clients:
        samples.run(RUN_NONE, engine, *RUN, client=client)


def run_default(engine: Engine, samples: Samples) -> None:
    samples.run(RUN_DEFAULT, engine, "run", "--rm", IMAGE, "true")


def life(engine: Engine, samples: Samples) -> None:
    """Of a container in the background."""
    container = samples.run(RUN_DETACHED, engine, "run", "-d", IMAGE, *STOPPABLE, running=1)
    if rung := engine.rung_of(container):
        samples.rungs[engine.name][rung] += 1
    for row in (EXEC_FIRST, EXEC_NEXT):
        samples.time(row, engine, "exec", container, "true", running=1)
    samples.time("stop", engine, "stop", container)
    engine.timed("rm", container)
    engine.quiet()


def version(engine: Engine, samples: Samples) -> None:
    for client in engine.clients:
        samples.time("version", engine, "version", client=client)


VISITS: Sequence[Visit] = (run_none, run_default, life, version)


def measure(fleet: Fleet, plan: Plan) -> Section:
    with fleet.started(fleet.all(RUNGS, plan.kernels)) as engines:
        round_robin(engines, Samples(), plan.warm_up)
        samples = Samples()
        round_robin(engines, samples, plan.runs)
        notes = [engine.describe() for engine in engines]
    rows = [[row, engine, *cells] for row, taken in samples.ms.items() for engine, cells in compared(taken).items()]
    title = f"Commands, one at a time, whole, ms: {plan.runs} rounds of all engines"
    notes += [*_pace(samples), *_rungs(samples)]
    return Section("starts", title, ("command", "engine", *COMPARED), rows, notes, samples.ms)


def round_robin(engines: Sequence[Engine], samples: Samples, runs: int) -> None:
    for run in range(runs):
        first = run % len(engines) if engines else 0
        for visit in VISITS:
            for engine in (*engines[first:], *engines[:first]):
                visit(engine, samples)
    for taken in samples.ms.values():  # as they stand in the tables, whoever began
        order = [engine.label(client) for engine in engines for client in engine.clients]
        for label in [label for label in order if label in taken]:
            taken[label] = taken.pop(label)


def _pace(samples: Samples) -> list[str]:
    words = [
        f"{engine} {statistics.median(rests) * 1e3:,.0f} ({max(rests) * 1e3:,.0f}; "
        f"{statistics.median(samples.gaps_s[engine]):.1f} s)"
        for engine, rests in samples.rests_s.items()
        if samples.gaps_s[engine]
    ]
    what = "Time to come to rest after a start, pools full again, ms, median (most; gap between two starts)"
    return [f"{what}: {', '.join(words)}."]


def _rungs(samples: Samples) -> list[str]:
    return [
        f"{engine}: its `run -d` were served " + ", ".join(f"{count} {rung}" for rung, count in found.items()) + "."
        for engine, found in samples.rungs.items()
    ]
