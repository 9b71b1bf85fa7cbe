"""An engine under measurement, whichever it is: its clients' commands, when it has come to rest, and what its
processes use.

The three kinds are in ``hyper_engine.py``, ``docker_engine.py`` and ``podman_engine.py``; ``fleet.py`` starts them; the
benchmarks know only this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bench.command import Timed, succeeded, timed
from bench.cpu_group import CpuGroup
from bench.processes import own_cpu_s, pss_mib
from tests.netns import NetworkNamespace

IMAGE = "busybox"
REST_WINDOW_S = 0.05
REST_SHARE = 0.05
"""An engine rests when all of its processes together use less than this share of one processor for a window."""
IDLE_SHARE = 0.01
"""What an idle container may use of it, clocks and keep-alives included."""
REST_TIMEOUT_S = 120.0
MOST_AT_ONCE = 16


class NotAvailable(Exception):
    """This engine, or this rung of ours, cannot be measured here; the message says why and what to do."""


@dataclass(frozen=True)
class Usage:
    """CPU seconds so far. ``daemon``: the engine's own processes; ``workers``: VMMs, shims, runtimes, containers."""

    daemon: float
    workers: float


class Engine:
    """Base of all kinds. ``clients``: each client's name and the command that all of its commands begin with; the
    kind's usual one first."""

    kind: str
    name: str
    version: str
    host: NetworkNamespace
    outside: NetworkNamespace
    """A machine beside the host, to reach published ports from."""
    group: CpuGroup
    daemon_pids: Sequence[int]
    counts_clients = False
    """The clients' CPU time is in the group's, too."""

    def __init__(
        self,
        clients: Mapping[str, Sequence[str]],
        environment: Mapping[str, str],
        enter: Callable[[], None] | None = None,
    ) -> None:
        """``enter`` is called once in each thread that runs commands."""
        self.clients = clients
        self.environment = environment
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, initializer=enter)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown()

    @property
    def usual_client(self) -> str:
        return next(iter(self.clients))

    def label(self, client: str) -> str:
        """The engine's name in a table, with the client when it is another than usual."""
        return self.name if client in ("", self.usual_client) else f"{self.name}, by `{client}`"

    # -- commands

    def submit(self, *arguments: str, client: str = "", check: bool = True, timeout_s: float = 120) -> Future[Timed]:
        """Run a client's command in a thread of its own, beside others."""
        argv = [*self.clients[client or self.usual_client], *arguments]

        def run() -> Timed:
            result = timed(argv, self.environment, timeout_s=timeout_s)
            return succeeded(result, argv) if check else result

        return self._threads.submit(run)

    def timed(self, *arguments: str, client: str = "", check: bool = True, timeout_s: float = 120) -> Timed:
        return self.submit(*arguments, client=client, check=check, timeout_s=timeout_s).result()

    def out(self, *arguments: str, check: bool = True, timeout_s: float = 120) -> str:
        """What the usual client prints, without the last newline."""
        return self.timed(*arguments, check=check, timeout_s=timeout_s).output.rstrip("\n")

    # -- rest

    def quiet(self, running: int = 0) -> float:
        """Wait until what the last commands left to be done behind their answers is done, while ``running``
        containers run; the seconds that it took. TimeoutError when it does not come to rest."""
        began = time.monotonic()
        while True:
            before = self.group.usage_s
            time.sleep(REST_WINDOW_S)  # the window of the measurement
            busy = (self.group.usage_s - before) / REST_WINDOW_S
            # Asking makes work, too: only who seems to be at rest is asked.
            calm = busy <= REST_SHARE + running * IDLE_SHARE
            unrest = self.unrest(running) if calm else f"it uses {busy:.0%} of a processor"
            waited = time.monotonic() - began
            if not unrest:
                return waited
            if waited > REST_TIMEOUT_S:
                raise TimeoutError(f"{self.name} did not come to rest within {REST_TIMEOUT_S:.0f} s: {unrest}")

    def unrest(self, running: int) -> str:
        """What the engine is still at, "" for nothing; its CPU time apart."""
        workers = len(self.workers())
        return f"{workers} containers' processes for {running} containers" if workers != running else ""

    # -- what it uses

    def workers(self) -> list[int]:
        """One process for each running container: its VMM, shim or monitor."""
        raise NotImplementedError

    def usage(self) -> Usage:
        daemon = sum(own_cpu_s(pid) for pid in self.daemon_pids)
        return Usage(daemon, max(0.0, self.group.usage_s - daemon))

    def daemon_pss_mib(self) -> float:
        return sum(pss_mib(pid) for pid in self.daemon_pids)

    def processes_of(self, containers: Sequence[str]) -> list[int]:
        """All that run for these containers, which are all that there are."""
        return [pid for pid in self.group.pids() if pid not in self.daemon_pids]

    def spare(self) -> list[int]:
        """VMMs that wait for a container."""
        return []

    def rung_of(self, container: str) -> str:
        """From where the container's VM came; "" for engines without VMs."""
        return ""

    def rung_counts(self) -> dict[str, int]:
        """How many starts were served from which rung so far; empty for engines that do not tell."""
        return {}

    def describe(self) -> str:
        """Name and version, for the notes under a table."""
        return f"{self.name}: {self.version}"

    def leftovers(self) -> list[str]:
        """What is still there of it, once it has been closed."""
        raise NotImplementedError
