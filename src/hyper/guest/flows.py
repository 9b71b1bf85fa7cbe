"""One direction of one stream (docs/agent-protocol.md §2, §4): positions, credit, replay. Pure; no sockets.

``Receiver`` says which bytes of a DATA frame are new and whether its sender kept to the rules; ``Sender`` keeps what
is not acknowledged and says what may be sent. Both are tested against tests/vectors/streams.json, as the agent's are.
Neighbours: ``protocol`` (frames), ``link`` (which frame of which stream goes when).
"""

from __future__ import annotations

from collections import deque

from hyper.guest.protocol import MAX_PAYLOAD_BYTES, ProtocolError


class Receiver:
    """Takes a stream from ``start`` on. ``next`` is the position expected next, ``limit`` what was granted."""

    def __init__(self, start: int, limit: int) -> None:
        self.next = start
        self.limit = limit
        self.ended = False

    def take(self, offset: int, payload: bytes, fin: bool) -> bytes:
        """What of the payload is new; sets ``ended`` when the FIN is. ProtocolError names the rule that was broken."""
        end = offset + len(payload)
        if offset > self.next:
            raise ProtocolError("gap", f"DATA at {offset}, expected {self.next}")
        if end + fin > self.limit:
            raise ProtocolError("above_limit", f"DATA up to {end + fin}, granted {self.limit}")
        if self.ended:
            # The FIN stands at next - 1; a replay ends at or below it, and says FIN exactly there.
            if end > self.next - 1:
                raise ProtocolError("after_fin", f"DATA up to {end}, the stream ended at {self.next - 1}")
            if fin and end != self.next - 1:
                raise ProtocolError("after_fin", f"FIN at {end}, it was at {self.next - 1}")
            return b""
        if fin and end < self.next:
            raise ProtocolError("after_fin", f"FIN at {end}, bytes up to {self.next} came before")
        new = payload[self.next - offset :] if offset < self.next else payload
        self.next = max(self.next, end)
        if fin:
            self.ended = True
            self.next += 1
        return new


class Sender:
    """Sends a stream from ``start`` on; ``start`` None: the peer's first ACK tells (a stream adopted after a
    restart)."""

    def __init__(self, start: int | None = 0) -> None:
        self._adopting = start is None
        self._base = start or 0  # position of the first byte kept
        self._chunks: deque[bytes] = deque()
        self._kept = 0
        self._cursor = 0  # index of the chunk to be sent next
        self._within = 0  # bytes of it already sent
        self._sent = self._base  # position to be sent next on this connection
        self._furthest = self._base  # the furthest position ever sent (the FIN counts)
        self._acknowledged: int | None = None  # on this connection; None: no credit yet
        self._limit = 0
        self.finished = False
        self.over = False

    @property
    def kept_bytes(self) -> int:
        return self._kept

    def write(self, data: bytes) -> None:
        """Queue bytes; the caller bounds how many (``kept_bytes``)."""
        if self.finished or self.over:
            raise ValueError("the stream has ended")
        for begin in range(0, len(data), MAX_PAYLOAD_BYTES):
            self._chunks.append(data[begin : begin + MAX_PAYLOAD_BYTES] if len(data) > MAX_PAYLOAD_BYTES else data)
        self._kept += len(data)

    def finish(self) -> None:
        """End the stream behind what was written."""
        self.finished = True

    def reset(self) -> None:
        """The reader will not read on: drop everything."""
        self._drop()

    def disconnect(self) -> None:
        """The connection is gone, and with it the credit; what is not acknowledged will be sent again."""
        self._acknowledged = None
        self._limit = 0

    def acknowledge(self, offset: int, limit: int) -> None:
        """An ACK came. ProtocolError when it lies about what was sent, or goes back."""
        if self.over:
            return
        if self._adopting:
            self._adopting = False
            self._base = self._sent = self._furthest = offset
        if offset > self._furthest:
            raise ProtocolError("ack_above_sent", f"ACK of {offset}, sent {self._furthest}")
        lowest = self._base if self._acknowledged is None else self._acknowledged
        if offset < lowest or (self._acknowledged is not None and limit < self._limit):
            raise ProtocolError("went_back", f"ACK of {offset} up to {limit} after {lowest} up to {self._limit}")
        fresh = self._acknowledged is None
        self._acknowledged, self._limit = offset, limit
        if self.finished and offset == self._base + self._kept + 1:
            self._drop()
            return
        self._free(offset)
        if fresh:
            self._sent, self._cursor, self._within = self._base, 0, 0

    def _free(self, offset: int) -> None:
        while self._chunks and self._base + len(self._chunks[0]) <= offset:
            size = len(self._chunks.popleft())
            self._base += size
            self._kept -= size
            if self._cursor:
                self._cursor -= 1
            else:
                self._within = 0
        cut = offset - self._base
        if cut > 0:
            self._chunks[0] = self._chunks[0][cut:]
            self._base += cut
            self._kept -= cut
            if not self._cursor:
                self._within = max(self._within - cut, 0)
        if self._sent < self._base:
            self._sent, self._cursor, self._within = self._base, 0, 0

    def _drop(self) -> None:
        self._chunks.clear()
        self._kept = 0
        self._cursor = self._within = 0
        self.over = True

    def ready(self) -> bool:
        """Whether :meth:`next_frame` has something."""
        if self.over or self._acknowledged is None or self._sent >= self._limit:
            return False
        end = self._base + self._kept
        return self._sent < end or (self.finished and self._sent == end)

    def next_frame(self) -> tuple[int, bytes | memoryview, bool] | None:
        """Offset, bytes and FIN of one frame that may be sent now; counts as sent. None when there is none."""
        if not self.ready():
            return None
        offset = self._sent
        data: bytes | memoryview = b""
        if self._cursor < len(self._chunks):
            chunk = self._chunks[self._cursor]
            size = min(len(chunk) - self._within, self._limit - offset)
            data = chunk if size == len(chunk) else memoryview(chunk)[self._within : self._within + size]
            self._within += size
            if self._within == len(chunk):
                self._cursor += 1
                self._within = 0
        self._sent += len(data)
        fin = self.finished and self._sent == self._base + self._kept and self._sent < self._limit
        self._sent += fin
        self._furthest = max(self._furthest, self._sent)
        return offset, data, fin
