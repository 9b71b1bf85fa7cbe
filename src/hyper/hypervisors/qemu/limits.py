"""What a VMM may take from the host: its cgroup's limits, for a machine of some size. They bound one that was broken
into."""

from __future__ import annotations

from hyper.hypervisors.base import MachineSpec
from hyper.system.cgroups import CgroupLimits

_VMM_MEMORY_BYTES = 512 << 20
"""What QEMU itself may use beside the guest's memory: translation cache (64 MiB), heap, the page cache of its I/O."""
_VMM_THREADS = 512


def limits(spec: MachineSpec, memory_bytes: int, cpus: int) -> CgroupLimits:
    """For a machine of this much memory (grown or held to it) and so many vCPUs."""
    # A page that a copy-on-write clone writes to first is also made, empty, in the file it is a copy of.
    copies = 2 if spec.memory_file is not None and not spec.memory_file.shared else 1
    return CgroupLimits(
        memory_bytes=copies * memory_bytes + _VMM_MEMORY_BYTES,
        processes=_VMM_THREADS,
        cpus=cpus + 1,  # one for QEMU's own threads
    )
