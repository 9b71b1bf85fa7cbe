"""A container as ``GET /containers/{id}/json`` shows it: all that clients of the API file may look for, from the
engine's snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyper.api.docker import mounts, ports
from hyper.api.docker.times import rfc3339_nano
from hyper.api.docker.versions import Version
from hyper.engine.model import (
    Container,
    ContainerConfig,
    ContainerState,
    DeviceLimit,
    Health,
    HealthCheck,
    NetworkAttachment,
    Status,
)
from hyper.oci.runtime_spec import MASKED_PATHS, READONLY_PATHS

STORAGE_DRIVER = "erofs"
RUNTIME = "hyper"


def container_json(container: Container, version: Version) -> dict[str, Any]:
    config = container.config
    return {
        "Id": container.id,
        "Created": rfc3339_nano(container.created_ns),
        "Path": container.path,
        "Args": list(container.args),
        "State": state_json(container.state),
        "Image": container.image_id,
        # These files exist inside the VM only.
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": container.log_path,
        "Name": f"/{container.name}",
        "RestartCount": container.state.restart_count,
        "Driver": STORAGE_DRIVER,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": list(container.exec_ids) or None,
        "HostConfig": host_config_json(config),
        "GraphDriver": {"Name": STORAGE_DRIVER, "Data": {}},
        "Mounts": mounts.points_json(container),
        "Config": config_json(config, version),
        "NetworkSettings": network_settings_json(container),
        # Ours, which Docker's clients pass over: where the last start's time went.
        "Hyper": {
            "SandboxId": container.sandbox_id,
            "Rung": container.state.rung,
            "TimingsMs": container.timings_ms,
        },
    }


def state_json(state: ContainerState) -> dict[str, Any]:
    status = state.status
    result: dict[str, Any] = {
        "Status": status.value,
        "Running": state.up,
        "Paused": status is Status.PAUSED,
        "Restarting": status is Status.RESTARTING,
        "OOMKilled": state.oom_killed,
        "Dead": status is Status.DEAD,
        "Pid": state.pid if state.live else 0,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": rfc3339_nano(state.started_ns),
        "FinishedAt": rfc3339_nano(state.finished_ns),
    }
    if state.health is not None:
        result["Health"] = health_json(state.health)
    return result


def health_json(health: Health) -> dict[str, Any]:
    return {
        "Status": health.status,
        "FailingStreak": health.failing_streak,
        "Log": [
            {
                "Start": rfc3339_nano(result.began_ns),
                "End": rfc3339_nano(result.ended_ns),
                "ExitCode": result.exit_code,
                "Output": result.output,
            }
            for result in health.log
        ],
    }


def health_check_json(check: HealthCheck) -> dict[str, Any]:
    """What is not set is left out, as Docker does."""
    members = {
        "Test": list(check.test),
        "Interval": check.interval_ns,
        "Timeout": check.timeout_ns,
        "StartPeriod": check.start_period_ns,
        "StartInterval": check.start_interval_ns,
        "Retries": check.retries,
    }
    return {name: value for name, value in members.items() if value}


def config_json(config: ContainerConfig, version: Version) -> dict[str, Any]:
    result: dict[str, Any] = {
        "Hostname": config.hostname,
        "Domainname": config.domainname,
        "User": config.user,
        "AttachStdin": config.attach_stdin,
        "AttachStdout": config.attach_stdout,
        "AttachStderr": config.attach_stderr,
        "Tty": config.tty,
        "OpenStdin": config.open_stdin,
        "StdinOnce": config.stdin_once,
        "Env": list(config.env),
        "Cmd": list(config.command or ()),
        "Image": config.image,
        "Volumes": {path: {} for path in config.volumes},
        "WorkingDir": config.working_dir,
        "Entrypoint": list(config.entrypoint or ()),
        "OnBuild": list(config.on_build) or None,
        "Labels": config.labels,
    }
    if config.exposed_ports:
        result["ExposedPorts"] = {port: {} for port in config.exposed_ports}
    if config.health_check is not None:
        result["Healthcheck"] = health_check_json(config.health_check)
    if config.shell:
        result["Shell"] = list(config.shell)
    if config.stop_signal:
        result["StopSignal"] = config.stop_signal
    if config.stop_timeout_s is not None:
        result["StopTimeout"] = config.stop_timeout_s
    if config.mac_address and version < (1, 44):
        result["MacAddress"] = config.mac_address
    return result


def host_config_json(config: ContainerConfig) -> dict[str, Any]:
    return {
        "Binds": [item.text for item in config.mount_requests if item.text],
        "ContainerIDFile": "",
        "LogConfig": {"Type": config.log_driver or "json-file", "Config": config.log_options},
        "NetworkMode": config.network_mode,
        "PortBindings": ports.wire_requests(config.ports),
        "RestartPolicy": {
            "Name": config.restart_policy.name,
            "MaximumRetryCount": config.restart_policy.maximum_retry_count,
        },
        "AutoRemove": config.auto_remove,
        "VolumeDriver": config.volume_driver,
        "VolumesFrom": [item.text for item in config.volumes_from],
        "Mounts": [mounts.request_json(item) for item in config.mount_requests if not item.text],
        "ConsoleSize": list(config.console_size),
        "Annotations": config.annotations,
        "CapAdd": list(config.cap_add),
        "CapDrop": list(config.cap_drop),
        "CgroupnsMode": config.cgroupns_mode,
        "Dns": list(config.dns),
        "DnsOptions": list(config.dns_options),
        "DnsSearch": list(config.dns_search),
        "ExtraHosts": list(config.extra_hosts),
        "GroupAdd": list(config.group_add),
        "IpcMode": config.ipc_mode,
        "Cgroup": "",
        "Links": [],
        "OomScoreAdj": config.oom_score_adj,
        "PidMode": config.pid_mode,
        "Privileged": config.privileged,
        "PublishAllPorts": config.publish_all_ports,
        "ReadonlyRootfs": config.readonly_rootfs,
        "SecurityOpt": list(config.security_opt),
        "StorageOpt": config.storage_opt,
        "Tmpfs": config.tmpfs,
        "UTSMode": config.uts_mode,
        "UsernsMode": config.userns_mode,
        "ShmSize": config.shm_size_bytes,
        "Sysctls": config.sysctls,
        "Runtime": RUNTIME,
        "Isolation": config.isolation,
        "CpuShares": config.cpu_shares,
        "Memory": config.memory_bytes,
        "NanoCpus": config.nano_cpus,
        "CgroupParent": "",
        "BlkioWeight": config.blkio_weight,
        "BlkioWeightDevice": [],
        "BlkioDeviceReadBps": _device_limits(config.read_bytes_per_s),
        "BlkioDeviceWriteBps": _device_limits(config.write_bytes_per_s),
        "BlkioDeviceReadIOps": _device_limits(config.read_operations_per_s),
        "BlkioDeviceWriteIOps": _device_limits(config.write_operations_per_s),
        "CpuPeriod": config.cpu_period_us,
        "CpuQuota": config.cpu_quota_us,
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": config.cpuset_cpus,
        "CpusetMems": config.cpuset_mems,
        "Devices": [
            {"PathOnHost": item.source, "PathInContainer": item.path, "CgroupPermissions": item.permissions}
            for item in config.devices
        ],
        "DeviceCgroupRules": list(config.device_cgroup_rules),
        "DeviceRequests": [],
        "KernelMemoryTCP": 0,
        "MemoryReservation": config.memory_reservation_bytes,
        "MemorySwap": config.memory_swap_bytes,
        "MemorySwappiness": None,
        "OomKillDisable": config.oom_kill_disable,
        "Init": config.init or None,
        "PidsLimit": config.pids_limit or None,
        "Ulimits": [{"Name": item.name, "Soft": item.soft, "Hard": item.hard} for item in config.ulimits],
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
        "MaskedPaths": _paths(config.masked_paths, () if config.privileged else MASKED_PATHS),
        "ReadonlyPaths": _paths(config.readonly_paths, () if config.privileged else READONLY_PATHS),
    }


def _paths(given: Sequence[str] | None, default: Sequence[str]) -> list[str]:
    return list(default if given is None else given)


def _device_limits(limits: Sequence[DeviceLimit]) -> list[dict[str, Any]]:
    return [{"Path": limit.path, "Rate": limit.rate} for limit in limits]


def network_settings_json(container: Container) -> dict[str, Any]:
    """The members beside ``Networks`` repeat the default bridge's, for clients from before user-defined networks."""
    bridge = next((item for item in container.networks if item.network == "bridge"), NetworkAttachment(network=""))
    return {
        "Bridge": "",
        "SandboxID": container.sandbox_id,
        "SandboxKey": "",
        "Ports": ports.bound(container),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": bridge.endpoint_id,
        "Gateway": bridge.gateway,
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": bridge.address,
        "IPPrefixLen": bridge.prefix_length,
        "IPv6Gateway": "",
        "MacAddress": bridge.mac_address,
        "Networks": networks_json(container),
    }


def networks_json(container: Container) -> dict[str, Any]:
    return {item.network: endpoint_json(item) for item in container.networks}


def endpoint_json(attachment: NetworkAttachment) -> dict[str, Any]:
    return {
        "IPAMConfig": None,
        "Links": [],
        "Aliases": [],
        "MacAddress": attachment.mac_address,
        "DriverOpts": None,
        "GwPriority": 0,
        "NetworkID": attachment.network_id,
        "EndpointID": attachment.endpoint_id,
        "Gateway": attachment.gateway,
        "IPAddress": attachment.address,
        "IPPrefixLen": attachment.prefix_length,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": [],
    }
