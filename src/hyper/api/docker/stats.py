"""What a container uses, as ``GET /containers/{id}/stats`` tells it: the form that dockerd gives on a host with cgroup
v2.

A sample has the one before it beside it (``precpu_stats``), from which clients compute a percentage. Of a container
that does not run there are only its names. Neighbour: ``hyper.engine.usage`` (where the numbers are from).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from hyper.api.docker.times import ZERO, rfc3339_nano
from hyper.engine.api import Containers
from hyper.engine.model import Container, DeviceUse, Usage
from hyper.errors import NotFound

INTERVAL_S = 1.0
_COUNTERS = ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "tx_bytes", "tx_packets", "tx_errors", "tx_dropped")
_UNLIMITED_PIDS = 2**64 - 1


async def once(containers: Containers, container: Container, *, one_shot: bool) -> dict[str, Any]:
    """One sample; without ``one_shot`` after another one, a second before."""
    before = None
    if not one_shot:
        before = await containers.usage(container.id)
        if before is not None:
            await asyncio.sleep(INTERVAL_S)
    return stats_json(container, await containers.usage(container.id), before)


async def stream(containers: Containers, container: Container) -> AsyncGenerator[bytes, None]:
    """A sample a second, whether it runs or not, until it is removed."""
    before: Usage | None = None
    while True:
        try:
            now = await containers.usage(container.id)
            container = containers.get(container.id)  # its name may have changed
        except NotFound:
            return
        yield msgspec.json.encode(stats_json(container, now, before)) + b"\n"
        before = now
        await asyncio.sleep(INTERVAL_S)


def stats_json(container: Container, now: Usage | None, before: Usage | None) -> dict[str, Any]:
    """``before``: the sample before this one."""
    result: dict[str, Any] = {
        "name": f"/{container.name}",
        "id": container.id,
        "read": rfc3339_nano(now.time_ns) if now else ZERO,
        "preread": rfc3339_nano(before.time_ns) if before else ZERO,
        "num_procs": 0,
        "storage_stats": {},
        "pids_stats": _pids(now) if now else {},
        "blkio_stats": _block_io(now.devices if now else ()),
        "cpu_stats": _cpu(now),
        "precpu_stats": _cpu(before),
        "memory_stats": _memory(now) if now else {},
    }
    if now is not None and now.networks:
        result["networks"] = {
            name: {counter: counters.get(counter, 0) for counter in _COUNTERS}
            for name, counters in now.networks.items()
        }
    return result


def _pids(now: Usage) -> dict[str, int]:
    return {"current": now.pids, "limit": _UNLIMITED_PIDS if now.pids_limit is None else now.pids_limit}


def _memory(now: Usage) -> dict[str, Any]:
    return {"usage": now.memory_bytes, "limit": now.memory_limit_bytes, "stats": now.memory_detail}


def _cpu(sample: Usage | None) -> dict[str, Any]:
    throttling = {"periods": 0, "throttled_periods": 0, "throttled_time": 0}
    if sample is None:
        usage = {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0}
        return {"cpu_usage": usage, "throttling_data": throttling}
    return {
        "cpu_usage": {
            "total_usage": sample.cpu_total_ns,
            "usage_in_kernelmode": sample.cpu_system_ns,
            "usage_in_usermode": sample.cpu_user_ns,
        },
        "system_cpu_usage": sample.machine_ns,
        "online_cpus": sample.cpus,
        "throttling_data": throttling,
    }


def _block_io(devices: tuple[DeviceUse, ...]) -> dict[str, Any]:
    moved = [
        {"major": one.major, "minor": one.minor, "op": op, "value": value}
        for one in devices
        for op, value in (("read", one.read_bytes), ("write", one.written_bytes))
    ]
    others = (
        *("io_serviced_recursive", "io_queue_recursive", "io_service_time_recursive", "io_wait_time_recursive"),
        *("io_merged_recursive", "io_time_recursive", "sectors_recursive"),
    )
    return {"io_service_bytes_recursive": moved, **dict.fromkeys(others)}
