"""`docker import` of a whole Debian: seconds for 100 MB of root file system, plain and gzipped, beside Docker's own.

Each run imports under a name of its own and removes it again. Docker's answer comes before its files are safe on the
disk, ours after (fsync); so its ``sync`` is timed with it, and ours too, to be fair.
"""

from __future__ import annotations

import gzip
import os
import shutil
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

from bench.engine import Engine
from bench.figures import spread
from bench.fleet import Fleet
from bench.leftovers import own_folder
from bench.plan import Plan
from bench.report import Section
from tests.debian_image import debian_tar

Times = tuple[list[float], list[float]]


def measure(fleet: Fleet, plan: Plan) -> Section:
    tar = debian_tar()
    size_bytes = tar.stat().st_size
    with own_folder() as folder:
        packed = folder / "debian.tar.gz"
        with tar.open("rb") as source, gzip.open(packed, "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        forms = {"plain tar": tar, f"gzip ({packed.stat().st_size / 1e6:,.0f} MB)": packed}
        # No VM is needed for this, so none is made ready.
        openers = fleet.all(("cold",), plan.kernels[:1])

        def use(engine: Engine) -> tuple[str, dict[str, Times]]:
            return engine.kind, {form: times(engine, path, plan.own_runs) for form, path in forms.items()}

        found = dict(fleet.each(openers, use))
    rows = [row(form, found, size_bytes) for form in forms]
    header = ["form", "hyper, s", "hyper, s per 100 MB", "CPU, s"]
    for peer in ("docker", "podman"):
        header += [f"{peer}, s", "CPU, s", f"÷ {peer}"]
    notes = [
        f"The root file system's tar has {size_bytes / 1e6:,.0f} MB (mmdebstrap, tests/debian_image.py).",
        "CPU time is the engine's; Podman's client is its engine.",
    ]
    title = f"docker import of Debian: median of {plan.own_runs} (least-most), ratios of medians"
    return Section("import", title, header, rows, notes)


def row(form: str, found: Mapping[str, Mapping[str, Times]], size_bytes: int) -> list[str]:
    seconds, cpu = found["hyper"][form]
    cells = [form, spread(seconds, 2), spread((value * 100e6 / size_bytes for value in seconds), 2)]
    cells.append(f"{statistics.median(cpu):.2f}")
    for peer in ("docker", "podman"):
        if peer not in found:
            cells += ["-", "-", "-"]
            continue
        other, other_cpu = found[peer][form]
        cells += [spread(other, 2), f"{statistics.median(other_cpu):.2f}"]
        cells.append(f"{statistics.median(seconds) / statistics.median(other):.2f}")
    return cells


def times(engine: Engine, path: Path, runs: int) -> Times:
    """Seconds, and CPU seconds of the engine, of each run."""
    seconds, cpu = [], []
    for _ in range(runs):
        os.sync()
        began, before = time.monotonic(), engine.usage()
        engine.timed("import", str(path), "bench:import", timeout_s=300)
        os.sync()
        seconds.append(time.monotonic() - began)
        after = engine.usage()
        cpu.append(after.daemon + after.workers - before.daemon - before.workers)
        engine.timed("rmi", "bench:import")
    return seconds, cpu
