"""How fast the time stamp counter counts that a guest without KVM sees, so that its kernel need not find out.

Under TCG that is the host's own counter. A kernel measures it at boot against a timer, which goes wrong when the host
is busy: a vCPU that has to wait in the last moment of the measurement takes the counter for ten or eighty times slower
than it is, and its clock runs as much too fast for ever ("PIT calibration deviates from PMTIMER"; 5 of 36 boots at a
load of 8 on two processors). With the rate on its command line (``tsc_early_khz``) it has no need to: it only makes
sure of the last percent later. Source: Linux, arch/x86/kernel/tsc.c.

Neighbours: ``probe.py`` (asks), ``command_line.py`` (tells the guest).
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

Sample = tuple[int, int]
"""Nanoseconds of a steady clock, and the counter at that time."""

_CODE = bytes.fromhex("0f31 48c1e220 4809d0 c3")
"""rdtsc; shl rdx, 32; or rax, rdx; ret"""
_WINDOW_S = 0.02
_TRIES = 50
"""Of these readings the one that was disturbed least counts."""
_TOLERANCE = 0.0005
"""Two measurements of one host differ by less; other hosts by more."""


def rate_khz(known: Path, measure: Callable[[], int] | None = None) -> int:
    """The rate, or 0 where it is not to be known: another kind of processor, or a counter without a constant rate.
    Blocking, 20 ms.

    ``known`` is a file that keeps it: the same number every time, because templates depend on it, as long as it is
    right."""
    measured = (measure or _measure)()
    if not measured:
        return 0
    try:
        before = int(known.read_text())
    except (OSError, ValueError):
        before = 0
    if abs(measured - before) <= measured * _TOLERANCE:
        return before
    with contextlib.suppress(OSError):  # then it is measured anew the next time
        known.parent.mkdir(parents=True, exist_ok=True)
        temporary = known.with_name(f"{known.name}.{os.getpid()}")
        temporary.write_text(str(measured))
        temporary.replace(known)
    return measured


def _measure() -> int:
    if platform.machine() != "x86_64" or not _is_constant():
        return 0
    try:
        with _counter() as read:
            start = _sample(read)
            time.sleep(_WINDOW_S)
            end = _sample(read)
    except (OSError, ValueError):
        return 0  # a host that lets nobody make code
    return (end[1] - start[1]) * 1_000_000 // (end[0] - start[0])


def _is_constant(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    return "constant_tsc" in cpuinfo.read_text(encoding="utf-8").split()


@contextlib.contextmanager
def _counter() -> Iterator[Callable[[], int]]:
    """Reads the counter, which Python has no way to."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as code:
        code.write(_CODE)
        start = ctypes.c_char.from_buffer(code)
        try:
            yield ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(start))
        finally:
            del start  # else the mapping cannot be closed


def _sample(read: Callable[[], int]) -> Sample:
    best, width_ns = (0, 0), 1 << 62
    for _ in range(_TRIES):
        before_ns, ticks, after_ns = time.monotonic_ns(), read(), time.monotonic_ns()
        if after_ns - before_ns < width_ns:
            best, width_ns = ((before_ns + after_ns) // 2, ticks), after_ns - before_ns
    return best
