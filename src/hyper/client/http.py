"""HTTP/1.1 on one connection: send a request, read the response in bounded pieces, or take the connection over.

Written by hand because http.client costs 20 ms to import and reads ahead of an upgrade into a buffer that it does
not give away.
Everything the server says is bounded: headers by :data:`MAX_HEADER_BYTES`, bodies by who reads them.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping

from hyper.errors import DataLoss, Unavailable

MAX_HEADER_BYTES = 64 * 1024
READ_BYTES = 256 * 1024


class Connection:
    """One connection and the bytes that were read ahead from it. One request at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""

    def close(self) -> None:
        self.sock.close()

    # ---------------------------------------------------------------------------------------------------------- sending

    def send(
        self, method: str, target: str, *, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None = None
    ) -> None:
        """Send a request. A body that is no bytes object is sent in chunks as it comes; if the server answers before
        it has all (a
        refusal) the rest is not sent: read the response."""
        lines = [f"{method} {target} HTTP/1.1", "Host: hyper"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if isinstance(body, bytes):
            lines.append(f"Content-Length: {len(body)}")
        elif body is not None:
            lines.append("Transfer-Encoding: chunked")
        elif method == "POST":
            lines.append("Content-Length: 0")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        try:
            if body is None or isinstance(body, bytes):
                self.sock.sendall(head + (body or b""))
                return
            self.sock.sendall(head)
            for piece in body:
                if piece:
                    self.sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.sock.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            # The server closed its side early; what it had to say may still be readable.
            pass

    # -------------------------------------------------------------------------------------------------------- receiving

    def read_some(self, size: int = READ_BYTES) -> bytes:
        """Up to ``size`` bytes, what was read ahead first; empty at the end."""
        if self._buffer:
            piece, self._buffer = self._buffer[:size], self._buffer[size:]
            return piece
        try:
            return self.sock.recv(size)
        except ConnectionResetError:
            return b""

    def read_line(self) -> bytes:
        """A line without its line end."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_HEADER_BYTES:
                raise DataLoss("the engine sent a header line without an end; is that address really an engine?")
            self._fill()
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return line.rstrip(b"\r")

    def _fill(self) -> None:
        try:
            more = self.sock.recv(READ_BYTES)
        except ConnectionResetError:
            more = b""
        if not more:
            raise Unavailable("the engine closed the connection without an answer; its log says why")
        self._buffer += more

    def response(self) -> Response:
        """The next response's status and headers; its body is read from it."""
        while True:
            parts = self.read_line().split(b" ", 2)
            if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
                raise DataLoss("what answers at this address does not speak HTTP; is it really an engine?")
            status, headers, taken = int(parts[1]), {}, 0
            while line := self.read_line():
                taken += len(line)
                if taken > MAX_HEADER_BYTES:
                    raise DataLoss("the engine sent too many headers; is that address really an engine?")
                name, _, value = line.partition(b":")
                headers[name.strip().lower().decode("latin-1")] = value.strip().decode("latin-1")
            if status >= 200 or status == 101:
                return Response(self, status, headers)


class Response:
    """A response whose body has not been read yet. Closing it closes the connection."""

    def __init__(self, connection: Connection, status: int, headers: dict[str, str]) -> None:
        self.connection = connection
        self.status = status
        self.headers = headers
        self.complete = False
        """The whole body was read, so that the connection can carry another request."""

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes. Raises DataLoss when the connection ends too soon."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            yield from self._chunks()
        elif "content-length" in self.headers:
            yield from self._counted(self._number(self.headers["content-length"], 10))
        elif self.status not in (204, 304):
            while piece := self.connection.read_some():
                yield piece
            return  # ended by the connection's end: not reusable
        self.complete = self.headers.get("connection", "").lower() != "close"

    def _chunks(self) -> Iterator[bytes]:
        while True:
            line = self.connection.read_line().partition(b";")[0].strip()
            size = self._number(line.decode("latin-1"), 16)
            if size == 0:
                while self.connection.read_line():
                    pass  # trailers
                return
            yield from self._counted(size)
            if self.connection.read_line():
                raise DataLoss("the engine's answer is damaged: a chunk is longer than it says")

    def _counted(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self.connection.read_some(min(size, READ_BYTES))
            if not piece:
                raise DataLoss("the connection to the engine ended in the middle of an answer")
            size -= len(piece)
            yield piece

    @staticmethod
    def _number(text: str, base: int) -> int:
        try:
            number = int(text, base)
        except ValueError:
            number = -1
        if number < 0:
            raise DataLoss("the engine's answer is damaged: it gives no length for its content")
        return number

    def read(self, limit_bytes: int) -> bytes:
        """The whole body, at most ``limit_bytes`` of it (DataLoss beyond)."""
        parts, total = [], 0
        for piece in self.pieces():
            total += len(piece)
            if total > limit_bytes:
                raise DataLoss(f"the engine's answer is longer than {limit_bytes} bytes")
            parts.append(piece)
        return b"".join(parts)

    def lines(self) -> Iterator[bytes]:
        """The body line by line, as it comes; empty lines are left out."""
        rest = b""
        for piece in self.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line for line in lines if line.strip())
        if rest.strip():
            yield rest
