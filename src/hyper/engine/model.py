"""The engine's data: what a container is asked to be, and what it is now. Pure; stored as JSON in the records.

Doors translate their own wire formats to these and back (``hyper.api.docker.translate``); nothing here is Docker's
JSON.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec


class Status(StrEnum):
    """Where a container is in its life; the values are Docker's ``State.Status``."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


class MountPoint(msgspec.Struct, frozen=True, kw_only=True):
    """Something of the host that a container sees at ``destination``: a volume, or a directory or file of the
    host's."""

    type: Literal["volume", "bind"]
    destination: str
    name: str = ""
    """The volume's; empty for a bind."""
    source: str = ""
    """The host's path of a bind."""
    subpath: str = ""
    """What of a volume is seen; empty: all."""
    mode: str = ""
    """The options as Docker shows them ("z", "ro")."""
    writable: bool = True
    propagation: str = ""
    anonymous: bool = False
    """A volume that no user has named: it goes with the container when that is asked for."""
    populate: bool = False
    """A volume that is empty gets what the image has there, before the first start."""
    make_source: bool = False
    """A bind's source that is not there is made, as a directory."""
    recursive: bool = True
    """What is mounted below a bind's source is seen as well."""
    readonly_below: bool = True
    """... and is read-only as the mount itself is."""


class MountRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks to see at ``target``: a volume (of any name, if ``source`` is empty), or the host's
    ``source``."""

    type: Literal["volume", "bind"]
    source: str
    target: str
    readonly: bool = False
    mode: str = ""
    propagation: str = ""
    no_copy: bool = False
    subpath: str = ""
    labels: dict[str, str] = {}
    driver: str = ""
    driver_options: dict[str, str] = {}
    make_source: bool = False
    non_recursive: bool = False
    readonly_non_recursive: bool = False
    readonly_force_recursive: bool = False
    consistency: str = ""
    """Asks for nothing on Linux; shown again."""
    text: str = ""
    """How the user wrote it as a ``-v``; empty for a ``--mount``."""


class VolumesFrom(msgspec.Struct, frozen=True, kw_only=True):
    """``--volumes-from``: what that container has. ``text``: as the user wrote it."""

    container: str
    readonly: bool
    text: str


class PortRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One ``-p``: ``host_port`` None means "any free one"."""

    container_port: int
    protocol: Literal["tcp", "udp", "sctp"] = "tcp"
    host_ip: str = ""
    host_port: int | None = None
    host_port_end: int | None = None
    """Any free one from ``host_port`` to this."""


class PortBinding(msgspec.Struct, frozen=True, kw_only=True):
    """One published port as it is."""

    container_port: int
    protocol: str
    host_ip: str
    host_port: int


class Ulimit(msgspec.Struct, frozen=True, kw_only=True):
    """An rlimit by its lower-case name without RLIMIT_ ("nofile"); -1 is unlimited."""

    name: str
    soft: int
    hard: int


class DeviceMapping(msgspec.Struct, frozen=True, kw_only=True):
    """A device of the sandbox for the container: ``source`` is its path there, ``permissions`` some of "rwm"."""

    source: str
    path: str
    permissions: str = "rwm"


class DeviceLimit(msgspec.Struct, frozen=True, kw_only=True):
    """A limit on reading or writing: bytes or operations in a second. ``path`` is the device that the user named."""

    path: str
    rate: int


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Docker's restart policies. ``maximum_retry_count``: of "on-failure"; 0 is without end."""

    name: Literal["no", "always", "on-failure", "unless-stopped"] = "no"
    maximum_retry_count: int = 0


class HealthCheck(msgspec.Struct, frozen=True, kw_only=True):
    """How to find out whether a container is well; 0: the default (``health.py``), or the image's."""

    test: tuple[str, ...] = ()
    """ "CMD" and words, "CMD-SHELL" and a command line, "NONE"; empty: the image's."""
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


class HealthResult(msgspec.Struct, frozen=True, kw_only=True):
    """One check. ``exit_code`` -1: it took too long, or could not be made."""

    began_ns: int
    ended_ns: int
    exit_code: int
    output: str


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks of a run say; ``log`` has the last ones, oldest first."""

    status: Literal["starting", "healthy", "unhealthy"] = "starting"
    failing_streak: int = 0
    log: tuple[HealthResult, ...] = ()


class ContainerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for. After ``create`` the image's own settings are merged in (as Docker's inspect shows)."""

    image: str
    """The image as the user named it."""
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    """None: the image's; ("",) or (): none at all."""
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    hostname: str = ""
    domainname: str = ""
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    stop_signal: str = ""
    stop_timeout_s: int | None = None
    health_check: HealthCheck | None = None
    exposed_ports: tuple[str, ...] = ()
    """ "80/tcp" """

    network_mode: str = "default"
    """ "default", "bridge" or "none" now."""
    ports: tuple[PortRequest, ...] = ()
    publish_all_ports: bool = False
    mac_address: str = ""
    extra_hosts: tuple[str, ...] = ()
    """ "name:address" """
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()

    memory_bytes: int = 0
    """0: no limit of its own (the sandbox's default)."""
    memory_swap_bytes: int = 0
    memory_reservation_bytes: int = 0
    nano_cpus: int = 0
    cpu_shares: int = 0
    cpu_period_us: int = 0
    cpu_quota_us: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int = 0
    cpu_percent: int = 0
    kernel_memory_bytes: int = 0
    memory_swappiness: int | None = None
    blkio_weight: int = 0
    blkio_device_weights: tuple[str, ...] = ()
    """These five cannot be had: they are told of and forgotten when the container is made (``create.py``)."""
    read_bytes_per_s: tuple[DeviceLimit, ...] = ()
    write_bytes_per_s: tuple[DeviceLimit, ...] = ()
    read_operations_per_s: tuple[DeviceLimit, ...] = ()
    write_operations_per_s: tuple[DeviceLimit, ...] = ()
    storage_opt: dict[str, str] = {}
    """ "size": the writable layer's. """
    shm_size_bytes: int = 67108864
    oom_score_adj: int = 0
    oom_kill_disable: bool = False

    readonly_rootfs: bool = False
    tmpfs: dict[str, str] = {}
    mount_requests: tuple[MountRequest, ...] = ()
    volumes: tuple[str, ...] = ()
    """Where anonymous volumes are wanted."""
    volumes_from: tuple[VolumesFrom, ...] = ()
    volume_driver: str = ""
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()
    sysctls: dict[str, str] = {}
    ulimits: tuple[Ulimit, ...] = ()
    init: bool = False
    devices: tuple[DeviceMapping, ...] = ()
    device_cgroup_rules: tuple[str, ...] = ()
    """ "c 10:* rwm" """
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    """None: the default ones, or none at all for a privileged container."""
    pid_mode: str = ""
    ipc_mode: str = "private"
    uts_mode: str = ""
    cgroupns_mode: str = "private"
    userns_mode: str = ""
    """What a container has of its own or shares, in Docker's words; "host" is the sandbox's."""
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()
    """These two are for images made of the container."""

    auto_remove: bool = False
    restart_policy: RestartPolicy = RestartPolicy()
    log_driver: str = "json-file"
    log_options: dict[str, str] = {}
    console_size: tuple[int, int] = (0, 0)
    """Rows and columns of the first terminal, (0, 0) when unknown."""
    isolation: str = ""
    """Empty or "default", which mean the same: shown as given."""


class ContainerUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """New values for members of a container's :class:`ContainerConfig`; None leaves one as it is."""

    memory_bytes: int | None = None
    memory_swap_bytes: int | None = None
    memory_reservation_bytes: int | None = None
    nano_cpus: int | None = None
    cpu_shares: int | None = None
    cpu_period_us: int | None = None
    cpu_quota_us: int | None = None
    cpuset_cpus: str | None = None
    pids_limit: int | None = None
    """0: no limit."""
    restart_policy: RestartPolicy | None = None


class ContainerState(msgspec.Struct, frozen=True, kw_only=True):
    """What it is now. ``exit_code`` is of the last run; times are ns since the epoch, 0 for "never"."""

    status: Status = Status.CREATED
    pid: int = 0
    """The init process as the sandbox numbers it."""
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    started_ns: int = 0
    finished_ns: int = 0
    restart_count: int = 0
    """How often its restart policy has started it since somebody did."""
    manually_stopped: bool = False
    """Somebody stopped or killed it since it was started: a policy's start of the daemon leaves it alone."""
    health: Health | None = None
    """None: nobody checks."""
    rung: str = ""
    """Where the VM of the last start came from: "pool", "template" or "cold"; "pod": another
    container's."""

    @property
    def live(self) -> bool:
        """A process of it exists (running or frozen)."""
        return self.status in (Status.RUNNING, Status.PAUSED)

    @property
    def up(self) -> bool:
        """It runs as far as Docker's users are concerned: also while its restart policy is about to start it."""
        return self.live or self.status is Status.RESTARTING


class NetworkAttachment(msgspec.Struct, frozen=True, kw_only=True):
    """A live connection to a network; addresses are empty strings while the container does not run."""

    network: str
    network_id: str = ""
    endpoint_id: str = ""
    mac_address: str = ""
    address: str = ""
    prefix_length: int = 0
    gateway: str = ""


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A container as the doors see it: an immutable snapshot."""

    id: str
    """64 hex digits."""
    name: str
    """Without the leading slash."""
    owner: str = ""
    created_ns: int
    image_id: str
    config: ContainerConfig
    """Merged with the image's configuration."""
    path: str
    """The program: first word of entrypoint + command."""
    args: tuple[str, ...]
    state: ContainerState = ContainerState()
    networks: tuple[NetworkAttachment, ...] = ()
    bindings: tuple[PortBinding, ...] = ()
    """Published ports, while it runs."""
    log_path: str = ""
    mounts: tuple[MountPoint, ...] = ()
    sandbox_id: str = ""
    timings_ms: dict[str, float] = {}
    """The last start, phase by phase, in milliseconds."""
    exec_ids: tuple[str, ...] = ()


class DeviceUse(msgspec.Struct, frozen=True, kw_only=True):
    """What a container has read from and written to one block device, as its sandbox numbers it."""

    major: int
    minor: int
    read_bytes: int
    written_bytes: int
    reads: int
    writes: int


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a running container uses, at one moment. Times are of all its processors together."""

    time_ns: int
    cpu_total_ns: int
    cpu_user_ns: int
    cpu_system_ns: int
    machine_ns: int
    """What the processors of its VM could have done since it was started."""
    cpus: int
    memory_bytes: int
    memory_limit_bytes: int
    memory_detail: dict[str, int]
    """cgroup v2's ``memory.stat``."""
    pids: int
    pids_limit: int | None
    devices: tuple[DeviceUse, ...]
    networks: dict[str, dict[str, int]]
    """Counters by interface, by the kernel's names of them."""


class ProcessInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A process of a container, as proc(5) tells of it. ``state`` is one letter, ``terminal`` a device number (0:
    none), ``arguments`` may be empty."""

    pid: int
    uid: int
    name: str
    arguments: str
    state: str
    parent: int
    group: int
    session: int
    terminal: int
    foreground_group: int
    cpu_ns: int
    nice: int
    priority: int
    threads: int
    age_ns: int
    virtual_bytes: int
    resident_bytes: int


class Processes(msgspec.Struct, frozen=True, kw_only=True):
    """What runs in a container; ``memory_bytes`` is what its VM has."""

    processes: tuple[ProcessInfo, ...]
    memory_bytes: int


class ExecConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``docker exec``: None or empty members mean "the container's"."""

    command: tuple[str, ...]
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    tty: bool = False
    privileged: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach_keys: str = ""


class Exec(msgspec.Struct, frozen=True, kw_only=True):
    """An exec as the doors see it; ``exit_code`` is None until it ended."""

    id: str
    container_id: str
    config: ExecConfig
    running: bool = False
    pid: int = 0
    exit_code: int | None = None


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of output, normally one line with its newline."""

    time_ns: int
    stream: Literal["stdout", "stderr"]
    data: bytes


class PathStat(msgspec.Struct, frozen=True, kw_only=True):
    """A path in a container. ``mode`` is st_mode; ``link_target``: where a symbolic link leads in the end."""

    name: str
    size: int
    mode: int
    mtime_ns: int
    link_target: str


class PathChange(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``docker diff``."""

    path: str
    kind: Literal["changed", "added", "deleted"]


class WaitResult(msgspec.Struct, frozen=True, kw_only=True):
    exit_code: int
    error: str = ""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something happened: Docker's ``type`` ("container", "image", "network"…), ``action`` and actor."""

    type: str
    action: str
    actor_id: str
    attributes: dict[str, str]
    time_ns: int


class NetworkInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A network that containers can have. ``subnet`` and ``gateway`` are empty for "none"."""

    name: str
    id: str
    """64 hex digits, the same over restarts."""
    driver: Literal["bridge", "null"]
    subnet: str = ""
    gateway: str = ""
    created_ns: int = 0
    options: dict[str, str] = {}


class VolumeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A named volume."""

    name: str
    driver: str
    mountpoint: str
    created_ns: int
    labels: dict[str, str] = {}
    options: dict[str, str] = {}


class RegistryInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How registries are reached, for ``info``. Proxies are without their passwords."""

    mirrors: tuple[str, ...] = ()
    insecure_networks: tuple[str, ...] = ()
    insecure_hosts: tuple[str, ...] = ()
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What ``info`` and ``hyper info`` show of the machine below; free text values are for people."""

    id: str
    data_root: str
    exec_root: str
    hypervisor: str
    hypervisor_version: str
    accelerator: str
    accelerator_reason: str
    kernel_kind: str
    kernel_release: str
    kernel_path: str
    agent_version: str
    template: str
    pool: str
    storage: str
    default_memory_bytes: int
    default_cpus: int
    live_restore: bool
    """Containers are left running when the daemon is told to stop."""
    containers_running: int
    containers_paused: int
    containers_stopped: int
    images: int
    warnings: tuple[str, ...] = ()
