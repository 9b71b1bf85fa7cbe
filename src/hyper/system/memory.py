"""How much memory this host has to give. Kernel document: filesystems/proc.rst, "meminfo"."""

from __future__ import annotations

from pathlib import Path


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """What programs can have without the host having to swap."""
    return _kib(meminfo, "MemAvailable") << 10


def total_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    return _kib(meminfo, "MemTotal") << 10


def _kib(meminfo: Path, name: str) -> int:
    for line in meminfo.read_text().splitlines():
        key, _, rest = line.partition(":")
        if key == name:
            return int(rest.split()[0])
    raise ValueError(f"{meminfo} has no {name}")
