"""Links, addresses and routes of this network namespace, by raw rtnetlink; only what a bridge with taps needs.

Why not pyroute2: its import costs the daemon 150 ms of start-up (390 ms with the package's top level) and 2.9 ms a tap,
and its synchronous API cannot be called inside a running event loop. These calls take 20 to 100 µs, so they are made
directly from the loop. Sources: rtnetlink(7), linux/if_link.h, linux/rtnetlink.h.

Neighbours: ``netlink_wire.py`` (messages and errors), ``netlink_taps.py`` (opens taps), ``hyper.networks.bridge``.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from hyper.system.netlink_wire import NetlinkSocket, attribute, attributes

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_SETLINK = 16, 17, 18, 19
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_GETROUTE = 26
_F_EXCL, _F_CREATE = 0x200, 0x400

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER = 1, 3, 4, 10
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_INFO_KIND = 18, 20, 1
_IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA, _IFLA_BRPORT_MODE = 4, 5, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_DST, _RTA_OIF, _RTA_TABLE = 1, 4, 15
_IFF_UP = 1
_RTN_UNICAST = 1
_RT_TABLE_LOCAL = 255

_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst len, src len, tos, table, protocol, scope, type, flags

MAX_NAME_BYTES = 15
"""Longest name of a network interface (IFNAMSIZ less the final zero)."""


@dataclass(frozen=True)
class Link:
    """A network interface. ``kind`` is the driver's ("bridge", "tun", "veth"), empty for hardware."""

    index: int
    name: str
    up: bool
    mtu: int
    mac: str
    master_index: int
    kind: str
    alias: str


@dataclass(frozen=True)
class Route:
    """An IPv4 unicast route. The default route's destination is 0.0.0.0/0; ``link_index`` is 0 for multipath routes."""

    destination: IPv4Network
    link_index: int


class Netlink(NetlinkSocket):
    """One rtnetlink socket, bound to the network namespace it was opened in. Not for use from several threads."""

    def __init__(self) -> None:
        super().__init__(socket.NETLINK_ROUTE)

    def __enter__(self) -> Netlink:
        return self

    # -- links

    def links(self) -> list[Link]:
        return [_link(payload) for payload in self.dump(_RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0))]

    def link(self, name: str) -> Link | None:
        """The interface of that name, or None."""
        payload = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, _name(name))
        try:
            replies = self.request(_RTM_GETLINK, 0, payload)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return _link(replies[0]) if replies else None

    def add_bridge(self, name: str, *, mac: str, mtu: int) -> None:
        """A bridge without spanning tree. Its MAC is set, or it would change with every port that joins."""
        payload = (
            _IFINFO.pack(0, 0, 0, 0, 0)
            + attribute(_IFLA_IFNAME, _name(name))
            + attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
            + attribute(_IFLA_MTU, struct.pack("=I", mtu))
            + attribute(_IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, b"bridge\0"))
        )
        self.request(_RTM_NEWLINK, _F_CREATE | _F_EXCL, payload)

    def set_link(
        self,
        name: str,
        *,
        up: bool | None = None,
        mtu: int | None = None,
        master_index: int | None = None,
        alias: str | None = None,
    ) -> None:
        """Change what is named, in one message (the kernel applies the master before the state)."""
        payload = _IFINFO.pack(0, 0, 0, _IFF_UP if up else 0, 0 if up is None else _IFF_UP)
        payload += attribute(_IFLA_IFNAME, _name(name))
        if mtu is not None:
            payload += attribute(_IFLA_MTU, struct.pack("=I", mtu))
        if master_index is not None:
            payload += attribute(_IFLA_MASTER, struct.pack("=I", master_index))
        if alias is not None:
            payload += attribute(_IFLA_IFALIAS, alias.encode()[:255])
        self.request(_RTM_SETLINK, 0, payload)

    def rename_link(self, name: str, new_name: str) -> None:
        """The link must be down. FileExistsError when the new name is taken; OSError (ENODEV) when there is none of the
        old one."""
        payload = _IFINFO.pack(0, 0, socket.if_nametoindex(name), 0, 0) + attribute(_IFLA_IFNAME, _name(new_name))
        self.request(_RTM_SETLINK, 0, payload)

    def set_bridge_port_hairpin(self, name: str) -> None:
        """Let the bridge send a frame back out of the port that it came from."""
        data = attribute(_IFLA_INFO_SLAVE_KIND, b"bridge\0")
        data += attribute(_IFLA_INFO_SLAVE_DATA, attribute(_IFLA_BRPORT_MODE, b"\1"))
        payload = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, _name(name)) + attribute(_IFLA_LINKINFO, data)
        self.request(_RTM_NEWLINK, 0, payload)

    def delete_link(self, name: str) -> bool:
        """False when there was none of that name."""
        payload = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, _name(name))
        try:
            self.request(_RTM_DELLINK, 0, payload)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        return True

    # -- addresses and routes

    def addresses(self, link_index: int) -> list[IPv4Interface]:
        found = []
        for payload in self.dump(_RTM_GETADDR, _IFADDR.pack(socket.AF_INET, 0, 0, 0, 0)):
            _, prefix, _, _, index = _IFADDR.unpack_from(payload)
            present = attributes(payload[_IFADDR.size :])
            if index == link_index and _IFA_LOCAL in present:
                found.append(IPv4Interface((present[_IFA_LOCAL], prefix)))
        return found

    def add_address(self, link_index: int, address: IPv4Interface) -> None:
        broadcast = attribute(_IFA_BROADCAST, address.network.broadcast_address.packed)
        self.request(_RTM_NEWADDR, _F_CREATE | _F_EXCL, _address(link_index, address) + broadcast)

    def delete_address(self, link_index: int, address: IPv4Interface) -> None:
        self.request(_RTM_DELADDR, 0, _address(link_index, address))

    def routes(self) -> list[Route]:
        """IPv4 unicast routes of all tables but ``local`` (that one mirrors the addresses)."""
        found = []
        for payload in self.dump(_RTM_GETROUTE, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
            _, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(payload)
            present = attributes(payload[_ROUTE.size :])
            if _RTA_TABLE in present:
                (table,) = struct.unpack("=I", present[_RTA_TABLE])
            if kind != _RTN_UNICAST or table == _RT_TABLE_LOCAL:
                continue
            (index,) = struct.unpack("=I", present.get(_RTA_OIF, bytes(4)))
            destination = IPv4Network((present.get(_RTA_DST, IPv4Address(0).packed), length))
            found.append(Route(destination, index))
        return found


def _name(name: str) -> bytes:
    encoded = name.encode()
    if not 0 < len(encoded) <= MAX_NAME_BYTES:
        raise ValueError(f"network interface name {name!r} is not 1 to {MAX_NAME_BYTES} bytes long")
    return encoded + b"\0"


def _address(link_index: int, address: IPv4Interface) -> bytes:
    return (
        _IFADDR.pack(socket.AF_INET, address.network.prefixlen, 0, 0, link_index)
        + attribute(_IFA_LOCAL, address.ip.packed)
        + attribute(_IFA_ADDRESS, address.ip.packed)
    )


def _link(payload: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(payload)
    present = attributes(payload[_IFINFO.size :])
    info = attributes(present.get(_IFLA_LINKINFO, b""))

    def text(value: bytes) -> str:
        return value.rstrip(b"\0").decode(errors="replace")

    def number(kind: int) -> int:
        return int(struct.unpack("=I", present.get(kind, bytes(4)))[0])

    return Link(
        index=index,
        name=text(present.get(_IFLA_IFNAME, b"")),
        up=bool(flags & _IFF_UP),
        mtu=number(_IFLA_MTU),
        mac=present.get(_IFLA_ADDRESS, b"").hex(":"),
        master_index=number(_IFLA_MASTER),
        kind=text(info.get(_IFLA_INFO_KIND, b"")),
        alias=text(present.get(_IFLA_IFALIAS, b"")),
    )
