"""A request's head: parsed by httptools, which is fed exactly the head and nothing else.

The connection finds the blank line itself and keeps everything behind it, because a handler may take the connection
over and
httptools cannot be stopped at an arbitrary place. Neighbours: ``body`` (what follows), ``connection`` (who calls).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import httptools


class BadRequest(Exception):
    """The client broke HTTP or a bound; ``status`` says how. The connection is closed after the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(slots=True)
class Head:
    """``headers`` have lower-case names; repeated ones are joined with a comma. ``content_length`` is None without
    one."""

    method: str
    target: bytes
    version: str
    headers: dict[str, str]
    keep_alive: bool
    content_length: int | None = None
    chunked: bool = False
    expect_continue: bool = False
    upgrade: str = ""


@dataclass(slots=True)
class _Collector:
    """httptools' callbacks."""

    target: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").strip()
        if key in self.headers:
            text = f"{self.headers[key]}, {text}"
        self.headers[key] = text


def parse_head(data: bytes) -> Head:
    """The head in ``data``, which ends with its blank line. Raises :class:`BadRequest` (400, 501)."""
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # stands at the end of the head; what follows was kept back on purpose
    except httptools.HttpParserInvalidMethodError as error:
        raise BadRequest(501, "unknown HTTP method") from error
    except httptools.HttpParserError as error:
        raise BadRequest(400, f"malformed HTTP request: {error}") from error
    headers = collector.headers
    version = parser.get_http_version()
    if version not in ("1.1", "1.0"):
        raise BadRequest(505, f"HTTP version {version} is not supported")
    head = Head(
        method=parser.get_method().decode("ascii"),
        target=collector.target,
        version=version,
        headers=headers,
        keep_alive=_keep_alive(version, headers.get("connection", "")),
    )
    _body_framing(head)
    if "upgrade" in headers and "upgrade" in headers.get("connection", "").lower():
        head.upgrade = headers["upgrade"]
    head.expect_continue = version == "1.1" and headers.get("expect", "").lower() == "100-continue"
    return head


def _keep_alive(version: str, connection: str) -> bool:
    options = {option.strip().lower() for option in connection.split(",")}
    if version == "1.0":
        return "keep-alive" in options and "close" not in options
    return "close" not in options


def _body_framing(head: Head) -> None:
    """RFC 9112, section 6.3. Both framings at once, or an unknown coding, would let two parties see two different
    requests."""
    coding = head.headers.get("transfer-encoding")
    length = head.headers.get("content-length")
    if coding is not None:
        if length is not None:
            raise BadRequest(400, "a request cannot have both Transfer-Encoding and Content-Length")
        if coding.lower() != "chunked":
            raise BadRequest(501, f"transfer coding {coding!r} is not supported: only chunked is")
        head.chunked = True
    elif length is not None:
        if not (length.isascii() and length.isdigit() and len(length) <= 18):
            raise BadRequest(400, f"malformed Content-Length {length!r}")
        head.content_length = int(length)
