"""hyperd on one rung with one kernel, in a network namespace and with roots of its own.

Neighbours: ``rungs.py`` (which there are), ``engine.py`` (what benchmarks ask of it).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cpu_group import CpuGroup
from bench.engine import Engine, NotAvailable
from bench.leftovers import own_folder
from bench.processes import command_lines, processes_with, wait_until
from bench.rungs import Rung
from tests.hyperd import Hyperd
from tests.netns import NetworkNamespace, host_and_outside

READY_TIMEOUT_S = 120.0
"""For the probe of the accelerator, the template and a full pool."""
_STARTS = re.compile(r'^hyper_container_starts_total\{rung="(\w+)"\} ([\d.]+)$', re.MULTILINE)


@dataclass(frozen=True)
class Start:
    """A container's last start: from which rung, and its phases in milliseconds."""

    rung: str
    phases: Mapping[str, float]


class HyperEngine(Engine):
    kind = "hyper"

    def __init__(self, daemon: Hyperd, rung: Rung, host: NetworkNamespace, outside: NetworkNamespace, group: CpuGroup):
        clients: dict[str, Sequence[str]] = {"docker": ("docker",)}
        if rung.name == "pool":  # what a client takes itself is seen best where all the rest is short
            clients["hyper"] = (str(Path(sys.executable).with_name("hyper")), "-H", daemon.door.address)
        super().__init__(clients, daemon.door.environment)
        self.daemon, self.rung, self.name = daemon, rung, rung.title
        self.host, self.outside, self.group = host, outside, group
        assert daemon.process is not None
        self.daemon_pids = (daemon.process.pid,)
        group.others = (f"hyper/{daemon.root_id}",)

    def open(self, ready: bool) -> None:
        """Wait for what a user need not wait for: the accelerator's probe and, to be ``ready``, the template and a
        full pool. NotAvailable when one of them cannot be had."""
        self._wait("the accelerator's probe", lambda: bool(self.info()["accelerator"]))
        info, kernel = self.info(), self.rung.kernel
        self.version = f"{kernel.kind} kernel {kernel.release}, {info['hypervisor']} {info['hypervisor_version']}"
        self.version += f", {info['accelerator']}"
        if self.rung.name == "pool":
            if ready:
                self._wait("a full pool", self._pool_is_full)
            self.version += f", pool of {self._pool()[1]}"
        elif self.rung.name == "template" and ready:
            self._wait("the template", lambda: not str(self.info()["template"]).startswith(("none", "being made")))

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        try:
            wait_until(what, condition, timeout_s=READY_TIMEOUT_S)
        except TimeoutError as error:
            said = {key: value for key, value in self.info().items() if key in ("template", "pool", "warnings")}
            raise NotAvailable(f"{self.name}: {error}; hyperd says {said}") from error

    def info(self) -> dict[str, Any]:
        """``GET /hyper/info``."""
        return self.daemon.door.http("GET", "/hyper/info", validate=False).json  # type: ignore[no-any-return]

    def _pool(self) -> tuple[int, int, str]:
        """How many clones are ready, how many are wanted, why no more: hyperd says "N of M ready; WHY"."""
        counts, _, why = str(self.info()["pool"]).partition("; ")
        ready, _, wanted, _ = counts.split()
        return int(ready), int(wanted), why

    def _pool_is_full(self) -> bool:
        ready, wanted, _ = self._pool()
        return ready >= wanted

    def unrest(self, running: int) -> str:
        if self.rung.name != "pool":
            return super().unrest(running)
        ready, wanted, why = self._pool()
        if ready < wanted and "memory" not in why:  # for memory it would wait as long as the containers run
            return f"its pool has {ready} of {wanted}; {why}"
        return super().unrest(running + ready)

    def workers(self) -> list[int]:
        return processes_with(f"guest=hyper:{self.daemon.root_id}:".encode())

    def start_of(self, container: str) -> Start:
        """As ``docker inspect`` tells of it."""
        hyper = json.loads(self.out("inspect", container))[0]["Hyper"]
        return Start(str(hyper["Rung"]), hyper["TimingsMs"])

    def rung_of(self, container: str) -> str:
        return self.start_of(container).rung

    def rung_counts(self) -> dict[str, int]:
        text = self.daemon.door.http("GET", "/metrics", validate=False).body.decode()
        return {rung: int(float(count)) for rung, count in _STARTS.findall(text)}

    def processes_of(self, containers: Sequence[str]) -> list[int]:
        """Their VMMs; those in the pool are nobody's yet."""
        if not containers:
            return []
        said = self.out("inspect", "-f", "{{.Hyper.SandboxId}}", *containers)
        wanted = {f"guest=hyper:{self.daemon.root_id}:{sandbox}".encode() for sandbox in said.split()}
        return [pid for pid, line in command_lines() if wanted & set(line.split(b"\0"))]

    def spare(self) -> list[int]:
        return sorted(set(self.workers()) - set(self.processes_of(self.out("ps", "-q").split())))


@contextlib.contextmanager
def hyper_engine(
    rung: Rung,
    accelerator: str,
    pool_size: int | None,
    leftovers: list[str],
    *,
    interpreter: Sequence[str] = (),
    ready: bool = True,
) -> Iterator[HyperEngine]:
    """A served hyperd. What it leaves behind at its end is added to ``leftovers``. ``interpreter``: a command to run
    hyperd's script by (a profiler). Not ``ready``: as soon as it can start anything."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(own_folder())
        host, outside = stack.enter_context(host_and_outside())
        group = CpuGroup.open(folder.name)
        stack.callback(group.close)
        flags = ["--accel", accelerator, *rung.flags(pool_size)]
        daemon = Hyperd(folder, host, *flags, prefix=(*group.prefix, *interpreter))
        stack.callback(_end, daemon, leftovers)
        try:
            daemon.start()
        except AssertionError as error:
            raise NotAvailable(f"{rung.title}: {str(error).strip().splitlines()[-1]}") from error
        with HyperEngine(daemon, rung, host, outside, group) as engine:
            engine.open(ready)
            yield engine


def _end(daemon: Hyperd, leftovers: list[str]) -> None:
    if daemon.process is not None and daemon.process.poll() is None:
        try:
            daemon.stop()
        except AssertionError as error:
            leftovers.append(f"hyperd: {error}")
    leftovers += daemon.leftovers()
    for pid in processes_with(f"hyper:{daemon.root_id}:".encode()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
