"""What the agent is told to run: a container's record as an OCI runtime spec, an exec as its ``process`` object. Pure.

As Docker does, HOSTNAME, a default PATH and (on a terminal) TERM are added here and not shown by ``inspect``.
Neighbour: ``hyper.oci.runtime_spec`` (the defaults and the format).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyper.engine.guest_mounts import guest_mounts
from hyper.engine.model import Container, ContainerConfig, DeviceLimit, ExecConfig
from hyper.engine.pods import joined_container, joins
from hyper.errors import InvalidArgument, Unsupported
from hyper.guest.agent import SHARE_FOLDER
from hyper.oci import seccomp_profile
from hyper.oci.runtime_spec import (
    ContainerRequest,
    Device,
    DiskLimits,
    ProcessRequest,
    Resources,
    Ulimit,
    container_spec,
    process_spec,
)

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DEFAULT_OPEN_FILES = Ulimit("nofile", 1024, 524_288)
_TRUE, _FALSE = frozenset({"1", "t", "true"}), frozenset({"0", "f", "false"})
_NO_APPARMOR = ("apparmor", "unconfined")
ROOT = "0"
"""Named, so that the agent looks up its further groups in the image, as Docker does."""


def runtime_spec(
    container: Container, *, default_memory_bytes: int, joined: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """The OCI runtime spec of a container. ``joined``: by kind of namespace, the process whose it joins.
    InvalidArgument or Unsupported for what cannot be run; ``create`` calls it too, so that its user hears at once."""
    config = container.config
    options = security_options(config.security_opt)
    namespaces = _namespaces(config, joined or {})
    return container_spec(
        ContainerRequest(
            process=ProcessRequest(
                args=(container.path, *container.args),
                env=_env(config, config.tty, ()),
                cwd=config.working_dir or "/",
                user=config.user or ROOT,
                terminal=config.tty,
                console_size=config.console_size if any(config.console_size) else None,
                privileged=config.privileged,
                capabilities_add=config.cap_add,
                capabilities_drop=config.cap_drop,
                no_new_privileges=options.no_new_privileges,
                ulimits=_ulimits(config),
                groups=config.group_add,
                oom_score_adj=config.oom_score_adj,
            ),
            hostname=config.hostname if "uts" in namespaces and not namespaces["uts"] else "",
            domainname=config.domainname,
            readonly_rootfs=config.readonly_rootfs,
            tmpfs=config.tmpfs,
            binds=guest_mounts(container, SHARE_FOLDER),
            shm_size_bytes=_shm_size_bytes(config),
            shm_of_sandbox=config.ipc_mode in ("shareable", "host") or joined_container(config.ipc_mode) is not None,
            namespaces=namespaces,
            devices=[Device(one.source, one.path, one.permissions) for one in config.devices],
            device_rules=config.device_cgroup_rules,
            annotations=config.annotations,
            sysctls=config.sysctls,
            resources=_resources(config, default_memory_bytes),
            masked_paths=() if options.unmasked else config.masked_paths,
            readonly_paths=() if options.unmasked else config.readonly_paths,
            seccomp=options.seccomp,
            init=config.init,
        )
    )


def _namespaces(config: ContainerConfig, processes: Mapping[str, int]) -> dict[str, str]:
    """By kind: "" for one of its own, or the path of another's; what is not in it is the sandbox's. Network, IPC and
    UTS are the sandbox's for the container that it was made for; who joins it later has them apart, as with Docker,
    but for the network: there is one card."""
    joined = joins(config)

    def path(kind: str) -> str:
        return f"/proc/{processes.get(kind, 0)}/ns/{'net' if kind == 'network' else kind}"

    found = {"pid": path("pid") if "pid" in joined else ""} if config.pid_mode != "host" else {}
    found["mount"] = ""
    if config.cgroupns_mode != "host":
        found["cgroup"] = ""
    if not joined:
        return found
    for kind, mode in (("ipc", config.ipc_mode), ("uts", config.uts_mode)):
        if mode != "host":
            found[kind] = path(kind) if kind in joined else ""
    if "network" in joined:
        found["network"] = path("network")
    elif config.network_mode == "none":
        found["network"] = ""
    return found


def _shm_size_bytes(config: ContainerConfig) -> int | None:
    """Who joins a sandbox leaves its shared memory as big as it is."""
    shares = config.ipc_mode == "host" or joined_container(config.ipc_mode) is not None
    return None if config.ipc_mode == "none" or (joins(config) and shares) else config.shm_size_bytes


def exec_process(container: Container, exec_config: ExecConfig, console_size: tuple[int, int]) -> dict[str, Any]:
    """The OCI ``process`` object of an exec: the container's settings, with the exec's own over them."""
    config = container.config
    options = security_options(config.security_opt)
    return process_spec(
        ProcessRequest(
            args=exec_config.command,
            env=_env(config, exec_config.tty, exec_config.env),
            cwd=exec_config.working_dir or config.working_dir or "/",
            user=exec_config.user or config.user or ROOT,
            terminal=exec_config.tty,
            console_size=console_size if any(console_size) else None,
            privileged=exec_config.privileged or config.privileged,
            capabilities_add=config.cap_add,
            capabilities_drop=config.cap_drop,
            no_new_privileges=options.no_new_privileges,
            ulimits=_ulimits(config),
            groups=config.group_add,
            oom_score_adj=config.oom_score_adj,
        )
    )


class SecurityOptions:
    """``--security-opt``, read."""

    def __init__(self) -> None:
        self.no_new_privileges = False
        self.unmasked = False
        self.seccomp: Mapping[str, Any] | None = None
        """None: the default profile; empty: none at all; else Docker's form of one."""


def security_options(values: Sequence[str]) -> SecurityOptions:
    """InvalidArgument for unknown ones, Unsupported for those of security modules that the guest's kernel has not."""
    options = SecurityOptions()
    for text in values:
        name, separator, value = text.partition("=" if "=" in text else ":")
        if name == "no-new-privileges" and (not separator or value.lower() in _TRUE | _FALSE):
            options.no_new_privileges = not separator or value.lower() in _TRUE
        elif name == "systempaths" and value == "unconfined":
            options.unmasked = True
        elif name == "seccomp" and value in ("unconfined", "builtin"):
            options.seccomp = {} if value == "unconfined" else None
        elif name == "seccomp" and separator:
            options.seccomp = seccomp_profile.decode(value)
        elif text == "disable" or (name == "label" and value == "disable") or (name, value) == _NO_APPARMOR:
            continue  # nothing of it is on in the guest
        elif name in ("apparmor", "label") and separator:
            raise Unsupported(f'security option "{text}" cannot work: the guest\'s kernel has no such security module')
        else:
            raise InvalidArgument(f'invalid --security-opt {2 if separator else 1}: "{text}"')
    return options


def _env(config: ContainerConfig, tty: bool, more: Sequence[str]) -> list[str]:
    added = [DEFAULT_PATH, f"HOSTNAME={config.hostname}", *(["TERM=xterm"] if tty else [])]
    return list(merge_env(added, config.env, more))


def merge_env(*sets: Sequence[str]) -> tuple[str, ...]:
    """Later sets win, each variable stays where it was first mentioned; "NAME" without a value removes it."""
    merged: dict[str, str | None] = {}
    for variables in sets:
        for variable in variables:
            name, equals, _ = variable.partition("=")
            merged[name] = variable if equals else None
    return tuple(value for value in merged.values() if value is not None)


def _ulimits(config: ContainerConfig) -> list[Ulimit]:
    """Without a word about open files: what systemd and with it today's engines give. The kernel's own hard limit of
    4,096 is too low for servers, and a container may not raise it."""
    given = [Ulimit(limit.name, limit.soft, limit.hard) for limit in config.ulimits]
    return given if any(limit.name == "nofile" for limit in given) else [*given, DEFAULT_OPEN_FILES]


def _resources(config: ContainerConfig, default_memory_bytes: int) -> Resources:
    return Resources(
        memory_bytes=config.memory_bytes or default_memory_bytes,
        memory_reservation_bytes=config.memory_reservation_bytes or None,
        memory_swap_bytes=config.memory_swap_bytes or None,
        cpus=config.nano_cpus / 1e9 if config.nano_cpus else None,
        cpu_period_us=config.cpu_period_us or None,
        cpu_quota_us=config.cpu_quota_us or None,
        cpu_shares=config.cpu_shares or None,
        cpuset_cpus=config.cpuset_cpus,
        cpuset_mems=config.cpuset_mems,
        disks=DiskLimits(
            read_bytes=_lowest(config.read_bytes_per_s),
            write_bytes=_lowest(config.write_bytes_per_s),
            read_operations=_lowest(config.read_operations_per_s),
            write_operations=_lowest(config.write_operations_per_s),
        ),
        pids=config.pids_limit or None,
    )


def _lowest(limits: Sequence[DeviceLimit]) -> int | None:
    """0 is no limit, as for Docker."""
    return min((limit.rate for limit in limits if limit.rate), default=None)
