"""Published ports: what is asked for, and the bound sockets that hold them against other programs on the host.

A held socket listens, so that binding the port fails for everybody else with "address already in use"; connections
never reach it, because the rules rewrite their destination before they are delivered.

Neighbours: ``rules.py`` (the rewriting), ``bridge.py`` (both together).
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from hyper.errors import Conflict, InvalidArgument, PermissionDenied, ResourceExhausted, Unsupported

ANY = "0.0.0.0"
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@dataclass(frozen=True)
class PortRequest:
    """``-p host_ip:host_port:container_port/protocol``. No ``host_ip``: every IPv4 address of the host. No
    ``host_port``: one that is free. ``host_port_end``: the first free one from ``host_port`` to it."""

    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""
    host_port: int | None = None
    host_port_end: int | None = None


@dataclass(frozen=True)
class PortBinding:
    """A published port. ``host_ip`` is 0.0.0.0 for every IPv4 address of the host."""

    container_port: int
    protocol: str
    host_ip: str
    host_port: int


@dataclass(frozen=True)
class HeldPort:
    """A binding and the socket that holds it; without one, another program took the port while the daemon was away."""

    binding: PortBinding
    socket: socket.socket | None


class HeldPorts:
    """Every port that this daemon holds."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str, int], HeldPort] = {}

    def hold(self, request: PortRequest) -> HeldPort:
        """Conflict in Docker's wording when ours or another program has it; the other errors say what is wrong with the
        request."""
        check(request)
        host_ip = request.host_ip or ANY
        first = request.host_port or 0
        last = request.host_port_end or first
        for host_port in range(first, last + 1):
            try:
                return self._hold_one(PortBinding(request.container_port, request.protocol, host_ip, host_port))
            except Conflict:
                if host_port == last:
                    raise
        raise AssertionError("check() refuses empty ranges")

    def release(self, held: HeldPort) -> None:
        """Idempotent."""
        if held.socket is None:
            return
        held.socket.close()
        binding = held.binding
        self._held.pop((binding.protocol, binding.host_ip, binding.host_port), None)

    def close(self) -> None:
        for held in list(self._held.values()):
            self.release(held)

    def _hold_one(self, wanted: PortBinding) -> HeldPort:
        where = f"{wanted.host_ip}:{wanted.host_port}"
        if self._is_ours(wanted):
            raise Conflict(f"Bind for {where} failed: port is already allocated")
        held_socket = socket.socket(socket.AF_INET, _KINDS[wanted.protocol])
        try:
            if wanted.protocol == "tcp":
                # Connections of a former user in TIME_WAIT are no obstacle. Two UDP sockets with this option could
                # share a port.
                held_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held_socket.bind((wanted.host_ip, wanted.host_port))
            if wanted.protocol == "tcp":
                held_socket.listen(1)
            host_port = int(held_socket.getsockname()[1])
        except OSError as error:
            held_socket.close()
            raise _bind_error(
                error, f"listen {wanted.protocol}4 {where}: bind: {os.strerror(error.errno or 0).lower()}"
            ) from error
        binding = PortBinding(wanted.container_port, wanted.protocol, wanted.host_ip, host_port)
        held = HeldPort(binding, held_socket)
        self._held[(binding.protocol, binding.host_ip, binding.host_port)] = held
        return held

    def _is_ours(self, wanted: PortBinding) -> bool:
        return any(
            protocol == wanted.protocol
            and host_port == wanted.host_port
            and (ANY in (host_ip, wanted.host_ip) or host_ip == wanted.host_ip)
            for protocol, host_ip, host_port in self._held
        )


def drop_early_connections(held: HeldPort) -> None:
    """Reset what connected between the bind and the rule: it would wait for ever for an answer."""
    if held.socket is None or held.binding.protocol != "tcp":
        return
    held.socket.setblocking(False)
    while True:
        try:
            held.socket.accept()[0].close()
        except OSError:
            return


def check(request: PortRequest) -> None:
    """InvalidArgument or Unsupported when this can never be published."""
    ports = [request.container_port, request.host_port, request.host_port_end]
    if any(port is not None and not 0 < port < 65536 for port in ports):
        raise InvalidArgument(f"invalid port in {request}: ports go from 1 to 65535")
    if request.host_port_end is not None and (request.host_port is None or request.host_port_end < request.host_port):
        raise InvalidArgument(f"invalid range of host ports: {request.host_port}-{request.host_port_end}")
    if request.protocol not in _KINDS:
        raise Unsupported(f"publishing {request.protocol} ports is not there; tcp and udp are")
    if request.host_ip:
        try:
            address: IPv4Address | IPv6Address = ip_address(request.host_ip.strip("[]"))
        except ValueError as error:
            raise InvalidArgument(
                f"invalid host address {request.host_ip!r}: give an IPv4 address, or none for all"
            ) from error
        if address.version == 6:
            raise Unsupported(
                f"publishing on the IPv6 address {request.host_ip} is not there yet: containers have IPv4 only. "
                "Publish on an IPv4 address, or on 0.0.0.0 for all of them"
            )


def _bind_error(error: OSError, message: str) -> Conflict | InvalidArgument | PermissionDenied | ResourceExhausted:
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(message)
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidArgument(
            message.replace(os.strerror(errno.EADDRNOTAVAIL).lower(), "cannot assign requested address")
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return ResourceExhausted(f"{message}: raise the limit of open files (LimitNOFILE) of hyperd")
    return Conflict(message)
