"""Docker's words for ports: "80/tcp", "8000-8010", host bindings; to and from the engine's."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from hyper.api.docker.create_body import PortBinding as WireBinding
from hyper.engine.model import Container, PortRequest
from hyper.errors import InvalidArgument

_PROTOCOLS = ("tcp", "udp", "sctp")


def parse_port(text: str) -> tuple[int, Literal["tcp", "udp", "sctp"]]:
    """ "80", "80/tcp". InvalidArgument, in Docker's words."""
    number, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in _PROTOCOLS:
        raise InvalidArgument(f"invalid port specification: invalid proto: {protocol[:32]}")
    return _number(number, text), cast(Literal["tcp", "udp", "sctp"], protocol)


def _number(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= 65535):
        raise InvalidArgument(f'invalid port specification: "{whole[:64]}"')
    return int(text)


def exposed(ports: Iterable[str]) -> tuple[str, ...]:
    """Normalised: always with the protocol, each once."""
    return tuple(dict.fromkeys("{}/{}".format(*parse_port(port)) for port in ports))


def requests(bindings: Mapping[str, Sequence[WireBinding]]) -> tuple[PortRequest, ...]:
    """``HostConfig.PortBindings``."""
    wanted: list[PortRequest] = []
    for port, targets in bindings.items():
        number, protocol = parse_port(port)
        for target in targets or [WireBinding()]:
            if target.host_ip:
                try:
                    ipaddress.ip_address(target.host_ip)
                except ValueError:
                    raise InvalidArgument(f"invalid IP address: {target.host_ip[:64]}") from None
            first, last = _host_range(target.host_port)
            wanted.append(
                PortRequest(
                    container_port=number,
                    protocol=protocol,
                    host_ip=target.host_ip,
                    host_port=first,
                    host_port_end=last,
                )
            )
    return tuple(wanted)


def _host_range(text: str) -> tuple[int | None, int | None]:
    if text in ("", "0"):
        return None, None
    first, dash, last = text.partition("-")
    low = _number(first, text)
    if not dash:
        return low, None
    high = _number(last, text)
    if high < low:
        raise InvalidArgument(f'invalid port specification: "{text[:64]}": invalid range specified for port')
    return low, high if high > low else None


def wire_requests(ports: Sequence[PortRequest]) -> dict[str, list[dict[str, str]]]:
    """Back to ``HostConfig.PortBindings``."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        host_port = "" if port.host_port is None else str(port.host_port)
        if port.host_port_end is not None:
            host_port += f"-{port.host_port_end}"
        bindings.setdefault(f"{port.container_port}/{port.protocol}", []).append(
            {"HostIp": port.host_ip, "HostPort": host_port}
        )
    return bindings


def bound(container: Container) -> dict[str, list[dict[str, str]] | None]:
    """``NetworkSettings.Ports``: what is published, and None for what is only exposed; nothing while it does not
    run."""
    if not container.state.live:
        return {}
    ports: dict[str, list[dict[str, str]] | None] = {}
    for binding in container.bindings:
        entry = ports.setdefault(f"{binding.container_port}/{binding.protocol}", [])
        assert entry is not None
        entry.append({"HostIp": binding.host_ip or "0.0.0.0", "HostPort": str(binding.host_port)})
    for port in container.config.exposed_ports:
        ports.setdefault(port, None)
    return ports


def summary(container: Container) -> list[dict[str, Any]]:
    """``Ports`` of a list's entry."""
    entries: list[dict[str, Any]] = []
    for port, bindings in bound(container).items():
        number, protocol = parse_port(port)
        if bindings is None:
            entries.append({"PrivatePort": number, "Type": protocol})
        else:
            entries.extend(
                {
                    "IP": item["HostIp"],
                    "PrivatePort": number,
                    "PublicPort": int(item["HostPort"]),
                    "Type": protocol,
                }
                for item in bindings
            )
    return entries
