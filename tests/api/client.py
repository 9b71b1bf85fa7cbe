"""A small HTTP client over a Unix socket whose every answer is validated against the API file."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.api import schema


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """An error's."""
        text = self.json["message"]
        assert isinstance(text, str)
        return text


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def request(
    path: Path,
    method: str,
    target: str,
    body: object = None,
    *,
    raw: bytes | Iterable[bytes] | None = None,
    headers: dict[str, str] | None = None,
    validate: bool = True,
    timeout_s: float = 60,
) -> Answer:
    """``body`` is sent as JSON, ``raw`` as it is (an iterable: chunked)."""
    connection = UnixConnection(path, timeout_s)
    try:
        sent = dict(headers or {})
        data: Any = raw
        if body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        connection.request(method, target, body=data, headers=sent, encode_chunked=not isinstance(data, bytes | None))
        response = connection.getresponse()
        answer = Answer(
            response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        )
    finally:
        connection.close()
    if validate and not target.startswith("/hyper/"):
        schema.check_response(method, target, answer.status, answer.body, answer.headers.get("content-type", ""))
    return answer
