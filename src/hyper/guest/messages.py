"""The shapes of the agent's requests, answers and events (docs/agent-protocol.md §5).

What the guest sends is decoded into these with their types checked; a value that does not fit breaks the protocol.
Sizes are bytes, times nanoseconds since the epoch. Neighbour: ``agent``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

Text = Annotated[str, Meta(max_length=65_536)]
Name = Annotated[str, Meta(max_length=256)]
StreamNumber = Annotated[int, Meta(ge=1, le=2**32 - 1)]
# What the engine records and shows must be what it can record and show: the guest chooses these.
Pid = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Instant = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
ExitCode = Annotated[int, Meta(ge=0, le=255)]
SignalNumber = Annotated[int, Meta(ge=0, le=255)]


# -- what the host says


class ScsiAddress(Struct, frozen=True):
    channel: int
    target: int
    lun: int


class Disk(Struct, frozen=True):
    """Where a disk is in the guest, never what it is called there."""

    scsi: ScsiAddress
    fs: Literal["erofs", "ext4"]


class Rootfs(Struct, frozen=True, omit_defaults=True):
    """``layers`` lowest first. Without ``writable`` changes go to a tmpfs of ``writable_tmpfs_bytes``."""

    layers: list[Disk]
    writable: Disk | None = None
    writable_tmpfs_bytes: int | None = None
    readonly: bool = False


class InjectedFile(Struct, frozen=True):
    """A file put over the rootfs' own (hosts, resolv.conf…). ``content`` travels as base64."""

    path: str
    content: bytes
    mode: int = 0o644


class Stdio(Struct, frozen=True):
    """``io``: stdin and stdout (both directions of a terminal); ``stderr`` None with a terminal."""

    io: StreamNumber
    stderr: StreamNumber | None
    stdin: bool


class FilePlace(Struct, frozen=True, omit_defaults=True):
    """Whose files: a container's that runs in the sandbox (its id), or those on the disks of one that does not run."""

    container: str | None = None
    rootfs: Rootfs | None = None


class Route(Struct, frozen=True):
    to: str
    via: str | None = None


class Interface(Struct, frozen=True):
    """A card with this ``mac``, or one that gets it; ``addresses`` as ``172.29.0.2/16``."""

    mac: str
    name: str
    mtu: int = 1500
    addresses: list[str] = []
    routes: list[Route] = []


class Configuration(Struct, frozen=True, omit_defaults=True):
    """What a sandbox is told about itself; only what is named is changed. ``entropy``: at least 32 bytes.
    ``interfaces``: exactly these are in its network from then on, its other cards out of sight."""

    hostname: str | None = None
    time_ns: int | None = None
    entropy: bytes | None = None
    interfaces: list[Interface] | None = None
    sysctls: dict[str, str] = {}
    machine_id: str | None = None


# -- what the agent answers


class Nothing(Struct):
    """An answer without members."""


class Pong(Struct):
    time_ns: Instant


class Resized(Struct):
    """What a sandbox has: processors that containers can use, and memory without the kernel's own share (MemTotal)."""

    cpus: Annotated[int, Meta(ge=0, le=65_536)]
    memory_bytes: Count


class Created(Struct):
    pid: Pid


class Started(Struct):
    started_ns: Instant


class ExecStarted(Struct):
    pid: Pid
    started_ns: Instant


class Pids(Struct):
    pids: Annotated[list[Pid], Meta(max_length=1 << 20)]


Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class ListedProcess(Struct):
    """A process of a container, as proc(5) tells of it. ``state`` is one letter, ``terminal`` a device number or 0,
    ``arguments`` empty when it has none or there are too many."""

    pid: Pid
    uid: Count
    name: Name
    arguments: Text
    state: Annotated[str, Meta(min_length=1, max_length=1)]
    parent: Number
    group: Number
    session: Number
    terminal: Number
    foreground_group: Number
    cpu_ns: Count
    nice: Number
    priority: Number
    threads: Count
    age_ns: Count
    virtual_bytes: Count
    resident_bytes: Count


class ProcessList(Struct):
    processes: Annotated[list[ListedProcess], Meta(max_length=1024)]


class ProcessState(Struct):
    """``process`` is "" for the container's init, else the exec's id."""

    process: Name
    pid: Pid
    status: Literal["created", "running", "exited"]
    exit_code: ExitCode | None
    signal: SignalNumber | None
    started_ns: Instant | None
    exited_ns: Instant | None
    stdio: Stdio
    tty: bool


class ContainerState(Struct):
    id: Name
    status: Literal["created", "running", "paused", "stopped"]
    pid: Pid
    oom_killed: bool
    processes: list[ProcessState]


class SandboxMemory(Struct):
    total_bytes: Count
    available_bytes: Count


class SandboxState(Struct):
    containers: list[ContainerState]
    uptime_ns: Instant
    kernel: Name
    memory: SandboxMemory


class IoStats(Struct):
    major: Count
    minor: Count
    rbytes: Count
    wbytes: Count
    rios: Count
    wios: Count


class Stats(Struct):
    """cgroup v2's numbers of one container. ``memory_limit_bytes`` and ``pids_limit`` None: no limit."""

    cpu_usage_ns: Count
    cpu_user_ns: Count
    cpu_system_ns: Count
    memory_bytes: Count
    memory_limit_bytes: Count | None
    memory_stat: dict[Name, Count]
    pids: Count
    pids_limit: Count | None
    oom_kills: Count
    io: list[IoStats]
    networks: dict[Name, dict[Name, Count]]


class FileStat(Struct, frozen=True):
    """A path in a container; ``mode`` is st_mode, ``link_target`` where a symbolic link leads in the end."""

    name: Text
    size: Count
    mode: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    mtime_ns: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    link_target: Text


# -- events


class ProcessExited(Struct, frozen=True):
    """A process ended; 128+n for signal n. ``exec_id`` "" is the container's init."""

    id: Name
    exec_id: Name
    exit_code: ExitCode
    signal: SignalNumber | None
    exited_ns: Instant
    oom_killed: bool


class ContainerOom(Struct, frozen=True):
    id: Name


class AgentLog(Struct, frozen=True):
    level: Name
    message: Text


Event = ProcessExited | ContainerOom | AgentLog
EVENTS: dict[str, type[ProcessExited] | type[ContainerOom] | type[AgentLog]] = {
    "process.exited": ProcessExited,
    "container.oom": ContainerOom,
    "agent.log": AgentLog,
}


# -- the envelope


class WireError(Struct):
    kind: Name
    message: Text


class Incoming(Struct):
    """Any message of the agent: an answer (``id`` with ``result`` or ``error``) or an event."""

    id: int | None = None
    result: msgspec.Raw = msgspec.Raw()
    error: WireError | None = None
    event: Name | None = None
    params: msgspec.Raw = msgspec.Raw()


class Outgoing(Struct):
    id: int
    method: str
    params: dict[str, Any]
