"""Starts ``hyperd`` when none runs on the default socket, so that ``hyper run`` is all that a new user types.

Several commands may come at once: whoever takes the lock starts it, the others wait for the lock and find it running.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable

from hyper.client.address import Address
from hyper.client.http import Connection
from hyper.errors import FailedPrecondition, HyperError, PermissionDenied, Unavailable

START_TIMEOUT_S = 60.0
SAY_AFTER_S = 1.0
POLL_S = 0.01
ANSWER_TIMEOUT_S = 0.5


def start_daemon(address: Address, *, program: str | None = None, say: Callable[[str], None]) -> None:
    """Return when a daemon answers at ``address``. Raises Unavailable with the end of its log when it fails to."""
    program = program or find_program()
    folder = os.path.dirname(address.path)
    log_path = os.path.join(folder, "hyperd.log")
    try:
        os.makedirs(folder, mode=0o755, exist_ok=True)
        lock = os.open(os.path.join(folder, "start.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PermissionDenied(
            f"no hyperd runs, and {folder} cannot be written to start one ({error.strerror}): start hyperd as root"
        ) from error
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        talk = _Talk(say)
        _take(lock, deadline, talk)
        if _answers(address):
            return
        log_start = os.stat(log_path).st_size if os.path.exists(log_path) else 0
        pid = _spawn(program, log_path)
        while not _answers(address):
            talk.waited("starting hyperd")
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                raise Unavailable(_failure(f"hyperd ended with code {code} while it started", log_path, log_start))
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGTERM)
                raise Unavailable(
                    _failure(f"hyperd did not answer within {START_TIMEOUT_S:.0f} s", log_path, log_start)
                )
            time.sleep(POLL_S)
    finally:
        os.close(lock)


def find_program() -> str:
    """``hyperd`` beside the running ``hyper``, else the one on PATH."""
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "hyperd")
    if os.access(beside, os.X_OK):
        return beside
    beside = os.path.join(os.path.dirname(sys.executable), "hyperd")
    if os.access(beside, os.X_OK):
        return beside
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        candidate = os.path.join(folder, "hyperd")
        if folder and os.access(candidate, os.X_OK):
            return candidate
    raise FailedPrecondition("no hyperd runs, and the program is not installed beside hyper: run `make setup`")


class _Talk:
    """Says what is being waited for, once, and only when it takes longer than a person would overlook."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._since = time.monotonic()
        self._said = False

    def waited(self, what: str) -> None:
        if not self._said and time.monotonic() - self._since > SAY_AFTER_S:
            self._said = True
            self._say(f"{what} …")


def _take(lock: int, deadline: float, talk: _Talk) -> None:
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            talk.waited("waiting for hyperd, which another command is starting")
            if time.monotonic() > deadline:
                raise Unavailable("another command has been starting hyperd for too long; see hyperd.log") from None
            time.sleep(POLL_S)


def _answers(address: Address) -> bool:
    """A daemon listens before it can answer; so there is a limit to waiting for the answer, too."""
    try:
        sock = address.connect()
    except HyperError:
        return False
    with sock:
        sock.settimeout(ANSWER_TIMEOUT_S)
        connection = Connection(sock)
        try:
            connection.send("GET", "/_ping", headers={})
            return connection.response().status == 200
        except (HyperError, OSError):
            return False


def _spawn(program: str, log_path: str) -> int:
    """In a session of its own, so that this terminal's ctrl-C and hang-up are not its."""
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        program,
        [program],  # no -H: daemon.json may say where it listens, and both would be refused
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log_path, append, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGPIPE, signal.SIGTERM),
    )


def _failure(what: str, log_path: str, log_start: int) -> str:
    try:
        with open(log_path, "rb") as log:
            log.seek(max(log_start, log.seek(0, os.SEEK_END) - 2000))
            tail = log.read().decode("utf-8", "replace").strip()
    except OSError:
        tail = ""
    lines = "".join(f"\n    {line}" for line in tail.splitlines()[-10:])
    return f"{what}; its log is {log_path}" + (f" and ends:{lines}" if lines else ", and is empty")
