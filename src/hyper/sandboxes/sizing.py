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
_FIXED_OVERHEAD_BYTES = 168 * _MIB
_SHARE_OVERHEAD = 0.02
"""64 bytes of page structure per 4 KiB are 1.6 %."""
_SHARE_OF_HOST = 7 / 8
"""The kernel refuses a mapping as large as all of its memory, and the host needs some."""
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
    default_cpus: float | None = None
    """None: all of the host's, but one where QEMU translates the guest's code: there a second vCPU costs 0.35 to 1 s
    of CPU time at boot, and makes a pipe between two processes ten times slower on a busy host (vCPUs that wait for
    each other's locks)."""

    def vcpus(self, host: Host, *, emulated: bool) -> int:
        """How many vCPUs a container that does not say gets."""
        wanted = self.default_cpus or (1 if emulated else host.cpus)
        return max(1, min(math.ceil(wanted), host.cpus))


def size_for(
    memory_bytes: int | None, cpus: float | None, settings: SizingSettings, host: Host, *, emulated: bool
) -> Size:
    """The VM for a workload limited to ``memory_bytes`` and ``cpus``. ``emulated``: without KVM. InvalidArgument in
    Docker's words."""
    most = _aligned(min(host.memory_bytes, _ADDRESSABLE_BYTES))
    if memory_bytes is not None and memory_bytes < MINIMUM_LIMIT_BYTES:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    limit = settings.default_memory_bytes if memory_bytes is None else memory_bytes
    # A limit above what the host has can never be reached; its page structures alone would fill the guest.
    memory = min(
        _aligned(limit + _FIXED_OVERHEAD_BYTES + int(limit * _SHARE_OVERHEAD)), _aligned(int(most * _SHARE_OF_HOST))
    )
    if cpus is None:
        vcpus = settings.vcpus(host, emulated=emulated)
    elif not 0.01 <= cpus <= host.cpus:
        raise InvalidArgument(
            f"Range of CPUs is from 0.01 to {host.cpus}.00, as there are only {host.cpus} CPUs available"
        )
    else:
        vcpus = math.ceil(cpus)
    return Size(memory, most, vcpus, host.cpus)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
