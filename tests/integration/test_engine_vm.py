"""The engine over real VMs: the ends that only a real guest, a real QEMU and the real docker CLI show."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hyperd import Hyperd, hyperd, needs_docker_cli

__all__ = ["hyperd"]

pytestmark = pytest.mark.vm

QUIET = ("--network", "none")


@pytest.fixture(autouse=True)
def cli() -> None:
    needs_docker_cli()


def state(daemon: Hyperd, name: str) -> dict[str, object]:
    answer = json.loads(daemon.door.out("inspect", "-f", "{{json .State}}", name))
    assert isinstance(answer, dict)
    return answer


@contextlib.contextmanager
def stopped_vmm(daemon: Hyperd) -> Iterator[None]:
    """The one VM does not run any more, but is not dead: nothing answers."""
    [pid] = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and f"hyper:{daemon.root_id}:".encode() in _command_line(entry)
    ]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _command_line(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def test_a_program_that_is_not_there_is_told_once(hyperd: Hyperd) -> None:
    result = hyperd.door.docker("run", "--rm", *QUIET, "busybox", "nosuch", check=False)
    assert result.returncode == 127
    assert b"executable file not found" in result.stderr
    assert b"Error waiting for container" not in result.stderr
    assert hyperd.door.out("ps", "-aq") == ""


def test_paused_containers_end_as_docker_ends_them(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker("run", "-d", "--name", name, *QUIET, "busybox", "sleep", "1000")
        door.docker("pause", name)
        door.docker("kill", name)
        assert (state(hyperd, name)["Status"], state(hyperd, name)["ExitCode"]) == ("exited", 137)
        door.docker("start", name)
        door.docker("pause", name)
        door.docker("rm", "-f", name)
        assert name not in door.out("ps", "-a", "--format", "{{.Names}}")


def test_what_an_exec_printed_as_its_container_ended_is_heard(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker("run", "-d", "--name", name, *QUIET, "busybox", "sh", "-c", "trap 'exit 3' TERM; sleep 1000 & wait")
        script = "seq 1 20000; kill -TERM 1; sleep 1000"
        result = door.docker("exec", name, "sh", "-c", script, check=False)
        assert result.stdout.split() == [b"%d" % number for number in range(1, 20001)]
        assert result.returncode == 137
        assert door.out("wait", name) == "3"


def test_a_client_killed_in_the_middle_ends_the_stdin_of_its_container(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        client = door.popen(
            "run", "-i", "--name", name, *QUIET, "busybox", "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert client.stdin is not None and client.stdout is not None
        client.stdin.write(b"through\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"through\n"
        client.kill()
        client.communicate()
        assert door.out("wait", name) == "0"


def test_a_vm_that_hangs_is_ended_by_kill_and_the_container_starts_again(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker("run", "-d", "--name", name, *QUIET, "busybox", "sleep", "1000")
        with stopped_vmm(hyperd):
            began_s = time.monotonic()
            door.docker("stop", "-t", "1", name, timeout_s=60)
            assert time.monotonic() - began_s < 30
        now = state(hyperd, name)
        assert now["Status"] == "exited" and "VM" in str(now["Error"])
        door.docker("start", name)
        assert state(hyperd, name)["Running"]


def test_two_forced_removals_and_a_start_at_once_leave_nothing(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker("create", "--name", name, *QUIET, "busybox", "sleep", "1000")
        start = door.popen("start", name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while start.poll() is None and not list((hyperd.exec_root / "vm").iterdir()):
            time.sleep(0.01)  # until its VM is coming up
        removals = [door.popen("rm", "-f", name, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
        for process in (start, *removals):
            process.communicate(timeout=60)
        assert name not in door.out("ps", "-a", "--format", "{{.Names}}")
        assert list((hyperd.exec_root / "vm").iterdir()) == []
