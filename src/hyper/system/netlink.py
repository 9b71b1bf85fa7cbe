"""Links, addresses and routes of this network namespace, by raw rtnetlink; only what a bridge with taps needs.

Why not pyroute2: its import costs the daemon 150 ms of start-up (390 ms with the package's top level) and 2.9 ms a tap,
and its synchronous API cannot be called inside a running event loop. These calls take 20 to 100 µs, so they are made
directly from the loop. Sources: rtnetlink(7), linux/if_link.h, linux/rtnetlink.h. Only the kernel is listened to; its
errors become :class:`OSError` with the kernel's own explanation (extended acknowledgement) where it gives one.

Neighbours: ``netlink_taps.py`` (opens taps), ``hyper.networks.bridge``.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from types import TracebackType

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_SETLINK = 16, 17, 18, 19
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_GETROUTE = 26
_F_REQUEST, _F_ACK, _F_EXCL, _F_CREATE, _F_DUMP = 0x1, 0x4, 0x200, 0x400, 0x300
_F_CAPPED, _F_ACK_TLVS = 0x100, 0x200
_SOL_NETLINK, _NETLINK_EXT_ACK = 270, 11

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER = 1, 3, 4, 10
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_INFO_KIND = 18, 20, 1
_IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA, _IFLA_BRPORT_MODE = 4, 5, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_DST, _RTA_OIF, _RTA_TABLE = 1, 4, 15
_NLMSGERR_ATTR_MSG = 1
_IFF_UP = 1
_NLA_TYPE_MASK = 0x3FFF
_RTN_UNICAST = 1
_RT_TABLE_LOCAL = 255

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst len, src len, tos, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")

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


class Netlink:
    """One rtnetlink socket, bound to the network namespace it was opened in. Not for use from several threads."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.settimeout(10)  # the kernel answers at once; a bound all the same, for the event loop's sake
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    # -- links

    def links(self) -> list[Link]:
        return [_link(payload) for payload in self._dump(_RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0))]

    def link(self, name: str) -> Link | None:
        """The interface of that name, or None."""
        payload = _IFINFO.pack(0, 0, 0, 0, 0) + _attribute(_IFLA_IFNAME, _name(name))
        try:
            replies = self._request(_RTM_GETLINK, 0, payload)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return _link(replies[0]) if replies else None

    def add_bridge(self, name: str, *, mac: str, mtu: int) -> None:
        """A bridge without spanning tree. Its MAC is set, or it would change with every port that joins."""
        payload = (
            _IFINFO.pack(0, 0, 0, 0, 0)
            + _attribute(_IFLA_IFNAME, _name(name))
            + _attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
            + _attribute(_IFLA_MTU, struct.pack("=I", mtu))
            + _attribute(_IFLA_LINKINFO, _attribute(_IFLA_INFO_KIND, b"bridge\0"))
        )
        self._request(_RTM_NEWLINK, _F_CREATE | _F_EXCL, payload)

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
        payload += _attribute(_IFLA_IFNAME, _name(name))
        if mtu is not None:
            payload += _attribute(_IFLA_MTU, struct.pack("=I", mtu))
        if master_index is not None:
            payload += _attribute(_IFLA_MASTER, struct.pack("=I", master_index))
        if alias is not None:
            payload += _attribute(_IFLA_IFALIAS, alias.encode()[:255])
        self._request(_RTM_SETLINK, 0, payload)

    def set_bridge_port_hairpin(self, name: str) -> None:
        """Let the bridge send a frame back out of the port that it came from."""
        data = _attribute(_IFLA_INFO_SLAVE_KIND, b"bridge\0")
        data += _attribute(_IFLA_INFO_SLAVE_DATA, _attribute(_IFLA_BRPORT_MODE, b"\1"))
        payload = _IFINFO.pack(0, 0, 0, 0, 0) + _attribute(_IFLA_IFNAME, _name(name)) + _attribute(_IFLA_LINKINFO, data)
        self._request(_RTM_NEWLINK, 0, payload)

    def delete_link(self, name: str) -> bool:
        """False when there was none of that name."""
        payload = _IFINFO.pack(0, 0, 0, 0, 0) + _attribute(_IFLA_IFNAME, _name(name))
        try:
            self._request(_RTM_DELLINK, 0, payload)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        return True

    # -- addresses and routes

    def addresses(self, link_index: int) -> list[IPv4Interface]:
        found = []
        for payload in self._dump(_RTM_GETADDR, _IFADDR.pack(socket.AF_INET, 0, 0, 0, 0)):
            _, prefix, _, _, index = _IFADDR.unpack_from(payload)
            attributes = _attributes(payload[_IFADDR.size :])
            if index == link_index and _IFA_LOCAL in attributes:
                found.append(IPv4Interface((attributes[_IFA_LOCAL], prefix)))
        return found

    def add_address(self, link_index: int, address: IPv4Interface) -> None:
        broadcast = _attribute(_IFA_BROADCAST, address.network.broadcast_address.packed)
        self._request(_RTM_NEWADDR, _F_CREATE | _F_EXCL, _address(link_index, address) + broadcast)

    def delete_address(self, link_index: int, address: IPv4Interface) -> None:
        self._request(_RTM_DELADDR, 0, _address(link_index, address))

    def routes(self) -> list[Route]:
        """IPv4 unicast routes of all tables but ``local`` (that one mirrors the addresses)."""
        found = []
        for payload in self._dump(_RTM_GETROUTE, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
            _, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(payload)
            attributes = _attributes(payload[_ROUTE.size :])
            if _RTA_TABLE in attributes:
                (table,) = struct.unpack("=I", attributes[_RTA_TABLE])
            if kind != _RTN_UNICAST or table == _RT_TABLE_LOCAL:
                continue
            (index,) = struct.unpack("=I", attributes.get(_RTA_OIF, bytes(4)))
            destination = IPv4Network((attributes.get(_RTA_DST, IPv4Address(0).packed), length))
            found.append(Route(destination, index))
        return found

    # -- the wire

    def _dump(self, kind: int, payload: bytes) -> list[bytes]:
        return self._exchange(kind, _F_REQUEST | _F_DUMP, payload)

    def _request(self, kind: int, flags: int, payload: bytes) -> list[bytes]:
        return self._exchange(kind, _F_REQUEST | _F_ACK | flags, payload)

    def _exchange(self, kind: int, flags: int, payload: bytes) -> list[bytes]:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._socket.send(_HEADER.pack(_HEADER.size + len(payload), kind, flags, self._sequence, 0) + payload)
        replies: list[bytes] = []
        while True:
            data = self._socket.recv(1 << 17)
            offset = 0
            while offset < len(data):
                length, reply_kind, reply_flags, sequence, _ = _HEADER.unpack_from(data, offset)
                body = data[offset + _HEADER.size : offset + length]
                offset += (length + 3) & ~3
                if sequence != self._sequence:
                    continue  # the rest of an answer that an earlier, interrupted call did not read
                if reply_kind == _NLMSG_DONE:
                    return replies
                if reply_kind == _NLMSG_ERROR:
                    _raise_error(body, reply_flags)
                    return replies
                replies.append(body)


def _raise_error(body: bytes, flags: int) -> None:
    (code,) = struct.unpack_from("=i", body)
    if code == 0:
        return
    message = os.strerror(-code)
    if flags & _F_ACK_TLVS:
        (echoed,) = struct.unpack_from("=I", body, 4)
        skip = 4 + (_HEADER.size if flags & _F_CAPPED else (echoed + 3) & ~3)
        text = _attributes(body[skip:]).get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
        message = f"{message}: {text}" if text else message
    raise OSError(-code, message)


def _name(name: str) -> bytes:
    encoded = name.encode()
    if not 0 < len(encoded) <= MAX_NAME_BYTES:
        raise ValueError(f"network interface name {name!r} is not 1 to {MAX_NAME_BYTES} bytes long")
    return encoded + b"\0"


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    return dict(_iterate(data))


def _iterate(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _NLA_TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def _address(link_index: int, address: IPv4Interface) -> bytes:
    return (
        _IFADDR.pack(socket.AF_INET, address.network.prefixlen, 0, 0, link_index)
        + _attribute(_IFA_LOCAL, address.ip.packed)
        + _attribute(_IFA_ADDRESS, address.ip.packed)
    )


def _link(payload: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(payload)
    attributes = _attributes(payload[_IFINFO.size :])
    info = _attributes(attributes.get(_IFLA_LINKINFO, b""))

    def text(value: bytes) -> str:
        return value.rstrip(b"\0").decode(errors="replace")

    def number(kind: int) -> int:
        return int(struct.unpack("=I", attributes.get(kind, bytes(4)))[0])

    return Link(
        index=index,
        name=text(attributes.get(_IFLA_IFNAME, b"")),
        up=bool(flags & _IFF_UP),
        mtu=number(_IFLA_MTU),
        mac=attributes.get(_IFLA_ADDRESS, b"").hex(":"),
        master_index=number(_IFLA_MASTER),
        kind=text(info.get(_IFLA_INFO_KIND, b"")),
        alias=text(attributes.get(_IFLA_IFALIAS, b"")),
    )
