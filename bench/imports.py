"""`docker import` of a whole Debian: seconds for 100 MB of root file system, plain and gzipped, beside Docker's own.

Each run imports under a name of its own and removes it again. Docker's answer comes before its files are safe on the
disk, ours after (fsync); so its ``sync`` is timed with it, and ours too, to be fair.
"""

from __future__ import annotations

import gzip
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from bench.processes import cpu_s
from bench.report import Section, spread
from bench.streams import docker_engine
from tests.debian_image import debian_tar
from tests.hyperd import Door, running_hyperd


def measure(runs: int, dockerd: Path | None) -> Section:
    """As root. ``dockerd``: None when there is none to compare with."""
    tar = debian_tar()
    size_bytes = tar.stat().st_size
    rows = []
    notes = [f"The root file system's tar has {size_bytes / 1e6:,.0f} MB (mmdebstrap, tests/debian_image.py)."]
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as name:
        packed = Path(name) / "debian.tar.gz"
        with tar.open("rb") as source, gzip.open(packed, "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        forms = {"plain tar": tar, f"gzip ({packed.stat().st_size / 1e6:,.0f} MB)": packed}
        with running_hyperd() as daemon:
            assert daemon.process is not None
            ours = {form: _times(daemon.door, path, runs, daemon.process.pid) for form, path in forms.items()}
        theirs: dict[str, tuple[list[float], list[float]]] = {}
        if dockerd is not None:
            with docker_engine(dockerd) as engine:
                theirs = {form: _times(engine.door, path, runs, engine.daemon_pid) for form, path in forms.items()}
        else:
            notes.append(
                "Docker's engine is not here: apt-get install docker.io, or --dockerd FILE of an unpacked one."
            )
    for form in forms:
        (seconds, cpu), other = ours[form], theirs.get(form)
        per = 100e6 / size_bytes
        rows.append(
            [
                form,
                spread(seconds, 2),
                spread((value * per for value in seconds), 2),
                f"{statistics.median(cpu):.2f}",
                spread(other[0], 2) if other else "-",
                f"{statistics.median(other[1]):.2f}" if other else "-",
                f"{statistics.median(seconds) / statistics.median(other[0]):.2f}" if other else "-",
            ]
        )
    header = (
        "form",
        "hyper, s",
        "hyper, s per 100 MB",
        "hyperd CPU, s",
        "dockerd, s",
        "dockerd CPU, s",
        "ratio of medians",
    )
    return Section("import", f"docker import of Debian: median of {runs} (least-most)", header, rows, notes)


def _times(door: Door, path: Path, runs: int, daemon_pid: int) -> tuple[list[float], list[float]]:
    seconds, cpu = [], []
    for _ in range(runs):
        os.sync()
        began, cpu_began = time.monotonic(), cpu_s(daemon_pid)
        door.docker("import", str(path), "bench:import", timeout_s=300)
        os.sync()
        seconds.append(time.monotonic() - began)
        cpu.append(cpu_s(daemon_pid) - cpu_began)
        door.docker("rmi", "bench:import")
    return seconds, cpu
