"""What of a create or update body cannot be honoured, and why: refused, never ignored. One line a member.

A member that is absent here is translated by ``create.py`` or ``update.py``; the tests hold both against the API file,
member by member.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hyper.api.docker.create_body import CreateBody, EndpointSettings, HealthConfig, Resources
from hyper.errors import Unsupported

MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True)
class _Refusal:
    """``harmless`` tells values that ask for nothing."""

    member: str
    why: str
    harmless: Callable[[Any], bool] = lambda value: not value


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _no_check(value: HealthConfig | None) -> bool:
    return value is None or value == HealthConfig() or value.test[:1] == ["NONE"]


_VOLUMES = "mounting host directories and volumes is not there yet; images, `docker exec -i` and stdin carry data in"
_BLOCK_IO = "limits on block devices are not there yet"
_REALTIME = "real-time CPU scheduling is not possible: the guest's kernel has no real-time group scheduling"
_WINDOWS = "it is for Windows containers only"
_KERNEL_MEMORY = "kernels since 5.4 have no separate limit for kernel memory; use Memory"
_HOST_NAMESPACE = "a container has its VM's own; the host's cannot be shared into a VM"

_CONFIG = (
    _Refusal("healthcheck", "health checks are not there yet", _no_check),
    _Refusal("volumes", _VOLUMES),
    _Refusal("network_disabled", 'use NetworkMode "none" instead'),
    _Refusal("on_build", "it belongs to images, not to containers"),
    _Refusal("shell", "it belongs to images, not to containers"),
    _Refusal("args_escaped", _WINDOWS),
)

_HOST = (
    _Refusal("cgroup_parent", "a container's cgroup is inside its VM, not on the host"),
    _Refusal("blkio_weight", _BLOCK_IO),
    _Refusal("blkio_weight_device", _BLOCK_IO),
    _Refusal("blkio_device_read_bps", _BLOCK_IO),
    _Refusal("blkio_device_write_bps", _BLOCK_IO),
    _Refusal("blkio_device_read_iops", _BLOCK_IO),
    _Refusal("blkio_device_write_iops", _BLOCK_IO),
    _Refusal("cpu_realtime_period", _REALTIME),
    _Refusal("cpu_realtime_runtime", _REALTIME),
    _Refusal("cpuset_mems", "a VM has one memory node", _one_of("", "0")),
    _Refusal("devices", "the host's devices cannot be passed into a VM yet"),
    _Refusal("device_cgroup_rules", "the host's devices cannot be passed into a VM yet"),
    _Refusal("device_requests", "the host's devices (GPUs) cannot be passed into a VM yet"),
    _Refusal("kernel_memory", _KERNEL_MEMORY),
    _Refusal("kernel_memory_tcp", _KERNEL_MEMORY),
    _Refusal("memory_swappiness", "a VM has no swap to tune", _one_of(None, -1)),
    _Refusal("cpu_count", _WINDOWS),
    _Refusal("cpu_percent", _WINDOWS),
    _Refusal("io_maximum_iops", _WINDOWS),
    _Refusal("io_maximum_bandwidth", _WINDOWS),
    _Refusal("binds", _VOLUMES),
    _Refusal("volume_driver", _VOLUMES, _one_of("", "local")),
    _Refusal("volumes_from", _VOLUMES),
    _Refusal("cgroupns_mode", _HOST_NAMESPACE, _one_of("", "private")),
    _Refusal("ipc_mode", _HOST_NAMESPACE, _one_of("", "private", "shareable")),
    _Refusal("cgroup", "containers that share a VM are pods, which are not there yet"),
    _Refusal("links", "container links are a legacy of the default bridge and are not there"),
    _Refusal("pid_mode", _HOST_NAMESPACE, _one_of("", "private")),
    _Refusal("storage_opt", "sizes of writable layers per container are not there yet"),
    _Refusal("uts_mode", _HOST_NAMESPACE, _one_of("", "private")),
    _Refusal("userns_mode", "the VM is the wall; user namespaces are not used", _one_of("", "private")),
    _Refusal("runtime", "containers run in VMs; there is one runtime", _one_of("", "hyper")),
    _Refusal("isolation", _WINDOWS, _one_of("", "default")),
    _Refusal(
        "masked_paths",
        "other masked paths than the default ones are not there yet",
        lambda value: value is None or set(value) == set(MASKED_PATHS),
    ),
    _Refusal(
        "readonly_paths",
        "other read-only paths than the default ones are not there yet",
        lambda value: value is None or set(value) == set(READONLY_PATHS),
    ),
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
    _Refusal("oom_kill_disable", _FIXED),
    _Refusal("init", _FIXED),
    _Refusal("ulimits", _FIXED),
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
