"""Where a start's time and processor time go: hyperd's own phases, then CPU-ms by process, before the answer and
behind it; with perf by program and function as well.

    .venv/bin/python -m bench profile --rung template --runs 20
    .venv/bin/python -m bench profile --perf          # and where all processors are meanwhile
    .venv/bin/python -m bench profile --cprofile      # and hyperd's own functions (which makes it slower)

Neighbours: ``cpu_group.py`` (who used what), ``starts.py`` (the command).
"""

from __future__ import annotations

import contextlib
import io
import os
import pstats
import re
import shutil
import signal
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.engine import IMAGE
from bench.figures import number
from bench.fleet import Fleet
from bench.hyper_engine import HyperEngine
from bench.leftovers import own_folder
from bench.plan import Plan
from bench.processes import kernel_threads_cpu_s, machine_cpu_s
from bench.report import Section
from bench.starts import RUN, RUN_NONE

LINES = 25
FREQUENCY_HZ = 999
_NAMELESS = re.compile(r"0x[0-9a-f]+")
_WHEN = ("until the answer", "behind it")


def measure(fleet: Fleet, plan: Plan, rungs: Sequence[str], *, perf: bool, cprofile: bool) -> list[Section]:
    """RuntimeError when perf is asked for and not there."""
    if perf and shutil.which("perf") is None:
        raise RuntimeError("there is no perf on this machine: apt-get install linux-perf")
    with own_folder() as folder:
        stats, recording = folder / "hyperd.profile", folder / "perf.data"
        interpreter = (sys.executable, "-m", "cProfile", "-o", str(stats)) if cprofile else ()

        def use(engine: HyperEngine) -> list[Section]:
            for _ in range(plan.warm_up):
                engine.timed(*RUN)
                engine.quiet()
            sections = [phases(engine, plan.runs)]
            with recorded(recording) if perf else contextlib.nullcontext():
                sections.append(processor_time(engine, plan.runs))
            return [*sections, *(samples(recording, engine.rung.name, plan.runs) if perf else ())]

        found: list[list[Section]] = []
        for rung in rungs:
            found += fleet.each(fleet.hypers((rung,), plan.kernels[:1], interpreter), use)
            if cprofile and stats.exists():  # hyperd writes them at its end
                print(python_report(stats))
    return [section for sections in found for section in sections]


def phases(engine: HyperEngine, runs: int) -> Section:
    """On hyperd's clock, and the whole command beside them."""
    times_ms: dict[str, list[float]] = defaultdict(list)
    rungs: Counter[str] = Counter()
    for _ in range(runs):
        command = engine.timed("run", "--network", "none", "--name", "profiled", IMAGE, "true")
        engine.quiet()
        start = engine.start_of("profiled")
        engine.timed("rm", "profiled")
        engine.quiet()
        rungs[start.rung] += 1
        for phase, value_ms in (*start.phases.items(), ("the whole command", command.seconds * 1e3)):
            times_ms[phase].append(value_ms)
    rows = [
        [phase, *(number(value, 1) for value in (min(values), statistics.median(values), max(values)))]
        for phase, values in times_ms.items()
    ]
    served = ", ".join(f"{count} {rung}" for rung, count in rungs.items())
    title = f"A start's phases, ms: {runs} runs, served {served}"
    notes = [engine.describe(), "A part's phases (a.b) are parts of it (a)."]
    return Section(f"phases-{engine.rung.name}", title, ("phase", "least", "median", "most"), rows, notes)


def processor_time(engine: HyperEngine, runs: int) -> Section:
    """Means: the kernel counts some of these in steps of 10 ms."""
    spent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for _ in range(runs):
        marks = [_marks(engine)]
        spent["client"][_WHEN[0]] += engine.timed(*RUN).cpu_s * 1e3 / runs
        marks.append(_marks(engine))
        engine.quiet()
        marks.append(_marks(engine))
        for when, early, late in zip(_WHEN, marks, marks[1:], strict=False):
            for name, value in late.items():
                spent[name][when] += (value - early[name]) * 1e3 / runs
    rows = [
        [name, *(number(by_time.get(when, 0.0), 1) for when in _WHEN), number(sum(by_time.values()), 1)]
        for name, by_time in spent.items()
    ]
    title = f"CPU-ms of one `{RUN_NONE}`: means of {runs} runs, {engine.name}"
    return Section(f"cpu-{engine.rung.name}", title, ("process", *_WHEN, "sum"), rows)


def _marks(engine: HyperEngine) -> dict[str, float]:
    usage = engine.usage()
    return {
        "hyperd": usage.daemon,
        "VMMs, those that refill the pool included": usage.workers,
        "the kernel's threads": kernel_threads_cpu_s(),
        "all of the machine, the bench included": machine_cpu_s(),
    }


@contextlib.contextmanager
def recorded(recording: Path) -> Iterator[None]:
    """perf looks at all processors meanwhile."""
    process = subprocess.Popen(
        ["perf", "record", "-q", "-a", "-F", str(FREQUENCY_HZ), "-o", recording],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    if not recording.exists():
        raise RuntimeError(f"perf recorded nothing: {said.decode(errors='replace').strip()}")


def samples(recording: Path, rung: str, runs: int) -> Iterator[Section]:
    """By program and library, then by function; without the bench itself and what idled."""
    argv = ["perf", "report", "--stdio", "-q", "-i", str(recording), "-F", "sample,comm,dso,sym", "-t", ";"]
    said = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "PAGER": "cat"}, check=True)
    own = Path("/proc/self/comm").read_text().strip()
    libraries: Counter[tuple[str, ...]] = Counter()
    functions: Counter[tuple[str, ...]] = Counter()
    for line in said.stdout.splitlines():
        if not line.strip():
            continue
        count, program, library, function = (cell.strip() for cell in line.split(";", 3))
        if program in ("swapper", own):
            continue
        library = "translated guest code" if library.startswith("[JIT]") else library
        libraries[program, library] += int(count)
        functions[program, library, _NAMELESS.sub("without a name", function)] += int(count)
    per = 1e3 / FREQUENCY_HZ / runs
    for key, header, counted in (
        ("libraries", ("program", "library"), libraries),
        ("functions", ("program", "library", "function"), functions),
    ):
        rows = [[*names, number(count * per, 1)] for names, count in counted.most_common(LINES)]
        yield Section(f"perf-{key}-{rung}", f"The same by perf, by {key}", (*header, "CPU-ms of one"), rows)


def python_report(stats: Path) -> str:
    """hyperd's functions, by the time in each one itself and with what it calls."""
    text = io.StringIO()
    report = pstats.Stats(str(stats), stream=text).strip_dirs()
    for order in ("tottime", "cumulative"):
        report.sort_stats(order).print_stats(LINES)
    return text.getvalue()
