"""What the engine counts of its containers. Neighbours: ``lifecycle.py`` (tells it), ``hyper.metrics``."""

from __future__ import annotations

import sys
from collections import Counter as Tally
from collections.abc import Callable
from typing import get_args

from hyper import __version__
from hyper.engine.model import Container, Status
from hyper.engine.registry import ContainerRegistry
from hyper.engine.run import RunEnd
from hyper.errors import HyperError
from hyper.metrics import Labels, Metrics
from hyper.sandboxes.model import Rung, SandboxesInfo

RUNGS: tuple[str, ...] = get_args(Rung)
NO_RUNG = "none"
"""Of a start that failed before it had a VM."""
_TOTAL = "total"
_START_BOUNDS_S = (0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_OUTCOMES = ("success", "failure", "oom", "vm_lost")


class EngineMetrics:
    """``images`` counts the images; ``sandboxes`` describes what is below."""

    def __init__(
        self,
        metrics: Metrics,
        registry: ContainerRegistry,
        images: Callable[[], int],
        sandboxes: Callable[[], SandboxesInfo],
    ) -> None:
        self._registry = registry
        self._sandboxes = sandboxes
        python = ".".join(map(str, sys.version_info[:3]))
        metrics.gauge(
            "hyper_build_info",
            "The daemon's version.",
            "version",
            "python",
            read=lambda: {(__version__, python): 1},
        )
        metrics.gauge(
            "hyper_hypervisor_info",
            "What containers run on; empty until it is known.",
            "hypervisor",
            "version",
            "accelerator",
            "kernel",
            read=self._hypervisor,
        )
        metrics.gauge("hyper_containers", "Containers by state.", "state", read=self._states)
        metrics.gauge("hyper_images", "Images.", read=images)
        self._starts = metrics.counter(
            "hyper_container_starts_total", "Containers started, by where their VM came from.", "rung"
        )
        self._failures = metrics.counter(
            "hyper_container_start_failures_total",
            "Starts that failed, by where their VM came from and the kind of error.",
            "rung",
            "kind",
        )
        self._exits = metrics.counter("hyper_container_exits_total", "Containers that ended, by how.", "outcome")
        self._start_seconds = metrics.histogram(
            "hyper_container_start_seconds",
            "From the request to the running process.",
            "rung",
            bounds_s=_START_BOUNDS_S,
        )
        self._phase_seconds = metrics.histogram(
            "hyper_container_start_phase_seconds",
            "Phases of a start, one after the other; sandbox.… are parts of sandbox.",
            "phase",
            "rung",
        )
        for rung in RUNGS:
            self._starts.add(rung, by=0)
        for outcome in _OUTCOMES:
            self._exits.add(outcome, by=0)

    def started(self, container: Container) -> None:
        rung = container.state.rung
        self._starts.add(rung)
        for phase, ms in container.timings_ms.items():
            if phase == _TOTAL:
                self._start_seconds.observe(ms / 1e3, rung)
            else:
                self._phase_seconds.observe(ms / 1e3, phase, rung)

    def failed(self, rung: str, error: HyperError) -> None:
        self._failures.add(rung or NO_RUNG, type(error).__name__)

    def ended(self, end: RunEnd) -> None:
        if end.oom_killed:
            outcome = "oom"
        elif end.error:
            outcome = "vm_lost"
        else:
            outcome = "failure" if end.exit_code else "success"
        self._exits.add(outcome)

    def _states(self) -> dict[Labels, float]:
        tally = Tally(managed.view().state.status for managed in self._registry)
        return {(status.value,): tally[status] for status in Status}

    def _hypervisor(self) -> dict[Labels, float]:
        info = self._sandboxes()
        return {(info.hypervisor, info.hypervisor_version, info.accelerator, info.kernel_release): 1}
