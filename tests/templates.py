"""Daemons with templates and a pool, looked at from outside, for tests.

with running_hyperd("--templates", "--pool-size", "1") as daemon:
    settled(daemon)                       # there is a template, and the pool is full
    daemon.door.out("run", …)
    assert rung(daemon, container) == "pool"
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from tests.hyperd import Hyperd

from hyper.hypervisors.qemu.command_line import sandbox_of
from hyper.system import processes

SETTLED_S = 60.0
TEMPLATE_MEMORY = "/memfd:hyper-template-memory"


def until(condition: Callable[[], object], what: Callable[[], str], timeout_s: float = SETTLED_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"after {timeout_s} s: {what()}"
        time.sleep(0.02)


def status(daemon: Hyperd) -> dict[str, str]:
    """What `docker info` has to say, by its words for it."""
    return dict(daemon.door.http("GET", "/info").json["DriverStatus"])


def settled(daemon: Hyperd) -> str:
    """Wait for a template and a full pool; what is said of the template."""

    def done() -> bool:
        now = status(daemon)
        pool = now["Pool"].split()
        return "MiB" in now["Template"] and (pool[0] == "switched" or pool[0] == pool[2])

    until(done, lambda: f"{status(daemon)}\n{daemon.tail()}")
    return status(daemon)["Template"]


def rung(daemon: Hyperd, container: str) -> str:
    """The way in which its sandbox was had: "pool", "template" or "cold"."""
    timings = json.loads(daemon.door.out("inspect", "-f", "{{json .Hyper.TimingsMs}}", container))
    if "sandbox.boot" in timings:
        return "cold"
    return "template" if "sandbox.wake" in timings else "pool"


def vmms(daemon: Hyperd) -> dict[str, int]:
    """The daemon's VMMs that run, but for one by which it tries KVM: sandbox ids and process ids."""
    found: dict[str, int] = {}
    for pid in processes.all_pids():
        sandbox_id = sandbox_of(processes.command_line(pid), daemon.root_id)
        if sandbox_id is not None and not sandbox_id.startswith("probe-") and processes.start_time(pid) is not None:
            found[sandbox_id] = pid
    return found


def sandbox(daemon: Hyperd, container: str) -> str:
    return daemon.door.out("inspect", "-f", "{{.Hyper.SandboxId}}", container)
