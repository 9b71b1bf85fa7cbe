"""Requests and the three kinds of responses: whole, streamed, and the hijacked connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol
from urllib.parse import parse_qs, unquote

from hyper.api.http.body import Body
from hyper.api.http.head import BadRequest, Head
from hyper.api.http.limits import Limits

_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Request:
    """One request. ``path`` is decoded; ``query`` keeps blank values."""

    def __init__(self, head: Head, body: Body, limits: Limits) -> None:
        self.head = head
        self.body = body
        self._limits = limits
        target = head.target
        if target.startswith((b"http://", b"https://")):
            rest = target.split(b"://", 1)[1]
            target = b"/" + rest.split(b"/", 1)[1] if b"/" in rest else b"/"
        raw_path, _, raw_query = target.partition(b"?")
        try:
            self.raw_path = raw_path.decode("ascii")
            self._raw_query = raw_query.decode("ascii")
            self.path = unquote(self.raw_path, errors="strict") if "%" in self.raw_path else self.raw_path
        except UnicodeDecodeError as error:
            raise BadRequest(400, "the request's address is not valid UTF-8") from error
        self._query: dict[str, list[str]] | None = None

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def headers(self) -> dict[str, str]:
        return self.head.headers

    @property
    def query(self) -> dict[str, list[str]]:
        if self._query is None:
            try:
                self._query = parse_qs(self._raw_query, keep_blank_values=True, max_num_fields=1000, errors="strict")
            except ValueError as error:
                raise BadRequest(400, f"malformed query string: {error}") from error
        return self._query

    async def read(self) -> bytes:
        """The whole body within the bounds for whole bodies (413, 408)."""
        if self.body.done:
            return b""
        try:
            async with asyncio.timeout(self._limits.body_s):
                return await self.body.read_all(self._limits.body_bytes)
        except TimeoutError as error:
            raise BadRequest(408, "the request's body did not arrive in time") from error


@dataclass(frozen=True)
class Response:
    """A whole response."""

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StreamResponse:
    """A body made while it is sent. With ``eager_head`` the head goes out before the first piece (so that a waiting
    client knows that it was
    heard); otherwise an error before the first piece still gets its own status."""

    body: AsyncGenerator[bytes, None]
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    eager_head: bool = True


class RawConnection(Protocol):
    """A hijacked connection; bytes that came right behind the request's head are the first that ``read`` gives."""

    async def read(self) -> bytes:
        """b"" once the client finished sending (it may still be receiving)."""
        ...

    async def write(self, *pieces: bytes) -> None:
        """Waits for the client to take it; raises when it is gone."""
        ...


@dataclass(frozen=True)
class HijackResponse:
    """Answer 101 when the client asked for an upgrade, else 200, then give the connection to ``run``; it is closed
    when ``run`` returns.

    ``abandoned`` is awaited instead when the client was gone before ``run`` could begin, so that what the handler
    holds is let go.
    """

    run: Callable[[RawConnection], Awaitable[None]]
    abandoned: Callable[[], Awaitable[None]]
    content_type: str = "application/vnd.docker.raw-stream"
    headers: dict[str, str] = field(default_factory=dict)


AnyResponse = Response | StreamResponse | HijackResponse
Handler = Callable[[Request], Awaitable[AnyResponse]]


def encode_head(status: int, headers: dict[str, str], reason: str = "") -> bytes:
    """A response's head. Values come from us, but may quote clients: line breaks are taken out."""
    lines = [f"HTTP/1.1 {status} {reason or _REASONS.get(status, 'Unknown')}\r\n"]
    for name, value in headers.items():
        if "\r" in value or "\n" in value:
            value = value.replace("\r", " ").replace("\n", " ")
        lines.append(f"{name}: {value}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1", "replace")
