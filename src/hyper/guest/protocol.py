"""The agent protocol's frames (docs/agent-protocol.md §2, §3): encoding, and an incremental parser of hostile bytes.

Pure: no sockets, no clocks. Each rule of §2 that a receiver checks has a name here, the same as in tests/vectors, so
that a test and a log line say which one was broken. The parser owns the buffer that the socket reads into, so that a
payload is copied once. Neighbours: ``flows`` (positions and credit of one stream), ``link`` (connections).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Annotated, NamedTuple

import msgspec

HELLO_MAGIC = b"HYPER-AGENT-v1\r\n"
VERSION = 1
PADDING = bytes(66_000)
"""More than a frame, so that it completes whatever the agent was in the middle of."""

MAX_PAYLOAD_BYTES = 65_536
MAX_REASON_BYTES = 1_024
CONTROL_STREAM = 0
MAX_STREAM = 2**32 - 1
FIN = 1

_HEADER = struct.Struct("<BBHIIQ")
_NONCE = struct.Struct("<I")
_LIMIT = struct.Struct("<Q")
_OVERHEAD_BYTES = _HEADER.size + _NONCE.size
_MAX_FRAME_BYTES = MAX_PAYLOAD_BYTES + _OVERHEAD_BYTES
_READ_BYTES = 256 * 1024
_LAST_POSITION = 2**64 - 1


class FrameType(IntEnum):
    """§2's table, without PAD, which has no header."""

    HELLO = 1
    WELCOME = 2
    DATA = 3
    ACK = 4
    RESET = 5
    BYE = 6


class ProtocolError(Exception):
    """The peer broke the rule named ``rule``; its connection must be closed with BYE."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{rule}: {message}")
        self.rule = rule


class Frame(NamedTuple):
    """A whole, checked frame. ``limit`` is that of an ACK, else 0."""

    type: int
    flags: int
    stream: int
    offset: int
    payload: bytes
    limit: int


class Hello(msgspec.Struct):
    """HELLO's JSON."""

    versions: list[int]
    instance: str
    echo: str
    nonce: int


class Welcome(msgspec.Struct):
    """WELCOME's JSON."""

    version: int
    agent: Annotated[str, msgspec.Meta(max_length=256)]
    boot_id: Annotated[str, msgspec.Meta(max_length=256)]
    resumed: bool


def encode(frame_type: int, stream: int, offset: int, payload: bytes | memoryview, nonce: int, flags: int = 0) -> bytes:
    """One frame as it goes over the channel."""
    header = _HEADER.pack(frame_type, flags, 0, len(payload), stream, offset)
    return b"".join((header, payload, _NONCE.pack(nonce)))


def encode_ack(stream: int, offset: int, limit: int, nonce: int) -> bytes:
    return encode(FrameType.ACK, stream, offset, _LIMIT.pack(limit), nonce)


def encode_reason(frame_type: int, stream: int, reason: str, nonce: int) -> bytes:
    """RESET or BYE; a reason that is too long is cut at a character."""
    text = reason.encode()[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
    return encode(frame_type, stream, 0, text, nonce)


def encode_hello(instance: str, echo: bytes, nonce: int) -> bytes:
    text = msgspec.json.encode(Hello([VERSION], instance, echo.hex(), nonce))
    return encode(FrameType.HELLO, CONTROL_STREAM, 0, HELLO_MAGIC + text, nonce)


def decode_welcome(payload: bytes, echo: bytes) -> Welcome:
    """WELCOME's members; ProtocolError when they are not what §3 says."""
    try:
        welcome = msgspec.json.decode(payload[len(echo) :], type=Welcome)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("bad_welcome", str(error)) from error
    if welcome.version != VERSION:
        raise ProtocolError("bad_welcome", f"the agent chose version {welcome.version}, which was not offered")
    return welcome


class FrameParser:
    """The host's side: finds WELCOME (or BYE) in left-overs, then takes frames one behind the other.

    Holds at most one frame and what one read brought (320 KiB). Not usable after it has raised."""

    def __init__(self, nonce: int, echo: bytes) -> None:
        self._nonce = nonce
        self._echo = echo
        self._buffer = bytearray(_READ_BYTES + _MAX_FRAME_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self.in_step = False

    def room(self) -> memoryview:
        """Where the next bytes are to be put; at least 64 KiB. Say how many came with :meth:`filled`."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start and len(self._buffer) - self._end < _READ_BYTES:
            held = self._end - self._start
            self._buffer[:held] = self._buffer[self._start : self._end]
            self._start, self._end = 0, held
        return self._view[self._end :]

    def filled(self, count: int) -> None:
        self._end += count

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """:meth:`room`, :meth:`filled` and :meth:`frames` in one, for bytes that are somewhere else already."""
        rest = memoryview(data)
        while rest:
            room = self.room()
            count = min(len(rest), len(room))
            room[:count] = rest[:count]
            self.filled(count)
            rest = rest[count:]
            yield from self.frames()

    def frames(self) -> Iterator[Frame]:
        """The whole frames that are there. ProtocolError as soon as a header breaks a rule."""
        if not self.in_step:
            first = self._search()
            if first is None:
                return
            self.in_step = True
            yield first
        while True:
            held = self._end - self._start
            if held < _HEADER.size:
                return
            fields = _HEADER.unpack_from(self._buffer, self._start)
            _check_header(*fields)
            frame_type, flags, _zero, length, stream, offset = fields
            if held < length + _OVERHEAD_BYTES:
                return
            yield self._take(frame_type, flags, length, stream, offset)

    def _take(self, frame_type: int, flags: int, length: int, stream: int, offset: int) -> Frame:
        begin = self._start + _HEADER.size
        (nonce,) = _NONCE.unpack_from(self._buffer, begin + length)
        if nonce != self._nonce:
            raise ProtocolError("wrong_trailer", f"a frame ends in {nonce:#x}")
        payload = bytes(self._view[begin : begin + length])
        self._start = begin + length + _NONCE.size
        limit = 0
        if frame_type == FrameType.ACK:
            (limit,) = _LIMIT.unpack(payload)
            if limit < offset:
                raise ProtocolError("limit_below_offset", f"an ACK of {offset} grants up to {limit}")
        elif frame_type in (FrameType.RESET, FrameType.BYE):
            try:
                payload.decode()
            except UnicodeDecodeError as error:
                raise ProtocolError("not_utf8", "the reason of a RESET or BYE") from error
        return Frame(frame_type, flags, stream, offset, payload, limit)

    def _search(self) -> Frame | None:
        """The WELCOME with our echo, or a BYE with our nonce, among bytes of connections before; drops what is
        neither."""
        keep = max(self._start, self._end - _HEADER.size + 1)
        for match in _CANDIDATE.finditer(self._buffer, self._start, self._end):
            begin = match.start()
            if begin > self._end - _HEADER.size:
                break
            frame_type, _flags, _zero, length, _stream, _offset = _HEADER.unpack_from(self._buffer, begin)
            if length > (MAX_PAYLOAD_BYTES if frame_type == FrameType.WELCOME else MAX_REASON_BYTES):
                continue
            end = begin + length + _OVERHEAD_BYTES
            if not self._may_be_ours(frame_type, begin + _HEADER.size, length):
                continue
            if end > self._end:
                keep = min(keep, begin)
                continue
            if _NONCE.unpack_from(self._buffer, end - _NONCE.size)[0] == self._nonce:
                self._start = begin
                return self._take(frame_type, 0, length, 0, 0)
        self._start = keep
        return None

    def _may_be_ours(self, frame_type: int, begin: int, length: int) -> bool:
        if frame_type == FrameType.BYE:
            return True
        there = bytes(self._view[begin : min(begin + len(self._echo), self._end)])
        return length >= len(self._echo) and self._echo.startswith(there)


# The header of a WELCOME or BYE. A lookahead, so that candidates may overlap.
_CANDIDATE = re.compile(rb"(?=[\x02\x06]\x00\x00\x00..[\x00\x01]\x00\x00{12})", re.DOTALL)


def _check_header(frame_type: int, flags: int, zero: int, length: int, stream: int, offset: int) -> None:
    """§2's rules about a header, for the host: what an agent in step may send."""
    if frame_type == FrameType.DATA:
        if flags & ~FIN:
            raise ProtocolError("unknown_flag", f"flags {flags:#x} on DATA")
    elif frame_type not in (FrameType.ACK, FrameType.RESET, FrameType.BYE, FrameType.WELCOME):
        raise ProtocolError("unknown_type", f"type {frame_type}")
    elif flags:
        raise ProtocolError("unknown_flag", f"flags {flags:#x} on {FrameType(frame_type).name}")
    if zero:
        raise ProtocolError("reserved_not_zero", f"{zero:#x}")
    if length > MAX_PAYLOAD_BYTES:
        raise ProtocolError("too_long", f"a payload of {length} bytes")
    if frame_type == FrameType.DATA:
        if offset > _LAST_POSITION - length - (flags & FIN):
            raise ProtocolError("wrong_offset", f"DATA at {offset} runs past the last position")
    elif frame_type == FrameType.ACK:
        if length != _LIMIT.size:
            raise ProtocolError("wrong_length", f"an ACK of {length} bytes")
    else:
        _check_unnumbered(frame_type, length, stream, offset)


def _check_unnumbered(frame_type: int, length: int, stream: int, offset: int) -> None:
    name = FrameType(frame_type).name
    if frame_type == FrameType.WELCOME:
        if length < 16:
            raise ProtocolError("wrong_length", f"a WELCOME of {length} bytes")
    elif length > MAX_REASON_BYTES:
        raise ProtocolError("wrong_length", f"a {name} with a reason of {length} bytes")
    if (stream == CONTROL_STREAM) == (frame_type == FrameType.RESET):
        raise ProtocolError("wrong_stream", f"{name} on stream {stream}")
    if offset:
        raise ProtocolError("wrong_offset", f"{name} with offset {offset}")
