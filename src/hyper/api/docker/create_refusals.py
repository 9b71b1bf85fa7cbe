"""What of a create or update body cannot be honoured, and why: refused, never ignored. One line a member.

A member that is absent here is translated by ``create.py`` or ``update.py``; the tests hold both against the API file,
member by member.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hyper.api.docker.create_body import CreateBody, EndpointSettings, Resources
from hyper.errors import Unsupported


@dataclass(frozen=True)
class _Refusal:
    """``harmless`` tells values that ask for nothing."""

    member: str
    why: str
    harmless: Callable[[Any], bool] = lambda value: not value


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


_WINDOWS = "it is for Windows containers only"
_KERNEL_MEMORY = "kernels since 5.4 have no separate limit for kernel memory; use Memory"

_CONFIG = (_Refusal("args_escaped", _WINDOWS),)

_HOST = (
    _Refusal("cgroup_parent", "a container's cgroup is inside its VM, not on the host"),
    _Refusal("kernel_memory_tcp", _KERNEL_MEMORY),
    _Refusal("cpu_count", _WINDOWS),
    _Refusal("cgroup", "a container's cgroup is its own"),
    _Refusal("links", "container links are a legacy of the default bridge and are not there"),
)

_ENDPOINT = (
    _Refusal("ipam_config", "choosing a container's address is not there yet"),
    _Refusal("links", "container links are not there"),
    _Refusal("aliases", "network aliases need user-defined networks, which are not there yet"),
    _Refusal("driver_opts", "options of network drivers are not there yet"),
    _Refusal("gw_priority", "containers with several networks are not there yet"),
)


_FIXED = "it is fixed when a container is created: make a new one"
_UPDATE = (
    *(refusal for refusal in _HOST if refusal.member in Resources.__struct_fields__),
    *(
        _Refusal(member, _FIXED)
        for member in (
            "oom_kill_disable",
            "init",
            "ulimits",
            "blkio_weight",
            "blkio_weight_device",
            "blkio_device_read_bps",
            "blkio_device_write_bps",
            "blkio_device_read_iops",
            "blkio_device_write_iops",
            "cpuset_mems",
            "devices",
            "device_cgroup_rules",
            "device_requests",
            "kernel_memory",
            "cpu_percent",
            "cpu_realtime_period",
            "cpu_realtime_runtime",
            "io_maximum_iops",
            "io_maximum_bandwidth",
        )
    ),
    _Refusal("memory_swappiness", _FIXED, _one_of(None, -1)),
)


def check(body: CreateBody) -> None:
    """Unsupported for the first member that asks for something we cannot do."""
    _check(_CONFIG, body, "")
    _check(_HOST, body.host_config, "HostConfig.")
    for name, endpoint in body.networking_config.endpoints_config.items():
        _check(_ENDPOINT, endpoint, f"NetworkingConfig.EndpointsConfig.{name}.")


def check_update(body: Resources) -> None:
    """The same for a change of limits."""
    _check(_UPDATE, body, "")


def _check(refusals: tuple[_Refusal, ...], struct: CreateBody | Resources | EndpointSettings, prefix: str) -> None:
    for refusal in refusals:
        if not refusal.harmless(getattr(struct, refusal.member)):
            names = dict(zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True))
            raise Unsupported(f"{prefix}{names[refusal.member]} cannot be honoured: {refusal.why}")
