"""What a container uses, asked of its guest: what ``docker stats`` shows.

The guest's cgroup knows processors, memory, processes and disks; the network's counters are the sandbox's. Neighbour:
``hyper.api.docker.stats`` (Docker's form of it).
"""

from __future__ import annotations

import time

from hyper.engine.managed import Managed
from hyper.engine.model import DeviceUse, Usage
from hyper.errors import HyperError

_LOOPBACK = "lo"


async def usage(managed: Managed) -> Usage | None:
    """None when it does not run (any more)."""
    run = managed.run
    if run is None:
        return None
    try:
        stats = await run.sandbox.agent.stats(managed.id)
    except HyperError:
        if managed.run is run and not run.ending:
            raise
        return None
    time_ns = time.time_ns()
    cpus = run.sandbox.record.cpus
    return Usage(
        time_ns=time_ns,
        cpu_total_ns=stats.cpu_usage_ns,
        cpu_user_ns=stats.cpu_user_ns,
        cpu_system_ns=stats.cpu_system_ns,
        machine_ns=max(0, time_ns - managed.state.started_ns) * cpus,
        cpus=cpus,
        memory_bytes=stats.memory_bytes,
        memory_limit_bytes=stats.memory_limit_bytes or run.sandbox.record.memory_bytes,
        memory_detail=stats.memory_stat,
        pids=stats.pids,
        pids_limit=stats.pids_limit,
        devices=tuple(
            DeviceUse(
                major=one.major,
                minor=one.minor,
                read_bytes=one.rbytes,
                written_bytes=one.wbytes,
                reads=one.rios,
                writes=one.wios,
            )
            for one in stats.io
        ),
        networks={name: counters for name, counters in stats.networks.items() if name != _LOOPBACK},
    )
