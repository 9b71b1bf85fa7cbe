"""The body of ``POST /containers/create``: every member that the API file knows (plus the older ones that clients
still send).

Unknown members are skipped, as Docker does. Known ones are all here so that :mod:`hyper.api.docker.create` can refuse
those that we cannot
honour: nothing is accepted and then ignored.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Words = str | list[str]


class HealthConfig(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    test: list[str] = []
    interval: Int64 = 0
    timeout: Int64 = 0
    retries: Int64 = 0
    start_period: Int64 = 0
    start_interval: Int64 = 0


class PortBinding(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    host_ip: str = ""
    host_port: str = ""


class LogConfig(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    type: str = ""
    config: dict[str, str] = {}


class RestartPolicy(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    name: str = ""
    maximum_retry_count: Int64 = 0


class Ulimit(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    name: str = ""
    soft: Int64 = 0
    hard: Int64 = 0


class DeviceMapping(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    driver: str = ""
    count: Int64 = 0
    device_ids: list[str] = msgspec.field(default_factory=list, name="DeviceIDs")
    capabilities: list[list[str]] = []
    options: dict[str, str] = {}


class WeightDevice(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    path: str = ""
    weight: Int64 = 0


class ThrottleDevice(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    path: str = ""
    rate: Int64 = 0


class BindOptions(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class TmpfsOptions(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    size_bytes: Int64 = 0
    mode: Int64 = 0
    options: list[list[str]] = []


class DriverConfig(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    name: str = ""
    options: dict[str, str] = {}


class VolumeOptions(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    no_copy: bool = False
    labels: dict[str, str] = {}
    driver_config: DriverConfig | None = None
    subpath: str = ""


class Mount(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    target: str = ""
    source: str = ""
    type: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: dict[str, Any] | None = None
    tmpfs_options: TmpfsOptions | None = None


class Resources(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """Limits, as creates and updates have them; but ``PidsLimit``, whose 0 means two things (``HostConfig`` and
    ``hyper.api.docker.update``)."""

    cpu_shares: Int64 = 0
    memory: Int64 = 0
    cgroup_parent: str = ""
    blkio_weight: Int64 = 0
    blkio_weight_device: list[WeightDevice] = []
    blkio_device_read_bps: list[ThrottleDevice] = []
    blkio_device_write_bps: list[ThrottleDevice] = []
    blkio_device_read_iops: list[ThrottleDevice] = msgspec.field(default_factory=list, name="BlkioDeviceReadIOps")
    blkio_device_write_iops: list[ThrottleDevice] = msgspec.field(default_factory=list, name="BlkioDeviceWriteIOps")
    cpu_period: Int64 = 0
    cpu_quota: Int64 = 0
    cpu_realtime_period: Int64 = 0
    cpu_realtime_runtime: Int64 = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] = []
    device_cgroup_rules: list[str] = []
    device_requests: list[DeviceRequest] = []
    kernel_memory: Int64 = 0
    kernel_memory_tcp: Int64 = msgspec.field(default=0, name="KernelMemoryTCP")
    memory_reservation: Int64 = 0
    memory_swap: Int64 = 0
    memory_swappiness: Int64 | None = None
    nano_cpus: Int64 = 0
    oom_kill_disable: bool = False
    init: bool = False
    ulimits: list[Ulimit] = []
    cpu_count: Int64 = 0
    cpu_percent: Int64 = 0
    io_maximum_iops: Int64 = msgspec.field(default=0, name="IOMaximumIOps")
    io_maximum_bandwidth: Int64 = msgspec.field(default=0, name="IOMaximumBandwidth")


class HostConfig(Resources, frozen=True, rename="pascal", kw_only=True):
    """``HostConfig``, with ``Resources`` in it as the wire has it."""

    pids_limit: Int64 = 0
    binds: list[str] = []
    container_id_file: str = msgspec.field(default="", name="ContainerIDFile")
    log_config: LogConfig = LogConfig()
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding]] = {}
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] = []
    mounts: list[Mount] = []
    console_size: tuple[Int64, Int64] = (0, 0)
    annotations: dict[str, str] = {}
    cap_add: Words = []
    cap_drop: Words = []
    cgroupns_mode: str = ""
    dns: list[str] = []
    dns_options: list[str] = []
    dns_search: list[str] = []
    extra_hosts: list[str] = []
    group_add: list[str] = []
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] = []
    oom_score_adj: Int64 = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] = []
    storage_opt: dict[str, str] = {}
    tmpfs: dict[str, str] = {}
    uts_mode: str = msgspec.field(default="", name="UTSMode")
    userns_mode: str = ""
    shm_size: Int64 = 0
    sysctls: dict[str, str] = {}
    runtime: str = ""
    isolation: str = ""
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None


class EndpointSettings(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """What the user may ask of a network; the addresses in it are the engine's to give."""

    ipam_config: dict[str, Any] = msgspec.field(default_factory=dict, name="IPAMConfig")
    links: list[str] = []
    mac_address: str = ""
    aliases: list[str] = []
    driver_opts: dict[str, str] = {}
    gw_priority: Int64 = 0
    network_id: str = msgspec.field(default="", name="NetworkID")
    endpoint_id: str = msgspec.field(default="", name="EndpointID")
    gateway: str = ""
    ip_address: str = msgspec.field(default="", name="IPAddress")
    ip_prefix_len: Int64 = msgspec.field(default=0, name="IPPrefixLen")
    ipv6_gateway: str = msgspec.field(default="", name="IPv6Gateway")
    global_ipv6_address: str = msgspec.field(default="", name="GlobalIPv6Address")
    global_ipv6_prefix_len: Int64 = msgspec.field(default=0, name="GlobalIPv6PrefixLen")
    dns_names: list[str] = msgspec.field(default_factory=list, name="DNSNames")


class NetworkingConfig(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    endpoints_config: dict[str, EndpointSettings] = {}


class CreateBody(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """``ContainerConfig`` with ``HostConfig`` and ``NetworkingConfig`` beside its members, as the wire has it."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Any] = {}
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] = []
    cmd: Words | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, Any] = {}
    working_dir: str = ""
    entrypoint: Words | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] = []
    labels: dict[str, str] = {}
    stop_signal: str = ""
    stop_timeout: Int64 | None = None
    shell: list[str] = []
    host_config: HostConfig = HostConfig()
    networking_config: NetworkingConfig = NetworkingConfig()
