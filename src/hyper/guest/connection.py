"""One connection to the agent: handshake, frames in, frames out. It ends; ``link`` makes the next one.

What the guest sends is hostile: the parser is bounded, the first broken rule ends the connection with BYE, and the
caller learns why. Neighbours: ``protocol`` (frames), ``link`` (what outlives a connection).
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Protocol, cast

from hyper.guest.protocol import (
    PADDING,
    Frame,
    FrameParser,
    FrameType,
    ProtocolError,
    Welcome,
    decode_welcome,
    encode_hello,
    encode_reason,
)

_HELLO_INTERVAL_S = 1.0
_FIRST_HELLO_INTERVAL_S = 0.01
"""Doubled each time: a clone that just woke may not have noticed yet that somebody listens. (Only without padding.)"""
_WRITE_HIGH_BYTES = 256 * 1024
_ECHO_BYTES = 16


class Handler(Protocol):
    """What a connection tells its owner."""

    def established(self, connection: Connection, welcome: Welcome) -> None: ...

    def received(self, connection: Connection, frame: Frame) -> None:
        """DATA, ACK or RESET, in order. May raise ProtocolError."""
        ...

    def writable(self, connection: Connection) -> None: ...


class Connection(asyncio.BufferedProtocol):
    """From connect to loss. ``ended`` is set once, with None (the socket closed) or the reason for closing for good."""

    def __init__(self, handler: Handler, instance: str, *, padded: bool) -> None:
        loop = asyncio.get_running_loop()
        self.nonce = secrets.randbelow(2**32 - 1) + 1
        self.ended: asyncio.Future[str | None] = loop.create_future()
        self.writable = False
        self._loop = loop
        self._handler = handler
        self._echo = secrets.token_bytes(_ECHO_BYTES)
        hello = encode_hello(instance, self._echo, self.nonce)
        self._hello = PADDING + hello if padded else hello
        self._hello_interval_s = _HELLO_INTERVAL_S if padded else _FIRST_HELLO_INTERVAL_S
        self._parser = FrameParser(self.nonce, self._echo)
        self._established = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def write(self, data: bytes) -> None:
        """Send a whole frame; look at ``writable`` first, or at most a few go over the mark."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self, reason: str | None, *, bye: bool = False) -> None:
        """End the connection; ``bye`` tells the agent why. Idempotent: the first reason stands."""
        self.writable = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.ended.done():
            self.ended.set_result(reason)
        if self._transport is not None and not self._transport.is_closing():
            if bye and reason is not None:
                self._transport.write(encode_reason(FrameType.BYE, 0, reason, self.nonce))
                # A guest that does not read must not keep our bytes: what the socket does not take at once is dropped.
                if self._transport.get_write_buffer_size():
                    self._transport.abort()
                    return
            self._transport.close()

    def _say_hello(self) -> None:
        # The same nonce and echo each time: until it has our ACKs the agent sends nothing but WELCOME and ACKs, so that
        # answering twice changes nothing.
        if self.writable:
            self.write(self._hello)
        self._timer = self._loop.call_later(self._hello_interval_s, self._say_hello)
        self._hello_interval_s = min(2 * self._hello_interval_s, _HELLO_INTERVAL_S)

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        if self.ended.done():
            self._transport.abort()
            return
        self.writable = True
        self._say_hello()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._parser.room()

    def buffer_updated(self, nbytes: int) -> None:
        if self.ended.done():
            return
        self._parser.filled(nbytes)
        try:
            for frame in self._parser.frames():
                self._take(frame)
                if self.ended.done():
                    return
        except ProtocolError as error:
            self.close(f"the guest's agent broke the protocol ({error})", bye=True)

    def _take(self, frame: Frame) -> None:
        if frame.type == FrameType.BYE:
            # Cut: the reason is the guest's, and goes into a log.
            self.close(f"the guest's agent closed the connection: {frame.payload.decode()[:200]!r}")
        elif frame.type == FrameType.WELCOME:
            if frame.payload[:_ECHO_BYTES] != self._echo:
                raise ProtocolError("wrong_echo", "a WELCOME that answers no HELLO of this connection")
            if not self._established:
                self._established = True
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
                self._handler.established(self, decode_welcome(frame.payload, self._echo))
        else:
            self._handler.received(self, frame)

    def eof_received(self) -> None:
        """The peer has closed; the transport closes too."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.close(None)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        if not self.ended.done():
            self.writable = True
            if self._established:
                self._handler.writable(self)
