from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyper.client import autostart
from hyper.client.address import Address
from hyper.client.engine import Engine
from hyper.errors import Unavailable

PROGRAM = """#!{python}
import os, signal, socket, sys
folder = {folder!r}
with open(folder + "/started", "a") as file:
    file.write(f"{{os.getpid()}} {{os.getsid(0)}}\\n")
print("a word for the log", flush=True)
{before}
listener = socket.socket(socket.AF_UNIX)
listener.bind(folder + "/hyper.sock")
listener.listen()
while True:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nOK")
"""


class Daemon:
    """A program that answers pings on a socket, and can be told to fail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = Address(f"unix://{folder}/hyper.sock", path=f"{folder}/hyper.sock", chosen=False)

    def write(self, before: str = "") -> str:
        program = self.folder / "daemon"
        program.write_text(PROGRAM.format(python=sys.executable, folder=str(self.folder), before=before))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return str(program)

    def starts(self) -> list[tuple[int, int]]:
        started = self.folder / "started"
        lines = started.read_text().splitlines() if started.exists() else []
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    yield daemon
    for pid, _ in daemon.starts():
        try:
            os.kill(pid, 15)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def test_daemon_is_started_in_a_session_of_its_own_and_answers(daemon: Daemon) -> None:
    autostart.start_daemon(daemon.address, program=daemon.write(), say=print)
    response = Engine(daemon.address).request("GET", "/_ping")
    assert response.read(10) == b"OK"
    response.connection.close()
    [(pid, session)] = daemon.starts()
    assert session == pid
    assert (daemon.folder / "hyperd.log").read_text() == "a word for the log\n"


def test_many_commands_at_once_start_one_daemon(daemon: Daemon) -> None:
    program = daemon.write()
    threads = [
        threading.Thread(target=lambda: autostart.start_daemon(daemon.address, program=program, say=print))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(daemon.starts()) == 1


def test_daemon_that_ends_at_once_is_reported_with_its_last_words(daemon: Daemon) -> None:
    (daemon.folder / "hyperd.log").write_text("old line\n")
    program = daemon.write("sys.exit('no space left')")
    with pytest.raises(Unavailable) as failure:
        autostart.start_daemon(daemon.address, program=program, say=print)
    assert "ended with code 1" in failure.value.message
    assert "no space left" in failure.value.message
    assert "old line" not in failure.value.message


def test_daemon_that_never_answers_is_ended_at_the_deadline(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autostart, "START_TIMEOUT_S", 0.5)
    monkeypatch.setattr(autostart, "SAY_AFTER_S", 0.1)
    said: list[str] = []
    with pytest.raises(Unavailable, match="did not answer"):
        autostart.start_daemon(daemon.address, program=daemon.write("signal.pause()"), say=said.append)
    assert said == ["starting hyperd …"]
    [(pid, _)] = daemon.starts()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -15
