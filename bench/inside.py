"""Disk, processor and memory as a program in a container gets them, beside the same program outside (``load.c``,
one static binary).

The file lies in the container's writable layer; outside, in the folder where all engines of this run have theirs.
"""

from __future__ import annotations

import io
import os
import shutil
import statistics
import subprocess
import tarfile
from collections import defaultdict
from pathlib import Path

from bench.command import succeeded, timed
from bench.figures import number, ratio
from bench.fleet import Fleet
from bench.leftovers import own_folder
from bench.plan import Plan
from bench.report import Section
from tests.unit.images.store_tools import docker_archive, image

SOURCE = Path(__file__).with_name("load.c")
IMAGE = "bench-load:latest"
ROWS = {
    "sequential-write": "write in sequence, then fsync, MB/s",
    "sequential-read": "read in sequence, dropped from the reader's cache, MB/s",
    "sequential-read-again": "the same again, MB/s",
    "random-read-4k": "read 4 KiB at random, O_DIRECT, a second",
    "random-write-4k": "write 4 KiB at random, O_DIRECT, a second",
    "integer-loop": "10⁸ rounds of integer work, ms",
    "floating-point-loop": "5 · 10⁷ rounds of floating point work, ms",
    "memory-copy": "copy memory, MB/s",
}


def measure(fleet: Fleet, plan: Plan) -> Section:
    if shutil.which("gcc") is None:
        raise RuntimeError("gcc is missing, which `make setup` installs: the load is a small C program")
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (
        own_folder() as folder,
        # Rungs differ in how a VM came to be, not in what it is then: one of them will do.
        fleet.started(fleet.all(("template",), plan.kernels[:1])) as engines,
    ):
        program = compiled(folder)
        archive = folder / "load.tar"
        archive.write_bytes(load_archive(program.read_bytes()))
        for engine in engines:
            engine.timed("load", "--input", str(archive))
        for _ in range(plan.load_runs):
            argv = [str(program), str(folder / "data"), str(plan.load_mib)]
            note(found, "outside", succeeded(timed(argv, os.environ), argv).output)
            for engine in engines:
                arguments = ("run", "--rm", "--network", "none", IMAGE, "/load", "/data", str(plan.load_mib))
                note(found, engine.name, engine.timed(*arguments, timeout_s=600).output)
                engine.quiet()
        names = ["outside", *(engine.name for engine in engines)]
        notes = [engine.describe() for engine in engines]
    notes.append(
        "What a VM has not cached itself may still come from the host's memory: a disk of a VM is a file of the host. "
        "Outside, and in a container, there is only one cache."
    )
    medians = {row: {name: statistics.median(found[row][name]) for name in names} for row in ROWS}
    rows = [
        [
            title,
            *(number(medians[row][name]) for name in names),
            *(ratio(medians[row][name], medians[row]["outside"]) for name in names[1:]),
        ]
        for row, title in ROWS.items()
    ]
    header = ("what", *names, *(f"{name} ÷ outside" for name in names[1:]))
    title = f"Inside against outside: {plan.load_mib} MiB, median of {plan.load_runs}"
    return Section("inside", title, header, rows, notes, {row: dict(by_name) for row, by_name in found.items()})


def note(found: dict[str, dict[str, list[float]]], name: str, output: str) -> None:
    """The program's own lines."""
    for line in output.splitlines():
        row, _, value = line.partition(" ")
        found[row][name].append(float(value))


def compiled(folder: Path) -> Path:
    program = folder / "load"
    subprocess.run(["gcc", "-O2", "-static", "-o", program, SOURCE], check=True, timeout=120)
    return program


def load_archive(program: bytes) -> bytes:
    """An image with nothing but the program in it."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        member = tarfile.TarInfo("load")
        member.size, member.mode = len(program), 0o755
        archive.addfile(member, io.BytesIO(program))
    return docker_archive({IMAGE: image(layer.getvalue(), Cmd=["/load"])})
