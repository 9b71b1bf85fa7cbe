"""Streams as the engine sees them: an :class:`OutputStream` to read, an :class:`InputStream` to write.

Reading gives no credit back: what was read is acknowledged by :meth:`OutputStream.ack` when it is safe (written to
the log, handed to the client), so that nothing is lost when this process is killed between the two. A reader that
stops acknowledging stops the process in the guest, and no other stream. Neighbours: ``link`` feeds and drains these;
``flows`` has the rules.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from hyper.errors import Unavailable
from hyper.guest.flows import Receiver, Sender

OUTPUT_WINDOW_BYTES = 1 << 20
_INPUT_KEPT_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of a stream. ``end``: the stream ends after them (they may be empty)."""

    offset: int
    data: bytes
    end: bool

    @property
    def next(self) -> int:
        """What to acknowledge when this chunk is taken for good; the end counts as a position."""
        return self.offset + len(self.data) + self.end


class OutputStream:
    """What a process prints. One reader at a time. Made by the link."""

    def __init__(self, number: int, start: int, changed: Callable[[OutputStream], None]) -> None:
        self.number = number
        self.acked = start
        self.lost: str | None = None
        self._receiver = Receiver(start, start + OUTPUT_WINDOW_BYTES)
        self._chunks: deque[Chunk] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._changed = changed

    @property
    def limit(self) -> int:
        return self._receiver.limit

    @property
    def over(self) -> bool:
        """The end has been acknowledged; nothing comes any more."""
        return self._receiver.ended and self.acked == self._receiver.next

    async def read(self) -> Chunk:
        """The next bytes, in order and each once; waits for them. After the chunk with ``end`` there are none.

        Unavailable when the sandbox is lost, after what had arrived by then was read."""
        while not self._chunks:
            if self.lost is not None:
                raise Unavailable(f"the rest of this output is lost: {self.lost}")
            if self._waiter is not None:
                raise RuntimeError("another task reads this stream")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._chunks.popleft()

    def ack(self, offset: int) -> None:
        """All below ``offset`` (a chunk's ``next``) is taken for good: the guest may forget it and send as much
        more."""
        if not self.acked <= offset <= self._receiver.next:
            raise ValueError(f"cannot acknowledge {offset}: {self.acked} to {self._receiver.next} is what can be")
        if offset > self.acked:
            self.acked = offset
            self._receiver.limit = offset + OUTPUT_WINDOW_BYTES
            self._changed(self)

    # -- the link's side

    def take(self, offset: int, payload: bytes, fin: bool) -> bool:
        """A DATA frame came. Whether it held nothing new: a replay, which wants an ACK. ProtocolError: a rule is
        broken."""
        begin, ended = self._receiver.next, self._receiver.ended
        new = self._receiver.take(offset, payload, fin)
        end = self._receiver.ended and not ended
        if new or end:
            self._chunks.append(Chunk(begin, new, end))
            self._wake()
            return False
        return True

    def lose(self, reason: str) -> None:
        self.lost = reason
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class InputStream:
    """What a process reads. Any number of writers, in the order of their calls. Made by the link."""

    def __init__(self, number: int, start: int | None, changed: Callable[[InputStream], None]) -> None:
        self.number = number
        self.sender = Sender(start)
        self.closed_by_peer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """The reason, once the process has closed its end (or everything was read to the end, or the sandbox is
        lost)."""
        self.lost: str | None = None
        self._changed = changed
        self._room = asyncio.Event()
        self._room.set()
        self._order = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        """Queue bytes, waiting while the process does not read. BrokenPipeError once it has closed its end; Unavailable
        when the sandbox is lost. A cancelled write may have queued a part."""
        async with self._order:
            position = 0
            while position < len(data):
                await self._room.wait()
                self._check()
                size = _INPUT_KEPT_BYTES - self.sender.kept_bytes
                part = data[position : position + size] if position or len(data) > size else data
                self.sender.write(part)
                position += len(part)
                if self.sender.kept_bytes >= _INPUT_KEPT_BYTES:
                    self._room.clear()
                self._changed(self)

    async def finish(self) -> None:
        """The process reads EOF behind what was written. Twice is as good as once."""
        async with self._order:
            if not self.sender.over:
                self.sender.finish()
                self._changed(self)

    def _check(self) -> None:
        if self.lost is not None:
            raise Unavailable(f"the process cannot be written to: {self.lost}")
        if self.sender.over or self.sender.finished:
            raise BrokenPipeError(
                "the process has closed its standard input" if self.sender.over else "input has ended"
            )

    # -- the link's side

    def acknowledged(self, offset: int, limit: int) -> None:
        self.sender.acknowledge(offset, limit)
        if self.sender.kept_bytes < _INPUT_KEPT_BYTES:
            self._room.set()
        if self.sender.over:
            self._close("read to its end")

    def reset(self, reason: str) -> None:
        self.sender.reset()
        self._close(reason)

    def lose(self, reason: str) -> None:
        self.lost = reason
        self.sender.reset()
        self._close(reason)

    def _close(self, reason: str) -> None:
        self._room.set()
        if not self.closed_by_peer.done():
            self.closed_by_peer.set_result(reason)
