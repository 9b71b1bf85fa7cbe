"""Builds an OCI runtime spec (config.json, version 1.2) for a container in a sandbox, with Docker's defaults. Pure.

What is different from Docker's own: network, IPC and UTS belong to the sandbox (its pod), so the container gets no
namespaces for them; the root's path is the agent's business (the disks travel beside the spec); mounts from the host
do not exist. Source: runtime-spec config.md and config-linux.md. Neighbours: ``capabilities``, ``seccomp_profile``;
the engine fills a :class:`ContainerRequest` from what the user asked, and sends the result to the agent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyper.errors import InvalidArgument, Unsupported
from hyper.oci import capabilities, seccomp_profile

VERSION = "1.2.0"
DEFAULT_SHM_BYTES = 64 << 20
_CPU_PERIOD_US = 100_000
_NANO = 1_000_000_000

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_RLIMITS = frozenset(
    {"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue"}
    | {"nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"}
)
_UNLIMITED = 2**64 - 1
_TMPFS_OPTION = re.compile(
    r"^(ro|rw|nosuid|suid|nodev|dev|noexec|exec|sync|async|dirsync|remount|noatime|atime|nodiratime|diratime|relatime|"
    r"norelatime|strictatime|nostrictatime|mode=[0-7]{1,4}|uid=\d+|gid=\d+|nr_inodes=\d+[kmgKMG]?|"
    r"nr_blocks=\d+[kmgKMG]?|size=\d+[kmgKMG%]?|mpol=[a-z0-9:=,-]+)$"
)


@dataclass(frozen=True)
class Ulimit:
    """``name`` as docker's --ulimit has it (``nofile``); -1 is unlimited."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True)
class Device:
    """A device of the sandbox, or all of a folder of devices, for a container. ``access``: some of ``rwm``."""

    source: str
    path: str
    access: str = "rwm"


@dataclass(frozen=True)
class DiskLimits:
    """For each of the container's disks: bytes and operations in a second, read and written; None: no limit."""

    read_bytes: int | None = None
    write_bytes: int | None = None
    read_operations: int | None = None
    write_operations: int | None = None


@dataclass(frozen=True)
class Resources:
    """Limits of one container; None: none of its own. ``cpus`` in processors (1.5)."""

    memory_bytes: int | None = None
    memory_reservation_bytes: int | None = None
    memory_swap_bytes: int | None = None
    """Memory and swap together, as Docker counts them; -1: no limit."""
    cpus: float | None = None
    cpu_period_us: int | None = None
    cpu_quota_us: int | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids: int | None = None
    disks: DiskLimits = DiskLimits()


@dataclass(frozen=True)
class ProcessRequest:
    """A process, the container's first or an exec. ``user`` is Docker's string: name or uid, maybe ``:group``."""

    args: Sequence[str]
    env: Sequence[str] = ()
    cwd: str = "/"
    user: str = ""
    terminal: bool = False
    console_size: tuple[int, int] | None = None
    """Rows and columns."""
    privileged: bool = False
    capabilities_add: Sequence[str] = ()
    capabilities_drop: Sequence[str] = ()
    no_new_privileges: bool = False
    ulimits: Sequence[Ulimit] = ()
    groups: Sequence[str] = ()
    """Further groups, by name or number."""
    oom_score_adj: int = 0


@dataclass(frozen=True)
class ContainerRequest:
    """A container. ``seccomp``: None is the default profile, an empty mapping none (``seccomp=unconfined``), else
    that one, in Docker's form."""

    process: ProcessRequest
    hostname: str = ""
    domainname: str = ""
    readonly_rootfs: bool = False
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    """Where → options, comma-separated (``size=64m,mode=1777``)."""
    binds: Sequence[Mapping[str, Any]] = ()
    """Mounts of what the guest has elsewhere, in the specification's words."""
    shm_size_bytes: int | None = DEFAULT_SHM_BYTES
    """None: no /dev/shm, or the sandbox's as big as it is."""
    shm_of_sandbox: bool = False
    """/dev/shm is the sandbox's, which its containers may share."""
    namespaces: Mapping[str, str] = field(default_factory=lambda: {"pid": "", "mount": "", "cgroup": ""})
    """Its own ones, or with the path of another's; the others are the sandbox's."""
    devices: Sequence[Device] = ()
    device_rules: Sequence[str] = ()
    """``c 10:* rwm``"""
    annotations: Mapping[str, str] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    masked_paths: Sequence[str] | None = None
    """None: Docker's; for a privileged container none."""
    readonly_paths: Sequence[str] | None = None
    seccomp: Mapping[str, Any] | None = None
    init: bool = False


def container_spec(request: ContainerRequest, *, machine: str | None = None) -> dict[str, Any]:
    """The runtime spec, ready for JSON. InvalidArgument names what is wrong; Unsupported what cannot be done yet.

    ``machine``: the guest's ``uname -m``, by default the host's."""
    if request.init:
        raise Unsupported("--init is not there yet: let the image's entrypoint be tini or dumb-init")
    process = request.process
    machine = machine or os.uname().machine
    allowed = capabilities.effective(process.capabilities_add, process.capabilities_drop, privileged=process.privileged)
    rules = [*_device_rules(process.privileged), *(_device_rule(rule) for rule in request.device_rules)]
    linux: dict[str, Any] = {
        "namespaces": [
            {"type": kind, "path": path} if path else {"type": kind} for kind, path in request.namespaces.items()
        ],
        "resources": {**resources(request.resources), "devices": rules},
        "maskedPaths": _or_default(request.masked_paths, () if process.privileged else MASKED_PATHS),
        "readonlyPaths": _or_default(request.readonly_paths, () if process.privileged else READONLY_PATHS),
    }
    devices = [*([Device("/dev", "/dev")] if process.privileged else []), *request.devices]
    if devices:
        # No numbers: the sandbox's agent knows them (docs/agent-protocol.md, container.create).
        linux["devices"] = [{"source": one.source, "path": one.path, "access": one.access} for one in devices]
    if request.sysctls:
        linux["sysctl"] = dict(request.sysctls)
    if request.seccomp is None and not process.privileged:
        linux["seccomp"] = seccomp_profile.default_profile(allowed, machine)
    elif request.seccomp:
        linux["seccomp"] = seccomp_profile.for_container(request.seccomp, allowed, machine)
    spec: dict[str, Any] = {
        "ociVersion": VERSION,
        "process": process_spec(process),
        "root": {"path": "rootfs", "readonly": request.readonly_rootfs},
        "mounts": _mounts(request),
        "linux": linux,
    }
    if request.hostname:
        spec["hostname"] = request.hostname
    if request.domainname:
        spec["domainname"] = request.domainname
    if request.annotations:
        spec["annotations"] = dict(request.annotations)
    return spec


def process_spec(request: ProcessRequest) -> dict[str, Any]:
    """The OCI ``process`` object; for ``process.exec`` as it is."""
    if not request.args or not request.args[0]:
        raise InvalidArgument("no command specified: the image has none, so give one")
    for text in (*request.args, *request.env, request.cwd, request.user):
        if "\0" in text:
            raise InvalidArgument(f"{text!r} contains a NUL byte, which no argument, variable or path can have")
    cwd = request.cwd or "/"
    if not cwd.startswith("/"):
        raise InvalidArgument(f'the working directory "{cwd}" is invalid, it needs to be an absolute path')
    allowed = capabilities.effective(request.capabilities_add, request.capabilities_drop, privileged=request.privileged)
    spec: dict[str, Any] = {
        "terminal": request.terminal,
        "user": {"uid": 0, "gid": 0, "username": request.user, "additionalGroups": list(request.groups)},
        "args": list(request.args),
        "env": list(request.env),
        "cwd": cwd,
        # As Docker: nothing inheritable or ambient, so that a program run by another user gains none by exec.
        "capabilities": {
            "bounding": allowed,
            "effective": allowed,
            "permitted": allowed,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": [_rlimit(limit) for limit in request.ulimits],
        "noNewPrivileges": request.no_new_privileges,
        "oomScoreAdj": request.oom_score_adj,
    }
    if request.console_size is not None:
        rows, columns = request.console_size
        spec["consoleSize"] = {"height": rows, "width": columns}
    return spec


def resources(request: Resources) -> dict[str, Any]:
    """OCI's ``linux.resources``, without devices; for ``container.update`` as it is."""
    memory = _present(
        limit=request.memory_bytes,
        reservation=request.memory_reservation_bytes,
        swap=request.memory_swap_bytes,
    )
    cpu = _present(shares=request.cpu_shares, cpus=request.cpuset_cpus or None, mems=request.cpuset_mems or None)
    quota, period = request.cpu_quota_us, request.cpu_period_us
    if request.cpus is not None:
        if quota is not None or period is not None:
            raise InvalidArgument("--cpus cannot be combined with --cpu-period or --cpu-quota: give one or the other")
        period = _CPU_PERIOD_US
        quota = int(round(request.cpus * _NANO) * period / _NANO)
    cpu.update(_present(quota=quota, period=period))
    result: dict[str, Any] = {}
    if memory:
        result["memory"] = memory
    if cpu:
        result["cpu"] = cpu
    if request.pids is not None:
        result["pids"] = {"limit": request.pids}
    if block_io := _block_io(request.disks):
        result["blockIO"] = block_io
    return result


def _block_io(limits: DiskLimits) -> dict[str, Any]:
    """Without device numbers: each of the container's own disks, which the agent knows."""
    rates = _present(
        throttleReadBpsDevice=limits.read_bytes,
        throttleWriteBpsDevice=limits.write_bytes,
        throttleReadIOPSDevice=limits.read_operations,
        throttleWriteIOPSDevice=limits.write_operations,
    )
    return {name: [{"rate": rate}] for name, rate in rates.items()}


def _mounts(request: ContainerRequest) -> list[dict[str, Any]]:
    privileged = request.process.privileged
    system_mode = "rw" if privileged else "ro"
    mounts = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", system_mode),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", system_mode, "nosuid", "noexec", "nodev"),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    ]
    bound = {bind["destination"] for bind in request.binds}
    if request.shm_of_sandbox and "/dev/shm" not in bound:
        sized = [] if request.shm_size_bytes is None else [f"size={request.shm_size_bytes}"]
        mounts.append(_mount("/dev/shm", "bind", "/dev/shm", "bind", "nosuid", "noexec", "nodev", *sized))
    elif "/dev/shm" not in request.tmpfs and "/dev/shm" not in bound and request.shm_size_bytes is not None:
        size = f"size={request.shm_size_bytes}"
        mounts.append(_mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", size))
    own = [_mount(_tmpfs_path(at), "tmpfs", "tmpfs", *_tmpfs_options(text)) for at, text in request.tmpfs.items()]
    own += [dict(bind) for bind in request.binds]
    if request.binds:
        own.sort(key=lambda mount: mount["destination"].count("/"))  # what is below another comes on top of it
    return mounts + own


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _tmpfs_path(path: str) -> str:
    if not path.startswith("/") or os.path.normpath(path) == "/":
        raise InvalidArgument(f'invalid --tmpfs "{path}": it must be an absolute path other than /')
    normal = os.path.normpath(path)
    if "\0" in path or (normal + "/").startswith("/proc/"):
        raise InvalidArgument(f"invalid --tmpfs {path!a}: nothing can be mounted inside /proc")
    return normal


def _tmpfs_options(text: str) -> list[str]:
    given = [option for option in text.split(",") if option]
    for option in given:
        if not _TMPFS_OPTION.match(option):
            raise InvalidArgument(f'invalid tmpfs option "{option}"')
    # Docker's own come first, so that what was given overrides them.
    return ["noexec", "nosuid", "nodev", *given]


def _device_rules(privileged: bool) -> list[dict[str, Any]]:
    """Docker's rules: all devices for a privileged container, else any may be made (mknod) and the harmless be used."""
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    usable = [("c", 1, minor) for minor in (3, 5, 7, 8, 9)] + [("c", 5, 0), ("c", 5, 1), ("c", 5, 2), ("c", 136, None)]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    rules += [{"allow": True, "type": kind, "access": "m"} for kind in ("c", "b")]
    for kind, major, minor in usable:
        rules.append(_present(allow=True, type=kind, major=major, minor=minor, access="rwm"))
    return rules


def _device_rule(text: str) -> dict[str, Any]:
    """``c 10:* rwm`` as the runtime spec has it."""
    kind, numbers, access = text.split(" ")
    major, minor = (None if number == "*" else int(number) for number in numbers.split(":"))
    return _present(allow=True, type=kind, major=major, minor=minor, access=access)


def _rlimit(limit: Ulimit) -> dict[str, Any]:
    if limit.name not in _RLIMITS:
        raise InvalidArgument(f'invalid ulimit type "{limit.name}"; known are {", ".join(sorted(_RLIMITS))}')
    soft, hard = (_UNLIMITED if value == -1 else value for value in (limit.soft, limit.hard))
    if soft < 0 or hard < 0 or soft > hard:
        raise InvalidArgument(f"ulimit {limit.name}: soft limit {limit.soft} must not be above hard limit {limit.hard}")
    return {"type": f"RLIMIT_{limit.name.upper()}", "soft": soft, "hard": hard}


def _or_default(given: Sequence[str] | None, default: Sequence[str]) -> list[str]:
    return list(default if given is None else given)


def _present(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
