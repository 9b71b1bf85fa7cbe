"""A terminal or three pipes joined with a container's streams for as long as its process runs: run, start -a, attach
and exec share it.

Two directions, two threads, so that a reader that stalls does not hold up what is typed. A third carries out what
signals ask for (a
new window size, a signal for the process): a signal handler itself only takes a note.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from hyper.cli import terminal
from hyper.client.engine import Engine
from hyper.client.frames import STDERR, split_frames
from hyper.client.http import READ_BYTES, Connection
from hyper.errors import HyperError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    Handler = Callable[[int, FrameType | None], object] | int | None

NOT_PROXIED = frozenset(
    {signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, signal.SIGWINCH, signal.SIGKILL, signal.SIGSTOP}
    | {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT, signal.SIGSEGV, signal.SIGFPE, signal.SIGILL}
)


class Streams:
    """One session with a process's streams over a connection that was taken over."""

    def __init__(self, connection: Connection, *, tty: bool, stdin: bool, detach_keys: str = "") -> None:
        self._connection = connection
        self._tty = tty
        self._stdin = stdin
        keys = terminal.parse_detach_keys(detach_keys or terminal.DEFAULT_DETACH_KEYS) if tty and stdin else b""
        self._filter = terminal.DetachFilter(keys)
        self._raw = ExitStack()
        self.detached = False
        """The user typed the detach keys; the process goes on."""
        self.first_output_s: float | None = None
        """When the first of its output came (monotonic)."""

    def __enter__(self) -> Streams:
        if self._tty and self._stdin:
            self._raw.enter_context(terminal.raw(0))
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()
        self._connection.close()

    def pump(self) -> None:
        """Until the output ends or the user detaches."""
        if self._stdin:
            threading.Thread(target=self._send_stdin, daemon=True).start()
        pieces = self._pieces()
        if self._tty:
            for piece in pieces:
                write_all(1, memoryview(piece))
        else:
            for stream, part in split_frames(pieces):
                write_all(2 if stream >= STDERR else 1, part)

    def _pieces(self) -> Iterator[bytes]:
        while piece := self._connection.read_some(READ_BYTES):
            if self.first_output_s is None:
                self.first_output_s = time.monotonic()
            yield piece

    def _send_stdin(self) -> None:
        # Signals are the main thread's, whose reads they must interrupt.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        sock = self._connection.sock
        try:
            while typed := os.read(0, READ_BYTES):
                passed, detach = self._filter.feed(typed)
                if passed:
                    sock.sendall(passed)
                if detach:
                    self.detached = True
                    sock.shutdown(socket.SHUT_RDWR)
                    return
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            # The process closed its stdin or the engine the connection: the other direction tells the end.
            pass


def write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


class Errands:
    """Requests asked for by signal handlers, carried out by a thread with a connection of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = Engine(engine.address)
        self._queue: queue.SimpleQueue[Callable[[Engine], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def add(self, errand: Callable[[Engine], object]) -> None:
        self._queue.put(errand)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(2.0)
        self._engine.close()

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while errand := self._queue.get():
            try:
                errand(self._engine)
            except (HyperError, OSError):
                # The process may have ended meanwhile; nobody is there to be told about a window size.
                pass


@contextmanager
def watch_signals(
    errands: Errands, *, resize: Callable[[Engine], object] | None, kill: Callable[[Engine, int], object] | None
) -> Iterator[None]:
    """While the process runs: window changes call ``resize``; signals that would end us go to the process by
    ``kill``, or without
    ``kill`` end us with the terminal restored."""
    before: dict[int, Handler] = {}

    def set_handler(number: int, handler: Handler) -> None:
        before[number] = signal.signal(number, handler)

    def forward(number: int, _: object) -> None:
        assert kill is not None
        errands.add(lambda engine: kill(engine, number))

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    try:
        if resize is not None:
            set_handler(signal.SIGWINCH, lambda *_: errands.add(resize))
        if kill is not None:
            for proxied in signal.valid_signals():
                if proxied not in NOT_PROXIED and proxied < 32:
                    set_handler(int(proxied), forward)
        else:
            set_handler(signal.SIGTERM, leave)
            set_handler(signal.SIGHUP, leave)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
