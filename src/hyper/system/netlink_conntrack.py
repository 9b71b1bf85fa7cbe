"""Forgetting connections that the kernel still translates for an address that has changed hands.

Address translation is decided once a connection. A UDP "connection" lives as long as its client keeps sending, so
without this a client goes on talking to a container that is gone, or to the next one with its address. Sources:
linux/netfilter/nfnetlink_conntrack.h, linux/netfilter/nfnetlink.h.

Neighbours: ``netlink_wire.py``, ``hyper.networks.bridge``.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

from hyper.system.netlink_wire import NetlinkSocket, attribute, attributes

_NETLINK_NETFILTER = 12
_GET, _DELETE = 0x0101, 0x0102  # subsystem 1 (conntrack), messages 1 and 2
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_SRC, _IP_DST = 1, 2
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS = 1, 2
_BY_SOURCE, _BY_PROTOCOL, _BY_DESTINATION_PORT = 1 << 0, 1 << 3, 1 << 5
_NESTED = 0x8000

_GENERIC = struct.Struct("=BBH")  # nfgenmsg: family, version, resource
_IPV4 = _GENERIC.pack(socket.AF_INET, 0, 0)


@dataclass(frozen=True)
class _Flow:
    """``server`` is who answers: where the connection really goes, after translation."""

    server: IPv4Address
    protocol: int
    wanted_port: int
    identity: bytes


class Conntrack:
    """One connection-tracking socket, bound to the network namespace it was opened in."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(_NETLINK_NETFILTER)

    def close(self) -> None:
        self._socket.close()

    def forget_server(self, address: IPv4Address) -> int:
        """Forget every connection that ``address`` answers; how many."""
        only = attribute(_TUPLE_REPLY | _NESTED, attribute(_TUPLE_IP | _NESTED, attribute(_IP_SRC, address.packed)))
        only += attribute(_FILTER | _NESTED, attribute(_FILTER_REPLY_FLAGS, struct.pack("=I", _BY_SOURCE)))
        return self._forget(only, lambda flow: flow.server == address)

    def forget_udp_port(self, host_port: int, *, server: IPv4Address) -> int:
        """Forget UDP connections to ``host_port`` that anybody but ``server`` answers; how many."""
        transport = attribute(_PROTO_NUM, bytes([socket.IPPROTO_UDP]))
        transport += attribute(_PROTO_DST_PORT, host_port.to_bytes(2, "big"))
        flags = struct.pack("=I", _BY_PROTOCOL | _BY_DESTINATION_PORT)
        only = attribute(_TUPLE_ORIG | _NESTED, attribute(_TUPLE_PROTO | _NESTED, transport))
        only += attribute(_FILTER | _NESTED, attribute(_FILTER_ORIG_FLAGS, flags))
        return self._forget(
            only,
            lambda flow: (
                flow.protocol == socket.IPPROTO_UDP and flow.wanted_port == host_port and flow.server != server
            ),
        )

    def _forget(self, only: bytes, matches: Callable[[_Flow], bool]) -> int:
        # The kernel filters where it can (5.8 and later), because a busy host has a hundred thousand connections
        # (60,000 take 500 ms to read, 25 to filter); an older one ignores the filter, hence ``matches``.
        try:
            payloads = self._socket.dump(_GET, _IPV4 + only)
        except OSError as error:
            # No connection tracking in this kernel (yet): nothing to forget.
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT, errno.EPROTONOSUPPORT):
                return 0
            raise
        count = 0
        for payload in payloads:
            flow = _flow(payload)
            if flow is not None and matches(flow):
                try:
                    self._socket.request(_DELETE, 0, _IPV4 + flow.identity)
                    count += 1
                except FileNotFoundError:
                    continue  # it ended by itself
        return count


def _flow(payload: bytes) -> _Flow | None:
    present = attributes(payload[_GENERIC.size :])
    if _TUPLE_ORIG not in present or _TUPLE_REPLY not in present:
        return None
    wanted, answering = attributes(present[_TUPLE_ORIG]), attributes(present[_TUPLE_REPLY])
    transport = attributes(wanted.get(_TUPLE_PROTO, b""))
    source = attributes(answering.get(_TUPLE_IP, b"")).get(_IP_SRC)
    if source is None or len(source) != 4:
        return None
    identity = attribute(_TUPLE_ORIG | _NESTED, present[_TUPLE_ORIG])
    identity += b"".join(attribute(kind, present[kind]) for kind in (_ID, _ZONE) if kind in present)
    return _Flow(
        server=IPv4Address(source),
        protocol=transport.get(_PROTO_NUM, b"\0")[0],
        wanted_port=int.from_bytes(transport.get(_PROTO_DST_PORT, b"\0\0"), "big"),
        identity=identity,
    )
