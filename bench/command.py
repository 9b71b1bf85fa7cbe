"""One command of a client, timed from before its process is made to after its end, with the CPU time that it used.

Nothing but the command lies between the two clocks: no shell, no wrapper, its output goes to memory. Neighbours:
``engine.py`` (what there is to run), ``room.py`` (threads whose commands live in other namespaces).
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TIMEOUT_S = 120.0


class CommandFailed(Exception):
    """It ended with another status than 0, or not in time; the message has the command and what it printed."""


@dataclass(frozen=True)
class Timed:
    """One command's life. ``cpu_s``: its own CPU time and that of the children it waited for."""

    seconds: float
    cpu_s: float
    status: int
    output: str
    errors: str


def timed(argv: Sequence[str], environment: Mapping[str, str], *, timeout_s: float = TIMEOUT_S) -> Timed:
    """Run it to its end in the calling thread's namespaces. CommandFailed when it does not end in time."""
    program = shutil.which(argv[0], path=environment.get("PATH"))
    if program is None:
        raise CommandFailed(f"{argv[0]} is not on PATH")
    output, errors = os.memfd_create("stdout"), os.memfd_create("stderr")
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, errors, 2),
        ]
        began = time.monotonic()
        pid = os.posix_spawn(program, list(argv), dict(environment), file_actions=actions)
        in_time = _wait(pid, timeout_s)
        seconds = time.monotonic() - began
        _, status, usage = os.wait4(pid, 0)
        result = Timed(
            seconds,
            usage.ru_utime + usage.ru_stime,
            os.waitstatus_to_exitcode(status),
            _content(output),
            _content(errors),
        )
    finally:
        os.close(output)
        os.close(errors)
    if not in_time:
        raise CommandFailed(f"{' '.join(argv)} did not end within {timeout_s:.0f} s\n{result.errors}")
    return result


def succeeded(result: Timed, argv: Sequence[str]) -> Timed:
    """The same result; CommandFailed for a status that is not 0."""
    if result.status != 0:
        raise CommandFailed(f"{' '.join(argv)} ended with status {result.status}: {result.errors or result.output}")
    return result


def said(argv: Sequence[str]) -> str:
    """What an ordinary command prints; "" when there is no such program."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    except OSError:
        return ""


def _wait(pid: int, timeout_s: float) -> bool:
    """Until the process has ended (it stays to be waited for). Killed and False when that takes too long."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if poll.poll(timeout_s * 1000):
            return True
        os.kill(pid, signal.SIGKILL)
        return False
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    chunks = []
    while chunk := os.read(descriptor, 1 << 20):
        chunks.append(chunk)
    return b"".join(chunks).decode(errors="replace")
