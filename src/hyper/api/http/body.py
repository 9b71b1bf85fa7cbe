"""A request's body as a stream: by length or chunked (RFC 9112, section 7.1), read from the channel only as fast as
it is taken."""

from __future__ import annotations

from collections.abc import AsyncIterator

from hyper.api.http.channel import Channel, Disconnected
from hyper.api.http.head import BadRequest, Head

_MAX_CHUNK_LINE_BYTES = 256
_MAX_TRAILER_BYTES = 8 * 1024


class Body:
    """Iterate once. ``Expect: 100-continue`` is answered when reading begins, so that a refused body is never sent."""

    def __init__(self, channel: Channel, head: Head) -> None:
        self._channel = channel
        self._chunked = head.chunked
        self._left = head.content_length or 0
        self._expect_continue = head.expect_continue
        self.done = not head.chunked and self._left == 0
        self.started = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[bytes]:
        if self.done:
            return
        self.started = True
        if self._expect_continue:
            self._expect_continue = False
            self._channel.write_nowait(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._chunked:
            async for chunk in self._chunks():
                yield chunk
        else:
            while self._left:
                yield await self._piece()
        self.done = True

    async def _piece(self) -> bytes:
        data = await self._channel.read(self._left)
        if not data:
            raise Disconnected
        self._left -= len(data)
        return data

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            line = await self._line(_MAX_CHUNK_LINE_BYTES)
            digits = line.split(b";", 1)[0].strip()
            if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
                raise BadRequest(400, "malformed chunk size in the request's body")
            self._left = int(digits, 16)
            if self._left == 0:
                break
            while self._left:
                yield await self._piece()
            if await self._line(2) != b"":
                raise BadRequest(400, "malformed chunk in the request's body")
        trailer_bytes = 0
        while line := await self._line(_MAX_TRAILER_BYTES):
            trailer_bytes += len(line)
            if trailer_bytes > _MAX_TRAILER_BYTES:
                raise BadRequest(431, "the request's trailers are too large")

    async def _line(self, max_bytes: int) -> bytes:
        """Up to CRLF, without it."""
        buffer = b""
        while True:
            end = buffer.find(b"\n")
            if end >= 0:
                self._channel.push_back(buffer[end + 1 :])
                return buffer[:end].rstrip(b"\r")
            if len(buffer) > max_bytes:
                raise BadRequest(400, "a line of the request's chunked body is too long")
            data = await self._channel.read()
            if not data:
                raise Disconnected
            buffer += data

    async def read_all(self, max_bytes: int) -> bytes:
        """The whole body; :class:`BadRequest` 413 when it is larger."""
        if not self._chunked and self._left > max_bytes:
            raise _too_large(max_bytes)
        pieces: list[bytes] = []
        size = 0
        async for piece in self:
            size += len(piece)
            if size > max_bytes:
                raise _too_large(max_bytes)
            pieces.append(piece)
        return b"".join(pieces)


def _too_large(max_bytes: int) -> BadRequest:
    return BadRequest(413, f"the request's body is too large: at most {max_bytes} bytes are accepted here")
