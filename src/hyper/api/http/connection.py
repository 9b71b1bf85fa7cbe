"""The life of one connection: requests in the order they came, one at a time, until it ends, is refused or is hijacked.

Written as one coroutine over a :class:`Channel`. When the client disappears, the server cancels the coroutine and
with it the handler.
"""

from __future__ import annotations

import asyncio
import email.utils
import time
from contextlib import aclosing
from typing import Protocol

from hyper.api.http.body import Body
from hyper.api.http.channel import Channel, Disconnected
from hyper.api.http.head import BadRequest, parse_head
from hyper.api.http.limits import Limits
from hyper.api.http.messages import AnyResponse, HijackResponse, Request, Response, StreamResponse, encode_head

_DISCARD_BYTES = 256 * 1024
_LINGER_S = 2.0
_HEAD_END = b"\r\n\r\n"


class Application(Protocol):
    """What the server serves."""

    async def handle(self, request: Request) -> AnyResponse: ...

    def failure(self, error: Exception) -> Response:
        """The answer to an error that ``handle`` or the HTTP layer raised; also logs what is a bug."""
        ...

    def common_headers(self) -> dict[str, str]:
        """Headers of every response."""
        ...


class Connection:
    """``idle_since_s`` (monotonic) is set while no request is being handled; ``interruptible`` while what is handled
    never ends by itself."""

    def __init__(self, channel: Channel, application: Application, limits: Limits) -> None:
        self._channel = channel
        self._application = application
        self._limits = limits
        self.idle_since_s: float | None = time.monotonic()
        self.interruptible = False
        self.closing = False
        self.finished_s: float | None = None
        self.hung_up_since_s: float | None = None

    async def serve(self) -> None:
        """Until the connection is over. Never raises but for cancellation."""
        channel = self._channel
        try:
            while await self._serve_one() and not self.closing:
                pass
            await self._finish()
        except Disconnected:
            pass
        except BadRequest as error:
            await self._refuse(error)
        finally:
            self.finished_s = time.monotonic()
            channel.close()  # sends what is queued; the server aborts it when the client does not take that

    async def _refuse(self, error: BadRequest) -> None:
        try:
            await self._send_whole(None, self._application.failure(error), keep_alive=False)
            await self._finish()
        except Disconnected:
            pass

    async def _finish(self) -> None:
        """Say that we are done, let the client take what is left, and ignore what it still sends.

        Closing at once with unread bytes would reset the connection, and the client would see that instead of our
        answer.
        """
        channel = self._channel
        channel.write_eof()
        self.interruptible = True
        try:
            async with asyncio.timeout(_LINGER_S):
                while await channel.read():
                    pass
        except TimeoutError:
            pass

    async def _serve_one(self) -> bool:
        """One request and its answer; whether another may follow."""
        data = await self._read_head()
        if data is None:
            return False
        self.idle_since_s = None
        try:
            head = parse_head(data)
            request = Request(head, Body(self._channel, head), self._limits)
            response: AnyResponse
            try:
                response = await self._application.handle(request)
            except Exception as error:
                if isinstance(error, Disconnected):
                    raise
                if isinstance(error, BadRequest):
                    head.keep_alive = False
                response = self._application.failure(error)
            return await self._respond(request, response)
        finally:
            self.interruptible = False
            self.idle_since_s = time.monotonic()

    async def _read_head(self) -> bytes | None:
        """The next request's head; what follows it stays in the channel. None: the client is done."""
        buffer = await self._first_bytes()
        if not buffer:
            return None
        end = buffer.find(_HEAD_END)
        if end < 0:
            try:
                async with asyncio.timeout(self._limits.head_s):
                    while end < 0:
                        self._check_head_size(len(buffer))
                        data = await self._channel.read()
                        if not data:
                            return None
                        searched = max(0, len(buffer) - 3)
                        buffer += data
                        end = buffer.find(_HEAD_END, searched)
            except TimeoutError as error:
                raise BadRequest(408, "the request's headers did not arrive in time") from error
        end += len(_HEAD_END)
        self._check_head_size(end)
        self._channel.push_back(buffer[end:])
        return buffer[:end]

    async def _first_bytes(self) -> bytes:
        while True:
            data = (await self._channel.read()).lstrip(b"\r\n")  # RFC 9112, 2.2: ignore blank lines before a request
            if data or self._channel.at_eof:
                return data

    def _check_head_size(self, size: int) -> None:
        if size > self._limits.head_bytes:
            raise BadRequest(
                431, f"the request's headers are too large: at most {self._limits.head_bytes} bytes are accepted"
            )

    # answers

    async def _respond(self, request: Request, response: AnyResponse) -> bool:
        if isinstance(response, HijackResponse):
            await self._hand_over(request, response)
            return False
        if isinstance(response, StreamResponse):
            keep_alive = await self._send_stream(request, response)
        else:
            keep_alive = request.head.keep_alive and await self._discard_body(request)
            await self._send_whole(request, response, keep_alive=keep_alive)
            return keep_alive
        return keep_alive and await self._discard_body(request)

    async def _discard_body(self, request: Request) -> bool:
        """Read what the handler left of the body when it is short; False when the connection must close instead."""
        body = request.body
        if body.done:
            return True
        if body.started or request.head.expect_continue or request.head.chunked:
            return False
        if (request.head.content_length or 0) > _DISCARD_BYTES:
            return False
        await request.read()
        return True

    def _headers(self, response: Response | StreamResponse | HijackResponse) -> dict[str, str]:
        headers = self._application.common_headers()
        headers["Date"] = email.utils.formatdate(usegmt=True)
        headers.update(response.headers)
        if response.content_type:
            headers["Content-Type"] = response.content_type
        return headers

    async def _send_whole(self, request: Request | None, response: Response, *, keep_alive: bool) -> None:
        headers = self._headers(response)
        body = response.body
        if response.status not in (204, 304):
            headers["Content-Length"] = str(len(body))
        elif response.status == 204:
            body = b""
        if not keep_alive:
            headers["Connection"] = "close"
        elif request is not None and request.head.version == "1.0":
            headers["Connection"] = "keep-alive"
        head = encode_head(response.status, headers)
        if request is not None and request.method == "HEAD":
            body = b""
        await self._channel.write(head + body)

    async def _send_stream(self, request: Request, response: StreamResponse) -> bool:
        """Whether the connection can be kept."""
        self.interruptible = True
        chunked = request.head.version != "1.0"
        keep_alive = chunked and request.head.keep_alive
        channel = self._channel
        async with aclosing(response.body) as pieces:
            first: bytes | None = None
            if not response.eager_head:
                try:
                    first = await anext(pieces, None)
                except Exception as error:
                    if isinstance(error, Disconnected):
                        raise
                    await self._send_whole(request, self._application.failure(error), keep_alive=False)
                    return False
            headers = self._headers(response)
            if chunked:
                headers["Transfer-Encoding"] = "chunked"
            if not keep_alive:
                headers["Connection"] = "close"
            await channel.write(encode_head(response.status, headers))
            try:
                if first:
                    await self._write_piece(first, chunked)
                async for piece in pieces:
                    if piece:
                        await self._write_piece(piece, chunked)
            except Exception as error:
                if isinstance(error, Disconnected):
                    raise
                self._application.failure(error)
                channel.abort()  # the only way to tell the client that the body is not complete
                raise Disconnected from error
            if chunked:
                await channel.write(b"0\r\n\r\n")
        return keep_alive

    async def _write_piece(self, piece: bytes, chunked: bool) -> None:
        if chunked:
            await self._channel.write(b"%x\r\n" % len(piece), piece, b"\r\n")
        else:
            await self._channel.write(piece)

    async def _hand_over(self, request: Request, response: HijackResponse) -> None:
        self.interruptible = True
        upgrade = request.head.upgrade
        headers = self._application.common_headers()
        headers["Content-Type"] = response.content_type
        headers.update(response.headers)
        if upgrade:
            headers["Connection"] = "Upgrade"
            headers["Upgrade"] = upgrade
        try:
            await self._channel.write(encode_head(101 if upgrade else 200, headers, "UPGRADED" if upgrade else ""))
        except BaseException:
            await response.abandoned()
            raise
        try:
            await response.run(self._channel)
        except Exception as error:
            if isinstance(error, Disconnected):
                raise
            self._application.failure(error)  # logged; the client has had its head, all that is left is to close
