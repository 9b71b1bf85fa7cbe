"""What the emulated host says of each case, in the order it runs them, with one more try for those that took too long.

QEMU's emulation of SVM is not perfect: seldom, it interrupts a guest that has interrupts off, whose kernel then waits
for itself for ever (seen once in 160 boots). So a case that got no answer in time is tried once more, on a fresh host,
and that is reported; one that failed in any other way is not.

Neighbours: ``machine`` (the host), ``inside`` (what runs there), ``test_kvm`` (asks).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tests.kvm.machine import Ended, Stalled

SILENCE_S = 150.0
"""A case has at most 90 s, by the host's own clock, which is slow on a busy machine."""


class Host(Protocol):
    """:class:`tests.kvm.machine.EmulatedHost`, as it is used here."""

    def report(self, deadline_s: float) -> dict[str, Any]: ...

    def close(self) -> None: ...


Boot = Callable[[Sequence[str]], Host]
"""A fresh host that runs these cases."""


class TriedAgain(UserWarning):
    """A case took too long, and was tried once more."""


class Verdicts:
    """:meth:`close` it. ``limit_s`` is for all of it together."""

    def __init__(self, boot: Boot, cases: Sequence[str], limit_s: float) -> None:
        self._boot = boot
        self._waiting = list(cases)
        self._problems: dict[str, str] = {}
        self._tried: set[str] = set()
        self._host: Host | None = None
        self._deadline_s = time.monotonic() + limit_s

    def problem(self, case: str) -> str:
        """What went wrong with it; nothing when it worked. Waits for those before it as well."""
        while case not in self._problems:
            self._next()
        return self._problems[case]

    def close(self) -> None:
        if self._host is not None:
            self._host.close()
            self._host = None

    def _next(self) -> None:
        name = self._waiting[0]
        try:
            report = self._report()
        except (Stalled, Ended) as error:
            report = {"case": name, "problem": str(error), "late": True}
        if "case" not in report:
            return
        assert report["case"] == name, report
        if report["late"]:
            self.close()
            if name not in self._tried and time.monotonic() < self._deadline_s:
                self._tried.add(name)
                warnings.warn(TriedAgain(f"{name} took too long and is tried again: {report['problem']}"), stacklevel=2)
                return
        self._waiting.pop(0)
        self._problems[name] = report["problem"]

    def _report(self) -> dict[str, Any]:
        now_s = time.monotonic()
        if now_s >= self._deadline_s:
            raise Stalled("all cases together took longer than they may")
        if self._host is None:
            self._host = self._boot(tuple(self._waiting))
        return self._host.report(min(now_s + SILENCE_S, self._deadline_s))
