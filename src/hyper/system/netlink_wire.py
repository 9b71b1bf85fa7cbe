"""Netlink's wire: requests and their answers, attributes, errors; what all families of it share.

Only the kernel is listened to. Its errors become :class:`OSError` with its own explanation (extended acknowledgement)
where it gives one. Source: netlink(7), the kernel's Documentation/userspace-api/netlink.

Neighbours: ``netlink.py`` (links, addresses, routes), ``netlink_conntrack.py`` (connections).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_F_REQUEST, _F_ACK, _F_DUMP = 0x1, 0x4, 0x300
_F_CAPPED, _F_ACK_TLVS = 0x100, 0x200
_SOL_NETLINK, _NETLINK_EXT_ACK = 270, 11
_NLMSGERR_ATTR_MSG = 1
_NLA_TYPE_MASK = 0x3FFF

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_ATTRIBUTE = struct.Struct("=HH")


class NetlinkSocket:
    """One netlink socket, bound to the network namespace it was opened in. Not for use from several threads."""

    def __init__(self, family: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._socket.bind((0, 0))
        self._socket.settimeout(10)  # the kernel answers at once; a bound all the same, for the event loop's sake
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._sequence = 0

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def dump(self, kind: int, payload: bytes) -> list[bytes]:
        """Every object of a kind, as payloads of messages."""
        return self._exchange(kind, _F_REQUEST | _F_DUMP, payload)

    def request(self, kind: int, flags: int, payload: bytes) -> list[bytes]:
        """One change or question; what it was answered before the acknowledgement. OSError when refused."""
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
                if reply_kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    _raise_error(body, reply_flags)
                    return replies
                replies.append(body)


def _raise_error(body: bytes, flags: int) -> None:
    # Both ends of an answer begin with a status: 0, or an errno below zero.
    (code,) = struct.unpack_from("=i", body)
    if code >= 0:
        return
    message = os.strerror(-code)
    if flags & _F_ACK_TLVS:
        (echoed,) = struct.unpack_from("=I", body, 4)
        skip = 4 + (_HEADER.size if flags & _F_CAPPED else (echoed + 3) & ~3)
        text = attributes(body[skip:]).get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
        message = f"{message}: {text}" if text else message
    raise OSError(-code, message)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in ``data`` by their type; of several of a type, the last."""
    return dict(_iterate(data))


def _iterate(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _NLA_TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
