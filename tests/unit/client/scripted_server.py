"""A real unix socket whose other end says exactly the bytes that a test wrote down, and keeps what it was sent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class ScriptedServer:
    def __init__(self, path: Path, answers: Sequence[bytes]) -> None:
        self.path = path
        self.requests: list[bytes] = []
        self._answers = list(answers)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        """Each answer goes to one connection, after a whole request (headers and a counted or chunked body) has
        come."""
        for answer in self._answers:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                request = b""
                while not _complete(request):
                    piece = connection.recv(65536)
                    if not piece:
                        break
                    request += piece
                self.requests.append(request)
                try:
                    connection.sendall(answer)
                except BrokenPipeError:
                    pass

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        # shutdown wakes the accept that close alone would leave waiting
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _complete(request: bytes) -> bool:
    head, separator, body = request.partition(b"\r\n\r\n")
    if not separator:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
        if line == b"transfer-encoding: chunked":
            return body.endswith(b"0\r\n\r\n")
    return True


@contextmanager
def serving(folder: Path, *answers: bytes) -> Iterator[ScriptedServer]:
    server = ScriptedServer(folder / "s.sock", answers)
    server.start()
    try:
        yield server
    finally:
        server.stop()
