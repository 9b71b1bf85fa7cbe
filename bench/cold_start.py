"""`docker run` with no template: from the command to its first byte, phase by phase, for each kernel that is there;
and what a user meets who has only just started hyperd, while it makes its template.

The daemon's part comes from ``docker inspect`` (``Hyper.TimingsMs``), the CPU time is QEMU's own at the moment when
the container runs.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from bench.engine import IMAGE
from bench.figures import spread
from bench.fleet import Fleet
from bench.hyper_engine import HyperEngine
from bench.plan import Plan
from bench.processes import own_cpu_s
from bench.report import Section

NONE = ("--network", "none")
BRIDGE: Sequence[str] = ()


@dataclass
class Samples:
    """Milliseconds, one value a run."""

    first_byte: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    qemu_cpu: list[float] = field(default_factory=list)
    phases: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def measure(fleet: Fleet, plan: Plan) -> Section:
    found: list[tuple[str, str, Samples]] = []
    for kind in plan.kernels:
        # All settings as they come, an empty data root, at once: the template is made meanwhile, the pool is empty.
        firsts = Samples()
        for _ in range(plan.own_runs):
            fleet.each(fleet.hypers(("pool",), (kind,), ready=False), partial(run, NONE, firsts), loaded=False)
        found.append((kind, "none, the first of a new hyperd", firsts))
        for samples in fleet.each(fleet.hypers(("cold",), (kind,)), partial(by_network, plan.own_runs)):
            found += [(kind, network, one) for network, one in samples.items()]
    names = list(dict.fromkeys(phase for _, _, samples in reversed(found) for phase in samples.phases))
    rows = [
        [kind, network, spread(samples.first_byte), spread(samples.whole), spread(samples.qemu_cpu)]
        + [spread(samples.phases.get(phase, [])) for phase in names]
        for kind, network, samples in found
        if samples.whole
    ]
    header = ("kernel", "network", "first output", "whole command", "QEMU's CPU time", *names)
    title = f"Cold start: docker run --rm busybox echo, ms: median of {plan.own_runs} (least-most)"
    return Section("cold-start", title, header, rows)


def by_network(runs: int, engine: HyperEngine) -> dict[str, Samples]:
    engine.timed("run", "--rm", *NONE, IMAGE, "true")
    found = {"none": Samples(), "bridge": Samples()}
    for _ in range(runs):
        for network, arguments in (("none", NONE), ("bridge", BRIDGE)):
            engine.quiet()
            run(arguments, found[network], engine)
            inspect(arguments, found[network], engine)
    return found


def run(network: Sequence[str], samples: Samples, engine: HyperEngine) -> None:
    began = time.monotonic()
    client = engine.daemon.door.popen("run", "--rm", *network, IMAGE, "echo", "x", stdout=-1)
    assert client.stdout is not None
    if not client.stdout.read(1):
        raise RuntimeError(f"docker run printed nothing\n{engine.daemon.tail()}")
    samples.first_byte.append((time.monotonic() - began) * 1e3)
    client.stdout.read()
    if client.wait() != 0:
        raise RuntimeError(f"docker run failed\n{engine.daemon.tail()}")
    samples.whole.append((time.monotonic() - began) * 1e3)
    client.stdout.close()


def inspect(network: Sequence[str], samples: Samples, engine: HyperEngine) -> None:
    container = engine.out("run", "-d", *network, IMAGE, "sleep", "1000")
    [pid] = engine.processes_of([container])
    samples.qemu_cpu.append(own_cpu_s(pid) * 1e3)
    for phase, value_ms in engine.start_of(container).phases.items():
        samples.phases[phase].append(value_ms)
    engine.timed("rm", "-f", container)
