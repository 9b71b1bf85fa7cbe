"""What of a create body says how far a container is set apart: its namespaces, its devices, what of /proc it sees.
Checked in dockerd's words. "host" is the sandbox's: the host itself is behind the VM's wall.

Neighbour: ``create`` (who calls); the engine knows which container a ``container:`` is (``hyper.engine.pods``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hyper.api.docker.create_body import CreateBody, DeviceRequest, HostConfig
from hyper.api.docker.create_body import DeviceMapping as WireDevice
from hyper.engine.model import DeviceMapping
from hyper.errors import InvalidArgument
from hyper.oci.capabilities import normalised

_RUNTIMES = ("", "hyper")
_PID_MODES = ("", "host")
_IPC_MODES = ("", "none", "private", "shareable", "host")
_UTS_MODES = ("", "host")
_CGROUPNS_MODES = ("", "private", "host")
_USERNS_MODES = ("", "host")
_DEVICE_RULE = re.compile(r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}")
_PERMISSIONS = frozenset("rwm")
DEFAULT_PERMISSIONS = "rwm"


def check(body: CreateBody) -> None:
    """InvalidArgument for modes that do not exist, capabilities, devices and runtimes that nobody has."""
    host = body.host_config
    _check_capabilities(host)
    if host.isolation not in ("", "default"):
        raise InvalidArgument(f"Invalid isolation: \"{host.isolation}\" - linux only supports 'default'")
    _mode("IPC", host.ipc_mode, _IPC_MODES, joins=True)
    _mode("PID", host.pid_mode, _PID_MODES, joins=True)
    _mode("UTS", host.uts_mode, _UTS_MODES, joins=True)
    _mode("cgroup namespace", host.cgroupns_mode, _CGROUPNS_MODES, joins=False)
    _mode("user namespace", host.userns_mode, _USERNS_MODES, joins=False)
    if host.network_mode.partition(":")[0] == "container":
        _check_network_of_another(body, host)
    if host.uts_mode and body.hostname:
        raise InvalidArgument("conflicting options: hostname and the UTS mode")
    if host.runtime not in _RUNTIMES:
        raise InvalidArgument(f"unknown or invalid runtime name: {host.runtime[:128]}")
    for rule in host.device_cgroup_rules:
        if not _DEVICE_RULE.fullmatch(rule):
            raise InvalidArgument(f"invalid device cgroup rule format: '{rule[:128]}'")
    if host.device_requests:
        raise InvalidArgument(_no_driver(host.device_requests[0]))
    for name in host.annotations:
        if not name:
            raise InvalidArgument("invalid Annotations: the empty string is not permitted as an annotation key")


def devices(wanted: Iterable[WireDevice]) -> tuple[DeviceMapping, ...]:
    """``--device``; whether the sandbox has it shows at the start, as with Docker's host."""
    found = []
    for device in wanted:
        source, path = device.path_on_host, device.path_in_container or device.path_on_host
        if not (source.startswith("/") and path.startswith("/")) or "\0" in source + path:
            raise InvalidArgument(f"invalid device: {source[:128]!a} must be an absolute path")
        permissions = device.cgroup_permissions or DEFAULT_PERMISSIONS
        if not set(permissions) <= _PERMISSIONS:
            raise InvalidArgument(f"invalid mode for device {source[:128]}: {permissions[:16]!a}")
        found.append(DeviceMapping(source=source, path=path, permissions=permissions))
    return tuple(found)


def paths(member: str, given: Sequence[str] | None) -> tuple[str, ...] | None:
    """``MaskedPaths`` and ``ReadonlyPaths``; None: the default ones."""
    if given is None:
        return None
    for path in given:
        if not path.startswith("/") or "\0" in path:
            raise InvalidArgument(f"invalid {member}: {path[:128]!a} must be an absolute path")
    return tuple(given)


def _check_capabilities(host: HostConfig) -> None:
    for member, given in (("CapAdd", host.cap_add), ("CapDrop", host.cap_drop)):
        try:
            normalised([given] if isinstance(given, str) else given)
        except InvalidArgument as error:
            raise InvalidArgument(f"invalid {member}: {error.message}") from error


def _mode(kind: str, given: str, known: Sequence[str], *, joins: bool) -> None:
    if given in known or (joins and given.startswith("container:") and len(given) > len("container:")):
        return
    raise InvalidArgument(f"invalid {kind} mode: {given[:128]}")


def _check_network_of_another(body: CreateBody, host: HostConfig) -> None:
    if not host.network_mode.partition(":")[2]:
        raise InvalidArgument("Invalid network mode: invalid container format container:<name|id>")
    network = "conflicting options:"
    for wrong, words in (
        (body.hostname, f"{network} hostname and the network mode"),
        (
            host.links,
            f"{network} container type network can't be used with links. This would result in undefined behavior",
        ),
        (host.dns, f"{network} dns and the network mode"),
        (host.extra_hosts, f"{network} custom host-to-IP mapping and the network mode"),
        (body.mac_address, f"{network} mac-address and the network mode"),
        (
            host.port_bindings or host.publish_all_ports,
            f"{network} port publishing and the container type network mode",
        ),
        (body.exposed_ports, f"{network} port exposing and the container type network mode"),
    ):
        if wrong:
            raise InvalidArgument(words)


def _no_driver(request: DeviceRequest) -> str:
    wanted = " ".join(f"[{' '.join(all_of)}]" for all_of in request.capabilities)
    return f'could not select device driver "{request.driver[:128]}" with capabilities: [{wanted[:256]}]'
