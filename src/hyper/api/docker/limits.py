"""Limits of creates and updates, checked in dockerd's words; what they share. Neighbours: ``create``, ``update``."""

from __future__ import annotations

import os
from typing import Literal, cast

from hyper.api.docker import create_body, create_words
from hyper.engine.model import DeviceLimit, RestartPolicy
from hyper.errors import InvalidArgument

MINIMUM_MEMORY_BYTES = 6 * 1024 * 1024

_RESTART_NAMES = ("no", "always", "on-failure", "unless-stopped")


def check(limits: create_body.Resources) -> None:
    """InvalidArgument for what is no limit, or contradicts another one of the same request."""
    _check_memory(limits)
    _check_processors(limits)
    _check_block_io(limits)


def _check_memory(limits: create_body.Resources) -> None:
    if 0 < limits.memory < MINIMUM_MEMORY_BYTES:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if limits.memory > 0 and 0 < limits.memory_swap < limits.memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if limits.memory_swap < -1:
        raise InvalidArgument("invalid memoryswap limit: it must not be negative, or -1 for unlimited swap")
    if 0 < limits.memory_reservation < MINIMUM_MEMORY_BYTES:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if 0 < limits.memory < limits.memory_reservation:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")
    if limits.memory < 0 or limits.memory_reservation < 0:
        raise InvalidArgument("invalid memory limit: it must not be negative")
    if limits.memory_swappiness is not None and not -1 <= limits.memory_swappiness <= 100:
        raise InvalidArgument(f"Invalid value: {limits.memory_swappiness}, valid memory swappiness range is 0-100")


def _check_processors(limits: create_body.Resources) -> None:
    cpus = os.cpu_count() or 1
    if limits.nano_cpus and (limits.cpu_period or limits.cpu_quota):
        other = "Period" if limits.cpu_period else "Quota"
        raise InvalidArgument(f"Conflicting options: Nano CPUs and CPU {other} cannot both be set")
    if limits.nano_cpus and not 10_000_000 <= limits.nano_cpus <= cpus * 1_000_000_000:
        raise InvalidArgument(f"range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available")
    if limits.cpu_period and not 1000 <= limits.cpu_period <= 1_000_000:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < limits.cpu_quota < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if limits.cpu_shares < 0:
        raise InvalidArgument(f"invalid CPU shares ({limits.cpu_shares}): value must be a positive integer")
    if (wanted := create_words.cpuset(limits.cpuset_cpus)) and create_words.last_cpu(wanted) >= cpus:
        available = f"0-{cpus - 1}" if cpus > 1 else "0"
        raise InvalidArgument(f"Requested CPUs are not available - requested {wanted}, available: {available}")
    if (wanted := create_words.memory_nodes(limits.cpuset_mems)) and create_words.last_cpu(wanted) > 0:
        raise InvalidArgument(f"Requested memory nodes are not available - requested {wanted}, available: 0")
    if limits.cpu_realtime_period or limits.cpu_realtime_runtime:
        raise InvalidArgument("Your kernel does not support CPU real-time scheduler")


def _check_block_io(limits: create_body.Resources) -> None:
    if limits.blkio_weight and not 10 <= limits.blkio_weight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    if limits.io_maximum_bandwidth:
        raise InvalidArgument("Invalid QoS settings: linux does not support configuration of maximum bandwidth")
    if limits.io_maximum_iops:
        raise InvalidArgument("Invalid QoS settings: linux does not support configuration of maximum IOPs")


def device_limits(given: list[create_body.ThrottleDevice]) -> tuple[DeviceLimit, ...]:
    """``--device-read-bps`` and its like."""
    for device in given:
        if not device.path.startswith("/") or "\0" in device.path:
            raise InvalidArgument(f"bad format for device path: {device.path[:128]!a}")
        if device.rate < 0:
            raise InvalidArgument(f"invalid rate for device: {device.path[:128]}")
    return tuple(DeviceLimit(path=device.path, rate=device.rate) for device in given)


def restart_policy(asked: create_body.RestartPolicy) -> RestartPolicy:
    """No name is "no"."""
    name = asked.name or "no"
    count = asked.maximum_retry_count
    if name not in _RESTART_NAMES:
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{name}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if count and name != "on-failure":
        raise InvalidArgument(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
            + (" and cannot be negative" if count < 0 else "")
        )
    if count < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    literal = cast(Literal["no", "always", "on-failure", "unless-stopped"], name)
    return RestartPolicy(name=literal, maximum_retry_count=count)
