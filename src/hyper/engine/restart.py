"""Restart policies: whether a container that has ended is started again, and after how long. Pure.

As dockerd: the delay begins at 100 ms, doubles with each restart up to a minute, and begins anew once a run has lasted
ten seconds, or somebody has started the container. Neighbour: ``lifecycle.py`` (which starts them again).
"""

from __future__ import annotations

from dataclasses import dataclass

from hyper.engine.model import ContainerState, RestartPolicy

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 60.0
STEADY_S = 10.0
"""A run of this length is no failure to start: the next delay is the first one."""


@dataclass
class Restarting:
    """What the daemon remembers of a container's restarts between two starts by somebody."""

    delay_s: float = 0.0
    given_up: bool = False
    """Somebody has told it to stop: the next end is final."""

    def next_delay_s(
        self, policy: RestartPolicy, state: ContainerState, *, exit_code: int, ran_s: float
    ) -> float | None:
        """After a run that took ``ran_s``; None when that was the last one. ``state``: of that run."""
        if ran_s >= STEADY_S or not self.delay_s:
            self.delay_s = FIRST_DELAY_S
        else:
            self.delay_s = min(2 * self.delay_s, LONGEST_DELAY_S)
        wanted = not self.given_up and _wants(policy, exit_code, state.restart_count, state.manually_stopped)
        return self.delay_s if wanted else None


def starts_with_daemon(policy: RestartPolicy, state: ContainerState) -> bool:
    """Whether the next daemon starts a container that it finds ended: never one that nobody has started yet, and one
    that somebody stopped only under "always"."""
    if not state.started_ns or (state.manually_stopped and policy.name != "always"):
        return False
    return _wants(policy, state.exit_code, state.restart_count, manually_stopped=False)


def _wants(policy: RestartPolicy, exit_code: int, restart_count: int, manually_stopped: bool) -> bool:
    match policy.name:
        case "always":
            return True
        case "unless-stopped":
            return not manually_stopped
        case "on-failure":
            limit = policy.maximum_retry_count
            return exit_code != 0 and (limit == 0 or restart_count < limit)
        case "no":
            return False
