from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyper.client.http import MAX_HEADER_BYTES, Connection, Response
from hyper.errors import DataLoss, Unavailable


def respond(*pieces: bytes) -> Response:
    """What a client makes of these bytes followed by the connection's end."""
    ours, theirs = socket.socketpair()
    with theirs:
        for piece in pieces:
            theirs.sendall(piece)
    return Connection(ours).response()


def test_body_of_a_counted_length_is_read_and_the_connection_can_be_used_again() -> None:
    response = respond(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-One:  two \r\n\r\nhelloHTTP/1.1 204 No Content\r\n\r\n"
    )
    assert (response.status, response.headers["x-one"], response.read(100)) == (200, "two", b"hello")
    assert response.complete
    following = response.connection.response()
    assert (following.status, following.read(100), following.complete) == (204, b"", True)
    response.connection.close()


def test_chunks_with_extensions_and_trailers_are_put_together() -> None:
    response = respond(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;a=b\r\nWiki\r\n5\r\npedia\r\n0\r\nTrailer: x\r\n\r\n"
    )
    assert response.read(100) == b"Wikipedia"
    assert response.complete
    response.connection.close()


def test_body_without_a_length_ends_with_the_connection() -> None:
    response = respond(b"HTTP/1.0 200 OK\r\n\r\nall of it")
    assert response.read(100) == b"all of it"
    assert not response.complete
    response.connection.close()


def test_interim_responses_are_passed_over() -> None:
    response = respond(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
    assert response.status == 201
    response.connection.close()


def test_bytes_behind_an_upgrade_belong_to_whoever_took_the_connection_over() -> None:
    response = respond(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nearly bytes")
    assert response.status == 101
    assert response.connection.read_some(5) == b"early"
    assert response.connection.read_some() == b" bytes"
    assert response.connection.read_some() == b""
    response.connection.close()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"", Unavailable),
        (b"HTTP/1.1 200 OK\r\nContent-Le", Unavailable),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", DataLoss),
        (b"HTTP/1.1 ok\r\n\r\n", DataLoss),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", DataLoss),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", DataLoss),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", DataLoss),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", DataLoss),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhellothere\r\n", DataLoss),
    ],
)
def test_broken_answer_is_a_clear_error(said: bytes, kind: type[Exception]) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(said)
    with ours, pytest.raises(kind):
        Connection(ours).response().read(100)


@pytest.mark.parametrize("headers", [b"A" * (MAX_HEADER_BYTES + 300_000), b"A: b\r\n" * MAX_HEADER_BYTES])
def test_headers_without_an_end_are_given_up(headers: bytes) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours, theirs:
        connection = Connection(ours)
        connection.sock = _Feeding(ours, theirs, b"HTTP/1.1 200 OK\r\n" + headers)  # type: ignore[assignment]
        with pytest.raises(DataLoss):
            connection.response()


class _Feeding:
    """A socket whose peer sends on demand, so that more can come than socket buffers hold."""

    def __init__(self, ours: socket.socket, theirs: socket.socket, data: bytes) -> None:
        self._ours, self._theirs, self._data = ours, theirs, data

    def recv(self, size: int) -> bytes:
        sent = self._theirs.send(self._data[:32768])
        self._data = self._data[sent:]
        return self._ours.recv(size)


def test_answer_longer_than_the_reader_allows_is_refused() -> None:
    response = respond(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n" + b"x" * 50)
    with pytest.raises(DataLoss, match="longer than 49 bytes"):
        response.read(49)
    response.connection.close()


def test_request_says_what_it_carries() -> None:
    sent = [
        sent_by(lambda connection: connection.send("GET", "/a?b=c", headers={})),
        sent_by(lambda connection: connection.send("POST", "/a", headers={})),
        sent_by(lambda connection: connection.send("POST", "/a", headers={"X": "y"}, body=b"123")),
        sent_by(lambda connection: connection.send("POST", "/a", headers={}, body=iter([b"12", b"", b"3" * 20]))),
    ]
    assert sent == [
        b"GET /a?b=c HTTP/1.1\r\nHost: hyper\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: hyper\r\nContent-Length: 0\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: hyper\r\nX: y\r\nContent-Length: 3\r\n\r\n123",
        b"POST /a HTTP/1.1\r\nHost: hyper\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n12\r\n14\r\n"
        + b"3" * 20
        + b"\r\n0\r\n\r\n",
    ]


def sent_by(act: Callable[[Connection], None]) -> bytes:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            act(Connection(ours))
        return theirs.recv(65536)


def test_refusal_that_comes_before_the_upload_has_ended_is_read() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        theirs.close()
        connection = Connection(ours)
        connection.send("POST", "/a", headers={}, body=iter([b"x" * 65536] * 100))
        assert connection.response().status == 413


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.integers(1, 17))
def test_lines_come_out_as_they_went_in_however_the_chunks_are_cut(lines: list[bytes], cut: int) -> None:
    lines = [line.replace(b"\n", b"-") for line in lines if line.strip()]
    body = b"".join(line + b"\n" for line in lines)
    chunks = [body[at : at + cut] for at in range(0, len(body), cut)]
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    response = respond(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + encoded)
    assert list(response.lines()) == lines
    response.connection.close()
