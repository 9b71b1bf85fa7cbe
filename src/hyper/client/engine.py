"""Requests to the engine and its answers in JSON. A status of 400 or more becomes the error kind that it stands for.

Paths carry no API version: the engine answers in its newest then, and this client is released together with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from hyper.client.address import Address
from hyper.client.http import Connection, Response
from hyper.errors import (
    Conflict,
    DataLoss,
    FailedPrecondition,
    HyperError,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs 4 ms at run time, and is not needed there
    from typing import Any

    Json = dict[str, Any] | list[Any] | None
    Setting = str | int | bool | None
    Query = Mapping[str, Setting] | Sequence[tuple[str, Setting]]

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""An answer in JSON; 10,000 containers in a list take 10 MB."""

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

_KINDS: dict[int, type[HyperError]] = {
    400: InvalidArgument,
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    412: FailedPrecondition,
    501: Unsupported,
    503: Unavailable,
}


class Engine:
    """The engine at an address. ``start`` is called when nobody listens there, and returns whether somebody does
    now."""

    def __init__(self, address: Address, *, start: Callable[[Address], None] | None = None) -> None:
        self.address = address
        self._start = start
        self._idle: Connection | None = None

    def close(self) -> None:
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    def connect(self) -> Connection:
        """A new connection; the engine is started when that is allowed and needed."""
        try:
            return Connection(self.address.connect())
        except Unavailable:
            if self._start is None:
                raise
        start, self._start = self._start, None  # once: a daemon that dies at once must not be started in a loop
        start(self.address)
        return Connection(self.address.connect())

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Json = None,
        content: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send, and return the response with its body unread. ``body`` goes as JSON, ``content`` as it is (a tar).
        Raises the error kind that an answer of 400 or more stands for, with the engine's own message."""
        connection = self.send(method, path, query=query, body=body, content=content, headers=headers)
        try:
            return self.receive(connection)
        except BaseException:
            connection.close()
            raise

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Json = None,
        content: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Connection:
        """Only send; :meth:`receive` reads the answer. So several requests can be under way at once."""
        connection, self._idle = self._idle or self.connect(), None
        all_headers = dict(headers or {})
        if content is not None:
            all_headers.setdefault("Content-Type", "application/x-tar")
        elif body is not None:
            content = json.dumps(body).encode()
            all_headers.setdefault("Content-Type", "application/json")
        connection.send(method, path + encode_query(query), headers=all_headers, body=content)
        return connection

    def receive(self, connection: Connection) -> Response:
        response = connection.response()
        if response.status < 400:
            return response
        body = response.read(1024 * 1024)
        raise error_of(response.status, body)

    def json(self, method: str, path: str, *, query: Query | None = None, body: Json = None) -> Json:
        """The decoded answer; None when it has no content. The connection is kept for the next request."""
        response = self.request(method, path, query=query, body=body)
        try:
            content = response.read(MAX_ANSWER_BYTES)
        except BaseException:
            response.connection.close()
            raise
        self._keep(response)
        if not content.strip():
            return None
        answer: Json = decode(content)
        return answer

    def act(self, method: str, path: str, *, query: Query | None = None) -> dict[str, str]:
        """A request whose answer has nothing to say but in its headers, which are returned (names in lower case)."""
        response = self.request(method, path, query=query)
        try:
            response.read(MAX_ANSWER_BYTES)
        except BaseException:
            response.connection.close()
            raise
        self._keep(response)
        return response.headers

    def object(self, method: str, path: str, *, query: Query | None = None, body: Json = None) -> dict[str, Any]:
        answer = self.json(method, path, query=query, body=body)
        if not isinstance(answer, dict):
            raise DataLoss(f"the engine answered {method} {path} with something that is no JSON object")
        return answer

    def list(self, method: str, path: str, *, query: Query | None = None) -> list[dict[str, Any]]:
        answer = self.json(method, path, query=query)
        if not isinstance(answer, list) or not all(isinstance(item, dict) for item in answer):
            raise DataLoss(f"the engine answered {method} {path} with something that is no list of JSON objects")
        return answer

    def messages(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        content: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """A stream of JSON objects, one a line (progress, events). One with ``errorDetail`` or ``error`` is raised."""
        response = self.request(method, path, query=query, content=content, headers=headers)
        try:
            for line in response.lines():
                message = decode(line)
                if not isinstance(message, dict):
                    raise DataLoss(f"the engine sent something that is no JSON object in answer to {method} {path}")
                if text := message.get("error"):
                    raise FailedPrecondition(str(text))
                yield message
        finally:
            response.connection.close()

    def hijack(self, method: str, path: str, *, query: Query | None = None, body: Json = None) -> Connection:
        """A connection taken over by the request: what is read and written from now on is the process's."""
        connection = self.connect()
        try:
            content = None if body is None else json.dumps(body).encode()
            headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
            if content is not None:
                headers["Content-Type"] = "application/json"
            connection.send(method, path + encode_query(query), headers=headers, body=content)
            self.receive(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _keep(self, response: Response) -> None:
        if response.complete and self._idle is None:
            self._idle = response.connection
        else:
            response.connection.close()


def encode_query(query: Query | None) -> str:
    """``?a=1&b=x``, from pairs when a name comes more than once; None leaves a name out, booleans are 1 and 0 as
    docker's client sends them."""
    pairs = []
    for name, value in query.items() if isinstance(query, Mapping) else query or ():
        if value is not None:
            text = str(int(value)) if isinstance(value, bool) else str(value)
            pairs.append(f"{quote(name)}={quote(text)}")
    return "?" + "&".join(pairs) if pairs else ""


def quote(text: str, also_safe: bytes = b"") -> str:
    """Percent-encoded; urllib.parse would cost 2 ms to import."""
    return "".join(
        chr(byte) if byte in _UNRESERVED or byte in also_safe else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogateescape")
    )


def path_part(reference: str) -> str:
    """A container's or image's name as one part of a path; slashes of image names stay, as docker's routes take
    them."""
    return quote(reference, b"/:@")


def decode(content: bytes) -> Any:
    try:
        value: Any = json.loads(content)
    except ValueError as error:
        raise DataLoss("the engine's answer is no valid JSON; is that address really an engine?") from error
    return value


def error_of(status: int, body: bytes) -> HyperError:
    """The error of an answer ``{"message": …}``, or of whatever else came."""
    message = ""
    try:
        answer = json.loads(body)
        if isinstance(answer, dict):
            message = str(answer.get("message", ""))
    except ValueError:
        message = body[:1000].decode("utf-8", "replace").strip()
    kind = _KINDS.get(status, InvalidArgument if status < 500 else Internal)
    return kind(message or f"the engine answered with HTTP status {status} and no message")
