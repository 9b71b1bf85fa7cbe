"""How the emulated host tells what happens: a JSON object a line on its second serial port.

``{"phase": "ready"}``, ``{"case": "name", "seconds": 1.5, "problem": "", "late": false}``, ``{"phase": "done"}``. A
case that worked has no problem; that of another is a trace, and the end of hyperd's log. ``late`` says that something
took longer than it may. Neighbours: ``__main__`` writes these, ``tests/kvm/machine.py`` reads them.
"""

from __future__ import annotations

import json
import os
import termios
import tty

PORT = "/dev/ttyS1"
JOB = "/job.json"
"""What the host is to do: a JSON list of cases' names."""


class Reports:
    def __init__(self) -> None:
        self._port = os.open(PORT, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)  # for the host's whole life
        tty.setraw(self._port, termios.TCSANOW)

    def phase(self, name: str) -> None:
        self._tell({"phase": name})

    def case(self, name: str, seconds: float, problem: str, *, late: bool) -> None:
        self._tell({"case": name, "seconds": round(seconds, 2), "problem": problem, "late": late})

    def _tell(self, report: dict[str, object]) -> None:
        rest = json.dumps(report).encode() + b"\n"
        while rest:
            rest = rest[os.write(self._port, rest) :]
