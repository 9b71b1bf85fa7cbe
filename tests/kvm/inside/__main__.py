"""Runs the cases that were asked for, one after the other, and reports each as it ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
import traceback
from pathlib import Path
from types import FrameType

from tests.kvm.inside.cases import CASES, Case
from tests.kvm.inside.daemon import LOG, Daemon
from tests.kvm.inside.reports import JOB, Reports

_LOG_CHARACTERS = 12000
_DEADLINE = re.compile(r"\bwithin [0-9.]+ s\b")
"""How hyperd words a deadline that has passed."""


def main() -> None:
    reports = Reports()
    reports.phase("ready")
    signal.signal(signal.SIGALRM, _too_long)
    daemon = Daemon()
    for name in json.loads(Path(JOB).read_text()):
        started_s = time.monotonic()
        problem, late = _run(CASES[name], daemon)
        reports.case(name, time.monotonic() - started_s, problem, late=late)
    reports.phase("done")


def _run(case: Case, daemon: Daemon) -> tuple[str, bool]:
    """What went wrong, and whether that was for lack of time; nothing when it worked."""
    logged = LOG.stat().st_size if LOG.exists() else 0
    signal.alarm(case.limit_s)
    try:
        case.run(daemon)
        return "", False
    except Exception as error:
        signal.alarm(0)
        late = isinstance(error, (TimeoutError, subprocess.TimeoutExpired)) or bool(_DEADLINE.search(str(error)))
        problem = f"{traceback.format_exc()}\n-- hyperd's log --\n{_log_from(logged)}"
        daemon.abandon()
        return problem, late
    finally:
        signal.alarm(0)


def _log_from(position: int) -> str:
    if not LOG.exists():
        return "(hyperd was not started)"
    with LOG.open("rb") as file:
        file.seek(position)
        return file.read().decode(errors="replace")[-_LOG_CHARACTERS:]


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError("the case took longer than it may")


main()
