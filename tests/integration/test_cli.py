"""``hyper`` against a running engine: the host engine of ``tests/api`` (quick) and a real hyperd with VMs."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pty
import re
import secrets
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hyperd import Door, door

__all__ = ["door"]

HYPER = (sys.executable, "-c", "import sys; sys.argv[0] = 'hyper'; from hyper.cli.main import main; main()")
RUN = ("run", "--rm", "--network", "none")


def hyper(
    door: Door, *words: str, input: bytes | None = None, code: int = 0, timeout_s: float = 90
) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end; it must end with ``code``."""
    result = subprocess.run(
        [*HYPER, "-H", door.address, *words],
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    assert result.returncode == code, (words, result)
    return result


def out(door: Door, *words: str, **options: int) -> str:
    return hyper(door, *words, **options).stdout.decode().strip()


@pytest.fixture
def sleeper(door: Door) -> Iterator[str]:
    name = f"cli-{secrets.token_hex(4)}"
    script = "echo out; echo err >&2; exec sleep 1000"
    hyper(door, "run", "-d", "--name", name, "--network", "none", "-l", "a=1", "busybox", "sh", "-c", script)
    yield name
    hyper(door, "rm", "-f", name)


def test_run_separates_the_streams_and_ends_with_the_programs_code(door: Door) -> None:
    result = hyper(door, *RUN, "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", code=7)
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")


def test_stdin_reaches_the_program_and_ends(door: Door) -> None:
    data = os.urandom(3_000_000)
    result = hyper(door, *RUN, "-i", "busybox", "cat", input=data)
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["busybox", "/nowhere"], 127),
        (["busybox", "/"], 126),
        (["no-such-image"], 125),
        (["--network", "nowhere", "busybox"], 125),
        (["-m", "1", "busybox"], 125),
    ],
)
def test_what_cannot_be_started_has_dockers_exit_code_and_leaves_nothing(
    door: Door, words: list[str], code: int
) -> None:
    result = hyper(door, *RUN, *words, code=code)
    assert result.stderr.splitlines()[-1].startswith(b"hyper: ")
    assert out(door, "ps", "-aq") == ""


def test_a_missing_image_is_asked_for(door: Door) -> None:
    message = hyper(door, "run", "127.0.0.1:1/no-such-image", code=125).stderr.decode()
    assert message.startswith("Unable to find image '127.0.0.1:1/no-such-image:latest' locally\nhyper: ")
    assert "connection refused" in message


def test_lists_and_inspect_agree_with_what_was_run(door: Door, sleeper: str) -> None:
    container_id = out(door, "ps", "-q", "--no-trunc", "-f", f"name={sleeper}")
    assert (
        out(door, "inspect", "-f", "{{.Id}} {{.State.Status}} {{.Config.Labels.a}}", sleeper)
        == f"{container_id} running 1"
    )
    header, line = out(door, "ps", "-f", "label=a=1").splitlines()
    assert header.split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert line.startswith(container_id[:12] + "   busybox")
    assert line.endswith(sleeper)
    [found] = json.loads(out(door, "container", "inspect", sleeper))
    assert found["Name"] == f"/{sleeper}"
    assert "No such object: nothing" in hyper(door, "inspect", "nothing", code=1).stderr.decode()
    assert "busybox" in out(door, "images", "--format", "{{.Repository}}:{{.Tag}}")


def test_logs_go_where_they_were_printed(door: Door, sleeper: str) -> None:
    deadline = time.monotonic() + 20
    while (result := hyper(door, "logs", sleeper)).stdout != b"out\n" or result.stderr != b"err\n":
        assert time.monotonic() < deadline, result
    assert re.match(rb"\d{4}-\d\d-\d\dT[\d:.]+Z out\n$", hyper(door, "logs", "-t", "-n", "all", sleeper).stdout)


def test_exec_in_a_running_container(door: Door, sleeper: str) -> None:
    result = hyper(door, "exec", "-e", "A=b", "-w", "/", sleeper, "sh", "-c", "echo $A $PWD; exit 4", code=4)
    assert result.stdout == b"b /\n"
    assert hyper(door, "exec", "-i", sleeper, "cat", input=b"hello").stdout == b"hello"
    assert b"nowhere" in hyper(door, "exec", sleeper, "nowhere", code=127).stdout  # where docker has it, too


def test_life_of_a_container(door: Door, sleeper: str) -> None:
    assert out(door, "pause", sleeper) == sleeper
    assert "(Paused)" in out(door, "ps", "--format", "{{.Status}}", "-f", f"name={sleeper}")
    assert out(door, "unpause", sleeper) == sleeper
    assert b"running" in hyper(door, "rm", sleeper, code=1).stderr
    assert out(door, "kill", "-s", "KILL", sleeper) == sleeper
    assert out(door, "wait", sleeper) == "137"
    hyper(door, "rename", sleeper, f"{sleeper}-2")
    assert out(door, "start", f"{sleeper}-2") == f"{sleeper}-2"
    assert out(door, "stop", "-t", "0", f"{sleeper}-2") == f"{sleeper}-2"
    hyper(door, "rename", f"{sleeper}-2", sleeper)


def test_signals_go_to_the_process(door: Door) -> None:
    script = "trap 'echo caught; exit 3' TERM; echo ready; while true; do sleep 0.1; done"
    process = subprocess.Popen(
        [*HYPER, "-H", door.address, *RUN, "busybox", "sh", "-c", script], stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b"caught\n"
        assert process.wait(60) == 3


def test_version_and_info(door: Door) -> None:
    assert "API version:    1.50" in out(door, "version")
    assert out(door, "version", "-f", "{{.Server.ApiVersion}}") == "1.50"
    assert {"Guest kernel", "Template", "Pool"} <= {line.partition(":")[0] for line in out(door, "info").splitlines()}
    assert json.loads(out(door, "info", "--format", "json"))["data_root"]


class Screen:
    """A program on a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, {**os.environ, "TERM": "xterm"})
        self.seen = b""
        self.resize(24, 80)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, pattern: str) -> None:
        """Read on until what was not matched before matches."""
        deadline = time.monotonic() + 60
        while not (match := re.search(pattern.encode(), self.seen)):
            assert time.monotonic() < deadline, self.seen
            if select.select([self.fd], [], [], 0.5)[0]:
                with contextlib.suppress(OSError):  # the program has ended
                    self.seen += os.read(self.fd, 65536)
        self.seen = self.seen[match.end() :]

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def shell(door: Door) -> Iterator[Screen]:
    screen = Screen(*HYPER, "-H", door.address, *RUN, "-it", "busybox", "sh")
    screen.expect("# ")
    yield screen
    os.close(screen.fd)


def test_terminal_edits_lines_interrupts_and_resizes(shell: Screen) -> None:
    shell.type("echo abd\x7fc\n")
    shell.expect("\nabc\r")
    shell.resize(33, 101)
    shell.type("until stty size | grep 33; do sleep 0.1; done; cat\n")
    shell.expect("33 101\r\n")  # an echo may come between a line and its end
    shell.type("round\n")
    shell.expect("round\r\nround")  # the terminal's echo, then cat's own: it runs, and takes the signal
    shell.type("\x03")
    shell.expect("# ")
    shell.type("exit 5\n")
    assert shell.wait() == 5


def test_detach_keys_leave_it_running(door: Door, shell: Screen) -> None:
    shell.type("\x10\x11")
    assert shell.wait() == 0
    name = out(door, "ps", "-lq")
    again = Screen(*HYPER, "-H", door.address, "attach", name)
    again.type("echo still $((1+1))\n")
    again.expect("still 2")
    again.type("exit 6\n")
    assert again.wait() == 6
    os.close(again.fd)


@pytest.mark.vm
def test_hyperd_is_started_when_none_runs() -> None:
    with tempfile.TemporaryDirectory(prefix="hyper-start-") as folder:
        environment = {key: setting for key, setting in os.environ.items() if key not in ("HYPER_HOST", "DOCKER_HOST")}
        environment |= {"HYPER_EXEC_ROOT": f"{folder}/run", "HYPER_DATA_ROOT": f"{folder}/data"}
        try:
            result = subprocess.run(
                ["unshare", "--net", *HYPER, "version"], env=environment, capture_output=True, text=True, timeout=90
            )
            assert "Server: Hyper" in result.stdout, result
        finally:
            pid_file = Path(folder, "run", "hyperd.pid")
            if pid_file.exists():
                pid = int(pid_file.read_text())
                os.kill(pid, signal.SIGTERM)
                deadline = time.monotonic() + 60
                while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
                    time.sleep(0.05)
                assert not os.path.exists(f"/proc/{pid}")


TOLD = re.compile(rb"started in \d+\.\d ms[^\n]*\n(  .* \d+\.\d +\S.*\n)+")


def test_timings_are_told_whatever_becomes_of_the_container(door: Door) -> None:
    name = f"cli-{secrets.token_hex(4)}"
    result = hyper(door, *RUN, "--timings", "busybox", "sh", "-c", "echo out; exit 3", code=3)
    assert result.stdout == b"out\n"
    assert TOLD.fullmatch(result.stderr)
    assert b"; first output " in result.stderr
    assert b"\x1b" not in result.stderr
    result = hyper(door, "run", "-d", "--rm", "--timings", "--network", "none", "busybox", "true")
    assert re.fullmatch(rb"[0-9a-f]{64}\n", result.stdout)
    assert TOLD.fullmatch(result.stderr)
    hyper(door, "create", "--name", name, "--network", "none", "busybox", "sh", "-c", "echo out; sleep 0.5")
    assert TOLD.fullmatch(hyper(door, "start", "--timings", name).stderr)
    assert b"running already" in hyper(door, "start", "--timings", name).stderr
    hyper(door, "wait", name)
    assert TOLD.fullmatch(hyper(door, "start", "-a", "--timings", name).stderr)
    hyper(door, "rm", "-f", name)
    failed = hyper(door, *RUN, "--timings", "busybox", "/nowhere", code=127)
    assert b"started in" not in failed.stderr


def test_timings_on_a_terminal_have_colour_and_its_width(door: Door) -> None:
    screen = Screen(*HYPER, "-H", door.address, *RUN, "-it", "--timings", "busybox", "sh")
    screen.expect("# ")
    screen.resize(24, 60)
    screen.type("exit\n")
    screen.expect(r"started in \d+\.\d ms.*\r\n  .*\x1b\[36m")
    assert screen.wait() == 0
    os.close(screen.fd)


def test_update_changes_limits(door: Door, sleeper: str) -> None:
    assert out(door, "update", "--pids-limit", "9", "--cpus", "0.5", sleeper) == sleeper
    assert out(door, "inspect", "-f", "{{.HostConfig.PidsLimit}} {{.HostConfig.NanoCpus}}", sleeper) == "9 500000000"
    assert b"BlkioWeight" in hyper(door, "update", "--blkio-weight", "10", sleeper, code=1).stderr
    hyper(door, "update", sleeper, code=125)
