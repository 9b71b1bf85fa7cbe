from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.client.scripted_server import serving

from hyper.client.address import parse_address
from hyper.client.engine import Engine, encode_query, path_part
from hyper.errors import Conflict, DataLoss, FailedPrecondition, HyperError, Internal, NotFound, Unsupported


def answer(status: int, body: str, *, more: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{more}\r\n{body}".encode()


def ask(tmp_path: Path, said: bytes) -> object:
    with serving(tmp_path, said) as server:
        engine = Engine(parse_address(f"unix://{server.path}"))
        try:
            return engine.json("GET", "/x")
        finally:
            engine.close()


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (answer(404, '{"message":"No such container: x"}'), NotFound, "^No such container: x$"),
        (answer(409, '{"message":"in use"}'), Conflict, "^in use$"),
        (answer(501, '{"message":"later"}'), Unsupported, "^later$"),
        (answer(500, "plain text"), Internal, "^plain text$"),
        (answer(418, ""), HyperError, "HTTP status 418"),
        (answer(200, "<html>"), DataLoss, "no valid JSON"),
    ],
)
def test_statuses_become_kinds_with_the_engines_own_message(
    tmp_path: Path, said: bytes, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        ask(tmp_path, said)


def test_empty_answer_is_none(tmp_path: Path) -> None:
    assert ask(tmp_path, b"HTTP/1.1 204 No Content\r\n\r\n") is None


def test_error_inside_of_a_message_stream_is_raised_after_what_came_before(tmp_path: Path) -> None:
    lines = '{"status":"one"}\r\n{"errorDetail":{"message":"bad"},"error":"bad"}\r\n'
    with serving(tmp_path, answer(200, lines)) as server:
        engine = Engine(parse_address(f"unix://{server.path}"))
        messages = engine.messages("POST", "/load", content=iter([b"tar"]))
        assert next(messages) == {"status": "one"}
        with pytest.raises(FailedPrecondition, match="bad"):
            next(messages)
        assert b"\r\n\r\n3\r\ntar\r\n0\r\n\r\n" in server.requests[0]


def test_engine_is_started_once_when_nobody_listens(tmp_path: Path) -> None:
    address = parse_address(f"unix://{tmp_path}/s.sock")
    started = []
    engine = Engine(address, start=lambda where: started.append(where.url))
    for _ in range(2):
        with pytest.raises(HyperError, match="no engine answers"):
            engine.json("GET", "/x")
    assert started == [address.url]


def test_queries_and_names_are_encoded() -> None:
    assert encode_query({"a": True, "b": None, "c": "x y&ü", "d": 3}) == "?a=1&c=x%20y%26%C3%BC&d=3"
    assert encode_query([("changes", "CMD x"), ("changes", "ENV y")]) == "?changes=CMD%20x&changes=ENV%20y"
    assert encode_query(None) == ""
    assert path_part("docker.io/library/busybox:1@sha256:ab") == "docker.io/library/busybox:1@sha256:ab"
    assert path_part("a?b#c d") == "a%3Fb%23c%20d"
