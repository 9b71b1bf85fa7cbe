"""CPU times of processes and how to find them, for benchmarks."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, all threads, with that of children it has waited for; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(fields[number]) for number in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")


def processes_with(*markers: bytes) -> list[int]:
    """Processes whose command lines hold all of them."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and all(marker in (entry / "cmdline").read_bytes() for marker in markers):
                found.append(int(entry.name))
    return found
