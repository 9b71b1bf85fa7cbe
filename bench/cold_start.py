"""`docker run` with no template: from the command to its first byte, phase by phase, for each kernel that is there.

The daemon's part comes from ``docker inspect`` (``Hyper.TimingsMs``), the CPU time is QEMU's own at the moment when the
container runs. The daemon, its namespace and roots are the benchmark's own (``tests/hyperd.py``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import cpu_s, processes_with
from bench.report import Section, spread
from tests.hyperd import Hyperd, running_hyperd

KERNELS = Path("/var/lib/hyper/kernels")
PHASES = (
    "network", "sandbox.vmm", "sandbox.boot", "sandbox.configure", "disks", "agent.create", "agent.start", "total"
)  # fmt: skip
NONE, BRIDGE = ("--network", "none"), ()


@dataclass
class Samples:
    """Milliseconds, one value a run."""

    first_byte: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    qemu_cpu: list[float] = field(default_factory=list)
    phases: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})


def measure(runs: int) -> Section:
    """As root. About 5 s a run and kernel."""
    rows, notes = [], []
    for name, flags in kernels():
        with running_hyperd("--accel", "tcg", *flags) as daemon:
            began = time.monotonic()
            daemon.door.docker("run", "--rm", *NONE, "busybox", "true")
            notes.append(f"{name}: the first run of a new daemon took {(time.monotonic() - began) * 1e3:,.0f} ms.")
            for network, label in ((NONE, "none"), (BRIDGE, "bridge")):
                samples = Samples()
                for _ in range(runs):
                    _run(daemon, network, samples)
                    _inspect(daemon, network, samples)
                rows.append(
                    [
                        name,
                        label,
                        spread(samples.first_byte),
                        spread(samples.whole),
                        spread(samples.qemu_cpu),
                        *(spread(samples.phases[phase]) for phase in PHASES),
                    ]
                )
    header = ("kernel", "network", "first output", "whole command", "QEMU's CPU time", *PHASES)
    title = f"Cold start: docker run --rm busybox echo, TCG, ms: median of {runs} (least-most)"
    return Section("cold-start", title, header, rows, notes)


def kernels() -> Iterator[tuple[str, list[str]]]:
    """Name and hyperd's flags of each kernel on this machine."""
    tuned = KERNELS / "tuned" / "vmlinux"
    if tuned.exists():
        yield f"tuned {(KERNELS / 'tuned' / 'release').read_text().strip()}", ["--kernel", str(tuned)]
    for image in sorted((KERNELS / "distribution").glob("*/vmlinu[xz]")):
        yield f"distribution {image.parent.name}", ["--kernel", str(image)]


def _run(daemon: Hyperd, network: tuple[str, ...], samples: Samples) -> None:
    began = time.monotonic()
    client = daemon.door.popen("run", "--rm", *network, "busybox", "echo", "x", stdout=-1)
    assert client.stdout is not None
    if not client.stdout.read(1):
        raise RuntimeError(f"docker run printed nothing\n{daemon.tail()}")
    samples.first_byte.append((time.monotonic() - began) * 1e3)
    client.stdout.read()
    if client.wait() != 0:
        raise RuntimeError(f"docker run failed\n{daemon.tail()}")
    samples.whole.append((time.monotonic() - began) * 1e3)


def _inspect(daemon: Hyperd, network: tuple[str, ...], samples: Samples) -> None:
    container = daemon.door.out("run", "-d", *network, "busybox", "sleep", "1000")
    [pid] = processes_with(f"hyper:{daemon.root_id}:".encode())
    samples.qemu_cpu.append(cpu_s(pid) * 1e3)
    timings = json.loads(daemon.door.out("inspect", "-f", "{{json .Hyper.TimingsMs}}", container))
    for phase in PHASES:
        samples.phases[phase].append(timings[phase])
    daemon.door.docker("rm", "-f", container)
