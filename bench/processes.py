"""What processes use, and how to find them, for benchmarks."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

_GUEST_BYTES = 1 << 27
"""No guest has less memory, and no mapping of QEMU's own has as much."""
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, all threads, with that of children it has waited for; 0 when it is gone."""
    return _cpu_s(pid, 4)


def own_cpu_s(pid: int) -> float:
    """The same without its children's, to the nanosecond where the kernel counts so (then without threads that have
    ended)."""
    try:
        threads = [int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()]
    except (OSError, IndexError):
        return _cpu_s(pid, 2)
    return sum(threads) / 1e9


def _cpu_s(pid: int, fields: int) -> float:
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(values[11 + number]) for number in range(fields)) / _TICKS


def machine_cpu_s() -> float:
    """What all of the machine's processors have worked since the boot, whoever it was for."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / _TICKS


def kernel_threads_cpu_s() -> float:
    """CPU time so far of the kernel's threads that there are."""
    return sum(own_cpu_s(pid) for pid, line in command_lines() if not line)


def pss_mib(pid: int) -> float:
    """Its proportional share of the memory that it has mapped; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def vmm_parts_mib(pid: int) -> dict[str, float]:
    """What a VMM's PSS is made of; nothing when it is gone."""
    parts: dict[str, float] = defaultdict(float)
    part = ""
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    except OSError:
        return parts
    for line in lines:
        first, *rest = line.split()
        if not first.endswith(":"):
            begin, end = (int(number, 16) for number in first.split("-"))
            if end - begin >= _GUEST_BYTES:
                part = "the guest's memory"
            else:
                part = "translated code" if rest[0] == "rwxp" else "QEMU itself"
        elif first == "Pss:":
            parts[part] += int(rest[0]) / 1024
    return parts


def available_mib() -> float:
    """Memory that programs could still get."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 1024


def command_lines() -> Iterable[tuple[int, bytes]]:
    """Every process with its arguments, NUL between them."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "cmdline").read_bytes()


def processes_with(*markers: bytes) -> list[int]:
    """Processes whose command lines hold all of them."""
    return [pid for pid, line in command_lines() if all(marker in line for marker in markers)]


def wait_until(what: str, condition: Callable[[], bool], *, timeout_s: float, every_s: float = 0.01) -> float:
    """Ask until it is so; the seconds that took. TimeoutError names ``what``."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_s:
            raise TimeoutError(f"{what} did not come about within {timeout_s:.0f} s")
        time.sleep(every_s)
    return time.monotonic() - began
