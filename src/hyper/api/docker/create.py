"""A create body to the engine's :class:`ContainerConfig`: what can be checked without the engine is checked here, in
Docker's words."""

from __future__ import annotations

import re

from hyper.api.docker import create_body, create_isolation, create_refusals, create_words, limits, mounts, ports
from hyper.api.docker.create_body import CreateBody, HostConfig, Mount, Words
from hyper.api.docker.versions import Version
from hyper.engine.model import ContainerConfig, HealthCheck, RestartPolicy, Ulimit
from hyper.errors import InvalidArgument, Unsupported

DEFAULT_SHM_BYTES = 64 * 1024 * 1024

_HOST_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?")
_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")


def container_config(body: CreateBody, version: Version) -> ContainerConfig:
    """InvalidArgument for what contradicts itself, Unsupported for what we cannot honour."""
    if not body.image:
        raise InvalidArgument("no image specified: the member Image is missing or empty")
    create_refusals.check(body)
    create_isolation.check(body)
    host = body.host_config
    _check_config(body)
    limits.check(host)
    if host.memory == 0 and host.memory_swap > 0:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    _check_host(host)
    return ContainerConfig(
        image=body.image,
        command=_words(body.cmd),
        entrypoint=_words(body.entrypoint),
        env=tuple(body.env),
        working_dir=body.working_dir,
        user=body.user,
        hostname=body.hostname,
        domainname=create_words.domain_name(body.domainname),
        tty=body.tty,
        open_stdin=body.open_stdin,
        stdin_once=body.stdin_once,
        attach_stdin=body.attach_stdin,
        attach_stdout=body.attach_stdout,
        attach_stderr=body.attach_stderr,
        labels=body.labels,
        annotations=host.annotations,
        stop_signal=body.stop_signal,
        stop_timeout_s=body.stop_timeout,
        health_check=_health_check(body.healthcheck, version),
        exposed_ports=ports.exposed((*body.exposed_ports, *host.port_bindings)),
        network_mode="none" if body.network_disabled else host.network_mode or "default",
        ports=ports.requests(host.port_bindings),
        publish_all_ports=host.publish_all_ports,
        mac_address=_mac_address(body),
        extra_hosts=tuple(create_words.extra_host(item) for item in host.extra_hosts),
        dns=create_words.name_servers(host.dns),
        dns_search=create_words.search_domains(host.dns_search),
        dns_options=create_words.resolver_options(host.dns_options),
        memory_bytes=host.memory,
        memory_swap_bytes=host.memory_swap,
        memory_reservation_bytes=host.memory_reservation,
        nano_cpus=host.nano_cpus,
        cpu_shares=host.cpu_shares,
        cpu_period_us=host.cpu_period,
        cpu_quota_us=host.cpu_quota,
        cpuset_cpus=create_words.cpuset(host.cpuset_cpus),
        cpuset_mems=host.cpuset_mems,
        cpu_percent=host.cpu_percent,
        pids_limit=max(host.pids_limit, 0),
        kernel_memory_bytes=host.kernel_memory,
        memory_swappiness=None if host.memory_swappiness == -1 else host.memory_swappiness,
        blkio_weight=host.blkio_weight,
        blkio_device_weights=tuple(device.path for device in host.blkio_weight_device),
        read_bytes_per_s=limits.device_limits(host.blkio_device_read_bps),
        write_bytes_per_s=limits.device_limits(host.blkio_device_write_bps),
        read_operations_per_s=limits.device_limits(host.blkio_device_read_iops),
        write_operations_per_s=limits.device_limits(host.blkio_device_write_iops),
        storage_opt=host.storage_opt,
        shm_size_bytes=host.shm_size or DEFAULT_SHM_BYTES,
        oom_score_adj=host.oom_score_adj,
        oom_kill_disable=host.oom_kill_disable,
        readonly_rootfs=host.readonly_rootfs,
        tmpfs={**host.tmpfs, **_tmpfs_mounts(host.mounts)},
        mount_requests=mounts.requests(host),
        volumes=mounts.anonymous(body.volumes),
        volumes_from=mounts.volumes_from(host.volumes_from),
        volume_driver=host.volume_driver,
        privileged=host.privileged,
        cap_add=_words(host.cap_add) or (),
        cap_drop=_words(host.cap_drop) or (),
        security_opt=tuple(host.security_opt),
        group_add=create_words.groups(host.group_add),
        sysctls=create_words.sysctls(host.sysctls),
        ulimits=tuple(Ulimit(name=item.name, soft=item.soft, hard=item.hard) for item in host.ulimits),
        init=host.init,
        devices=create_isolation.devices(host.devices),
        device_cgroup_rules=tuple(host.device_cgroup_rules),
        masked_paths=create_isolation.paths("MaskedPaths", host.masked_paths),
        readonly_paths=create_isolation.paths("ReadonlyPaths", host.readonly_paths),
        pid_mode=host.pid_mode,
        ipc_mode=host.ipc_mode or "private",
        uts_mode=host.uts_mode,
        cgroupns_mode=host.cgroupns_mode or "private",
        userns_mode=host.userns_mode,
        shell=tuple(body.shell),
        on_build=tuple(body.on_build),
        auto_remove=host.auto_remove,
        restart_policy=_restart_policy(host),
        log_driver=host.log_config.type or "json-file",
        log_options=host.log_config.config,
        console_size=(int(host.console_size[0]), int(host.console_size[1])) if version >= (1, 42) else (0, 0),
        isolation=host.isolation,
    )


def _words(value: Words | None) -> tuple[str, ...] | None:
    """Docker takes one string for a list of one."""
    if value is None:
        return None
    return (value,) if isinstance(value, str) else tuple(value)


def _check_config(body: CreateBody) -> None:
    if body.working_dir and not body.working_dir.startswith("/"):
        raise InvalidArgument(f"the working directory '{body.working_dir}' is invalid, it needs to be an absolute path")
    for variable in body.env:
        if not variable or variable.startswith("="):
            raise InvalidArgument(f"invalid environment variable: {variable}")
        if "\0" in variable:
            raise InvalidArgument("an environment variable cannot contain a zero byte")
    if body.hostname and (len(body.hostname) > 63 or not _HOST_NAME.fullmatch(body.hostname)):
        raise InvalidArgument(f"invalid hostname format: {body.hostname[:128]}")
    for word in (*(_words(body.cmd) or ()), *(_words(body.entrypoint) or ()), body.user, body.working_dir):
        if "\0" in word:
            raise InvalidArgument("a command, user or directory cannot contain a zero byte")
    endpoints = body.networking_config.endpoints_config
    mode = body.host_config.network_mode or "default"
    others = [name for name in endpoints if name != mode and {name, mode} != {"default", "bridge"}]
    if others:
        raise Unsupported(
            f"NetworkingConfig.EndpointsConfig.{others[0]} cannot be honoured: "
            f'a container has one network, and its NetworkMode says "{mode}"'
        )


def _check_host(host: HostConfig) -> None:
    if host.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidArgument(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")


def _health_check(asked: create_body.HealthConfig | None, version: Version) -> HealthCheck | None:
    if asked is None or asked == create_body.HealthConfig():
        return None
    return HealthCheck(
        test=tuple(asked.test),
        interval_ns=asked.interval,
        timeout_ns=asked.timeout,
        start_period_ns=asked.start_period,
        start_interval_ns=asked.start_interval if version >= (1, 44) else 0,
        retries=asked.retries,
    )


def _restart_policy(host: HostConfig) -> RestartPolicy:
    policy = limits.restart_policy(host.restart_policy)
    if host.auto_remove and policy.name != "no":
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    return policy


def _mac_address(body: CreateBody) -> str:
    given = {item.mac_address for item in body.networking_config.endpoints_config.values()} | {body.mac_address}
    given.discard("")
    if len(given) > 1:
        raise InvalidArgument("conflicting MAC addresses: the container's and its network's differ")
    address = next(iter(given), "")
    if address and not _MAC.fullmatch(address):
        raise InvalidArgument(f"{address[:64]} is not a valid mac address")
    return address.lower().replace("-", ":")


def _tmpfs_mounts(given: list[Mount]) -> dict[str, str]:
    """``--mount type=tmpfs`` as what ``--tmpfs`` says."""
    result: dict[str, str] = {}
    for mount in given:
        if mount.type != "tmpfs":
            continue
        if not mount.target.startswith("/"):
            raise InvalidArgument(f"invalid mount config for type \"tmpfs\": invalid mount path: '{mount.target}'")
        if mount.source:
            raise InvalidArgument('invalid mount config for type "tmpfs": field Source must not be specified')
        options = ["ro"] if mount.read_only else []
        if mount.tmpfs_options is not None:
            if mount.tmpfs_options.size_bytes:
                options.append(f"size={mount.tmpfs_options.size_bytes}")
            if mount.tmpfs_options.mode:
                options.append(f"mode={mount.tmpfs_options.mode:o}")
            options.extend("=".join(option) for option in mount.tmpfs_options.options)
        result[mount.target] = ",".join(options)
    return result
