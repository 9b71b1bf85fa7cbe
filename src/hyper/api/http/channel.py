"""One connection's bytes: what asyncio's callbacks deliver, turned into reads and writes that wait.

Flow control goes both ways: reading from the socket pauses while more is buffered than the handler has taken, and
writers wait
while the transport holds more than the client has taken. A half-closed connection (the client's
``shutdown(SHUT_WR)``) stays
open for writing: for an attached process it is only the end of stdin.
"""

from __future__ import annotations

import asyncio
import collections
import select
from collections.abc import Callable, Iterable

from hyper.api.http.limits import Limits


class Disconnected(Exception):
    """The client is gone; nothing that is written can arrive."""


class Channel(asyncio.Protocol):
    """``on_connected`` is told when the transport is there (the server starts serving it), ``on_lost`` when it is
    gone."""

    def __init__(
        self, limits: Limits, on_connected: Callable[[Channel], None], on_lost: Callable[[Channel], None]
    ) -> None:
        self._limits = limits
        self._on_connected = on_connected
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._chunks: collections.deque[bytes] = collections.deque()
        self._buffered_bytes = 0
        self._reading_paused = False
        self._writing_paused = False
        self._eof = False
        self._lost = False
        self._reader: asyncio.Future[None] | None = None
        self._drained: list[asyncio.Future[None]] = []

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports are not subclasses of asyncio's
        transport.set_write_buffer_limits(high=self._limits.outbound_high_bytes)  # type: ignore[attr-defined]
        self._on_connected(self)

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._buffered_bytes += len(data)
        if self._buffered_bytes >= self._limits.inbound_high_bytes and not self._reading_paused and self._transport:
            self._reading_paused = True
            self._transport.pause_reading()
        self._wake_reader()

    def eof_received(self) -> bool:
        self._eof = True
        self._wake_reader()
        if not self._chunks and self.hung_up():
            self.abort()  # not half-closed: gone
        return True

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake_writers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._eof = True
        self._wake_reader()
        self._wake_writers()
        self._on_lost(self)

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writers(self) -> None:
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_result(None)
        self._drained.clear()

    # what the connection and handlers call

    @property
    def lost(self) -> bool:
        return self._lost

    @property
    def at_eof(self) -> bool:
        """Nothing is buffered and nothing more will come."""
        return self._eof and not self._chunks

    @property
    def quiet(self) -> bool:
        """The socket is not being read (paused, or the client finished sending), so a disconnect would go unnoticed."""
        return self._eof or self._reading_paused

    def hung_up(self) -> bool:
        """Ask the kernel whether the peer is completely gone, which a half-closed or paused connection does not tell
        by itself."""
        if self._lost or self._transport is None:
            return True
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return True
        poller = select.poll()
        poller.register(sock.fileno(), 0)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poller.poll(0))

    async def read(self, max_bytes: int | None = None) -> bytes:
        """At least one byte, or b"" at the end. One reader at a time."""
        while not self._chunks:
            if self._eof:
                return b""
            await self.wait_readable()
        chunk = self._chunks.popleft()
        if max_bytes is not None and len(chunk) > max_bytes:
            self._chunks.appendleft(chunk[max_bytes:])
            chunk = chunk[:max_bytes]
        self._buffered_bytes -= len(chunk)
        if (
            self._reading_paused
            and self._buffered_bytes <= self._limits.inbound_high_bytes // 4
            and self._transport is not None
            and not self._lost
        ):
            self._reading_paused = False
            self._transport.resume_reading()
        return chunk

    async def wait_readable(self) -> None:
        """Until something new arrives or the end is known."""
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def push_back(self, data: bytes) -> None:
        """Bytes that were read too far."""
        if data:
            self._chunks.appendleft(data)
            self._buffered_bytes += len(data)

    @property
    def has_data(self) -> bool:
        return bool(self._chunks)

    def write_nowait(self, data: bytes) -> None:
        """Queue for sending; for small pieces (heads)."""
        if self._transport is not None and not self._lost:
            self._transport.write(data)

    async def write(self, *pieces: bytes) -> None:
        """Send; waits while the client does not take it. Raises :class:`Disconnected`."""
        if self._lost or self._transport is None:
            raise Disconnected
        self._write_all(pieces)
        if self._writing_paused:
            await self._drain()

    def _write_all(self, pieces: Iterable[bytes]) -> None:
        assert self._transport is not None
        self._transport.writelines(pieces)

    async def _drain(self) -> None:
        while self._writing_paused:
            if self._lost:
                raise Disconnected
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._drained.append(waiter)
            await waiter
        if self._lost:
            raise Disconnected

    def close(self) -> None:
        """Send what is queued, then close."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once and drop what is queued."""
        if self._transport is not None:
            self._transport.abort()

    def write_eof(self) -> None:
        """Half-close: the client sees the end, but may still send."""
        if self._transport is not None and not self._lost and self._transport.can_write_eof():
            self._transport.write_eof()
