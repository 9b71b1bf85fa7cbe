"""How big a VM must be so that its workload gets what was asked for.

The workload's limit is held by a cgroup inside the guest; the VM is bigger by what the kernel, its page structures
and the agent take. Measured with the tuned kernel and Debian's: see docs/benchmarks.md, "memory of a sandbox".
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from hyper.errors import InvalidArgument

_MIB = 1 << 20
MINIMUM_LIMIT_BYTES = 6 * _MIB
"""Docker's own."""
_FIXED_OVERHEAD_BYTES = 96 * _MIB
_SHARE_OVERHEAD = 0.02
"""64 bytes of page structure per 4 KiB are 1.6 %."""
_ALIGNMENT = 2 * _MIB
_ADDRESSABLE_BYTES = 512 << 30
"""Under a 40-bit physical address space, the least that the CPU models used here have."""


@dataclass(frozen=True)
class Host:
    """What the host has."""

    memory_bytes: int
    cpus: int

    @classmethod
    def here(cls) -> Host:
        return cls(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), os.cpu_count() or 1)


@dataclass(frozen=True)
class Size:
    """A VM's size, and how far it could ever be grown."""

    memory_bytes: int
    max_memory_bytes: int
    cpus: int
    max_cpus: int


@dataclass(frozen=True)
class SizingSettings:
    """Defaults for containers that do not say."""

    default_memory_bytes: int = 2 << 30
    default_cpus: int = 1
    """A second vCPU costs 0.2 s (tuned kernel) to 1 s (Debian's) of boot under TCG."""


def size_for(memory_bytes: int | None, cpus: float | None, settings: SizingSettings, host: Host) -> Size:
    """The VM for a workload limited to ``memory_bytes`` and ``cpus``. InvalidArgument in Docker's words."""
    most = _aligned(min(host.memory_bytes, _ADDRESSABLE_BYTES))
    if memory_bytes is not None and memory_bytes < MINIMUM_LIMIT_BYTES:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    limit = settings.default_memory_bytes if memory_bytes is None else memory_bytes
    # A limit above what the host has can never be reached; its page structures alone would fill the guest.
    memory = min(_aligned(limit + _FIXED_OVERHEAD_BYTES + int(limit * _SHARE_OVERHEAD)), most)
    if cpus is None:
        vcpus = max(1, min(settings.default_cpus, host.cpus))
    elif not 0.01 <= cpus <= host.cpus:
        raise InvalidArgument(
            f"Range of CPUs is from 0.01 to {host.cpus}.00, as there are only {host.cpus} CPUs available"
        )
    else:
        vcpus = math.ceil(cpus)
    return Size(memory, most, vcpus, host.cpus)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
