"""The flags of ``run`` and ``create`` that say how far a container is set apart, and what of the API's ``HostConfig``
they mean. Pure. Neighbour: ``create_flags`` (all others)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hyper.cli.flags import Flag, Parsed, many, value
from hyper.cli.human import parse_size
from hyper.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_RATES = (
    ("device-read-bps", "BlkioDeviceReadBps"),
    ("device-write-bps", "BlkioDeviceWriteBps"),
    ("device-read-iops", "BlkioDeviceReadIOps"),
    ("device-write-iops", "BlkioDeviceWriteIOps"),
)
_TEXTS = (
    ("cgroup-parent", "CgroupParent"),
    ("cgroupns", "CgroupnsMode"),
    ("cpuset-mems", "CpusetMems"),
    ("ipc", "IpcMode"),
    ("isolation", "Isolation"),
    ("pid", "PidMode"),
    ("runtime", "Runtime"),
    ("userns", "UsernsMode"),
    ("uts", "UTSMode"),
)
_NUMBERS = (
    ("blkio-weight", "BlkioWeight"),
    ("cpu-rt-period", "CpuRealtimePeriod"),
    ("cpu-rt-runtime", "CpuRealtimeRuntime"),
)

ISOLATION_FLAGS: tuple[Flag, ...] = (
    value("--blkio-weight", "Block I/O weight (10 to 1000)", metavar="int"),
    many("--blkio-weight-device", "Block I/O weight of a device (path:weight)"),
    value("--cgroup-parent", "The container's parent cgroup"),
    value("--cgroupns", "Cgroup namespace (host, private)"),
    value("--cpu-rt-period", "Real-time CPU period in microseconds", metavar="int"),
    value("--cpu-rt-runtime", "Real-time CPU runtime in microseconds", metavar="int"),
    value("--cpuset-mems", "Memory nodes that may be used (0-3, 0,1)"),
    many("--device", "Add a device of the VM (path[:path in the container][:rwm])"),
    many("--device-cgroup-rule", "Allow more devices ('c 10:* rwm')"),
    many("--device-read-bps", "Limit the bytes read in a second (path:1mb)"),
    many("--device-read-iops", "Limit the reads in a second (path:1000)"),
    many("--device-write-bps", "Limit the bytes written in a second (path:1mb)"),
    many("--device-write-iops", "Limit the writes in a second (path:1000)"),
    value("--gpus", "GPUs to add ('all')"),
    value("--ipc", "IPC namespace (none, private, shareable, host, container:NAME)"),
    value("--isolation", "Isolation technology"),
    value("--memory-swappiness", "Memory swappiness (0 to 100)", metavar="int"),
    value("--pid", "PID namespace (host, container:NAME)"),
    value("--runtime", "Runtime (hyper)"),
    many("--storage-opt", "Storage options (size=10G)"),
    value("--userns", "User namespace (host)"),
    value("--uts", "UTS namespace (host)"),
)


def host_config(parsed: Parsed, read_file: Callable[[str], str]) -> dict[str, Any]:
    """Those members that the flags say something about."""
    found: dict[str, Any] = {member: parsed.value(flag) for flag, member in _TEXTS}
    found |= {member: parsed.integer(flag) for flag, member in _NUMBERS}
    found |= {member: [_rate(text, flag) for text in parsed.list(flag)] for flag, member in _RATES}
    found["BlkioWeightDevice"] = [_weight(text) for text in parsed.list("blkio-weight-device")]
    found["Devices"] = [device(text) for text in parsed.list("device")]
    found["DeviceCgroupRules"] = parsed.list("device-cgroup-rule")
    found["StorageOpt"] = dict(_pair(text, "--storage-opt") for text in parsed.list("storage-opt"))
    if gpus := parsed.value("gpus"):
        found["DeviceRequests"] = [_gpus(gpus)]
    result = {member: setting for member, setting in found.items() if setting}
    if (swappiness := parsed.integer("memory-swappiness")) is not None:
        result["MemorySwappiness"] = swappiness
    return result | security(parsed.list("security-opt"), read_file)


def security(options: Sequence[str], read_file: Callable[[str], str]) -> dict[str, Any]:
    """A seccomp profile is read here, and unconfined system paths are two lists, as docker's client sends them."""
    found: dict[str, Any] = {"SecurityOpt": []}
    for text in options:
        name, _, setting = text.partition("=" if "=" in text else ":")
        if (name, setting) == ("systempaths", "unconfined"):
            found |= {"MaskedPaths": [], "ReadonlyPaths": []}
        elif name == "seccomp" and setting not in ("unconfined", "builtin"):
            found["SecurityOpt"].append(f"seccomp={read_file(setting)}")
        else:
            found["SecurityOpt"].append(text)
    return found


def device(text: str) -> dict[str, str]:
    """``/dev/fuse``, ``/dev/fuse:/dev/mine``, ``/dev/fuse:r`` or ``/dev/fuse:/dev/mine:r``."""
    source, *rest = text.split(":")
    path, permissions = source, "rwm"
    if len(rest) == 1 and not rest[0].startswith("/"):
        permissions = rest[0]
    elif rest:
        path, permissions = rest[0], rest[1] if len(rest) > 1 else "rwm"
    if len(rest) > 2 or not source:
        raise InvalidArgument(f"--device {text!r} is no device: write /dev/fuse, or /dev/fuse:/dev/mine:rwm")
    return {"PathOnHost": source, "PathInContainer": path, "CgroupPermissions": permissions}


def _rate(text: str, flag: str) -> dict[str, Any]:
    path, colon, rate = text.rpartition(":")
    if not colon or not path.startswith("/") or (flag.endswith("iops") and not rate.isdecimal()):
        example = "/dev/sda:1000" if flag.endswith("iops") else "/dev/sda:1mb"
        raise InvalidArgument(f"--{flag} {text!r} is no limit: write for example {example}")
    return {"Path": path, "Rate": int(rate) if flag.endswith("iops") else parse_size(rate, f"--{flag}")}


def _weight(text: str) -> dict[str, Any]:
    path, colon, weight = text.rpartition(":")
    if not colon or not weight.isdecimal():
        raise InvalidArgument(f"--blkio-weight-device {text!r} is no weight: write for example /dev/sda:500")
    return {"Path": path, "Weight": int(weight)}


def _pair(text: str, flag: str) -> tuple[str, str]:
    key, equals, setting = text.partition("=")
    if not key or not equals:
        raise InvalidArgument(f"{flag} {text!r} has no value: write key=value")
    return key, setting


def _gpus(text: str) -> dict[str, Any]:
    count = -1 if text == "all" else int(text) if text.isdecimal() else 0
    identifiers = [] if count else [text.removeprefix("device=")]
    return {"Count": count, "DeviceIDs": identifiers, "Capabilities": [["gpu"]]}
