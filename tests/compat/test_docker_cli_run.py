"""``docker run`` with the real CLI: output, input, exit codes."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.hyperd import Door, needs_docker_cli

pytestmark = pytest.mark.usefixtures("cli")


@pytest.fixture(scope="module")
def cli() -> None:
    needs_docker_cli()


def test_output_and_errors_arrive_on_their_own_streams(door: Door) -> None:
    result = door.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "sh -c 'kill -9 $$'; exit $?"), 137),
        (("nosuch",), 127),
        (("/etc/passwd",), 126),
    ],
)
def test_the_exit_code_is_dockers(door: Door, command: tuple[str, ...], code: int) -> None:
    assert door.docker("run", "--rm", "busybox", *command, check=False).returncode == code


@pytest.mark.parametrize(
    "arguments",
    [
        ("nosuchimage", "true"),
        ("-v", "/:/x:rshared", "busybox", "true"),
        ("--memory", "1m", "busybox", "true"),
        ("--name", "-x", "busybox"),
    ],
)
def test_what_the_engine_refuses_is_125(door: Door, arguments: tuple[str, ...]) -> None:
    result = door.docker("run", "--rm", *arguments, check=False)
    assert result.returncode == 125
    assert result.stderr


def test_200_mb_through_stdin_and_stdout_are_the_same(door: Door, tmp_path: Path) -> None:
    size = 200 << 20 if door.kind == "host" or os.environ.get("HYPER_TEST_FULL") else 32 << 20
    data = tmp_path / "data"
    with data.open("wb") as file:
        for _ in range(size >> 20):
            file.write(secrets.token_bytes(1 << 20))
    with data.open("rb") as source, (tmp_path / "back").open("wb") as sink:
        subprocess.run(
            ["docker", "run", "--rm", "-i", "busybox", "cat"],
            stdin=source,
            stdout=sink,
            env=door.environment,
            check=True,
            timeout=110,
        )
    assert subprocess.run(["cmp", str(data), str(tmp_path / "back")], check=False).returncode == 0


def test_without_i_stdin_is_empty(door: Door) -> None:
    assert door.docker("run", "--rm", "busybox", "cat", input=b"ignored").stdout == b""


def test_the_process_sees_the_end_of_stdin_and_its_last_words_arrive(door: Door) -> None:
    result = door.docker("run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo end", input=b"one\n")
    assert result.stdout == b"one\nend\n"


def test_a_process_that_ends_before_its_input_does_not_hang_the_client(door: Door) -> None:
    with door.popen(
        "run", "--rm", "-i", "busybox", "true", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.wait(60) == 0


def test_environment_directory_and_entrypoint(door: Door) -> None:
    out = door.out("run", "--rm", "-e", "A=b c", "-w", "/tmp", "--entrypoint", "sh", "busybox", "-c", 'echo "$A $PWD"')
    assert out == "b c /tmp"


def test_an_environment_file_and_variables_of_the_client(door: Door, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("X=1\nY=two words\n")
    out = door.out(
        "run",
        "--rm",
        "--env-file",
        str(tmp_path / "env"),
        "-e",
        "Z",
        "busybox",
        "sh",
        "-c",
        'echo "$X $Y $Z"',
        environment={"Z": "3"},
    )
    assert out == "1 two words 3"


def test_five_at_once_lose_nothing(door: Door) -> None:
    lines = 200_000 if door.kind == "host" else 40_000

    def one(number: int) -> bytes:
        return door.docker("run", "--rm", "busybox", "seq", str(number), str(number + lines), timeout_s=110).stdout

    with ThreadPoolExecutor(5) as pool:
        for number, output in enumerate(pool.map(one, range(5))):
            assert output == b"".join(b"%d\n" % value for value in range(number, number + lines + 1))


def test_rm_removes_and_a_detached_container_prints_its_id(door: Door) -> None:
    with door.name() as name:
        identifier = door.out("run", "-d", "--rm", "--name", name, "busybox", "sleep", "60")
        assert len(identifier) == 64
        assert door.out("ps", "-q", "--no-trunc", "--filter", f"name=^/{name}$") == identifier
        door.docker("kill", name)
        door.docker("wait", name, check=False)
        assert door.out("ps", "-aq", "--filter", f"name=^/{name}$") == ""


def test_signals_of_the_client_reach_the_process(door: Door) -> None:
    with door.name() as name:
        script = 'trap "echo got it; exit 5" TERM; echo ready; while :; do sleep 0.05; done'
        with door.popen("run", "--name", name, "busybox", "sh", "-c", script, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.read() == b"got it\n"
            assert process.wait(60) == 5


def test_a_cidfile_holds_the_id(door: Door, tmp_path: Path) -> None:
    with door.name() as name:
        door.docker("run", "--name", name, "--cidfile", str(tmp_path / "cid"), "busybox", "true")
        assert (tmp_path / "cid").read_text() == door.out("inspect", "-f", "{{.Id}}", name)


def test_a_stalled_client_does_not_hold_up_another_container(door: Door) -> None:
    with (
        door.name() as stalled,
        door.name() as other,
        door.popen("run", "--name", stalled, "busybox", "yes", stdout=subprocess.PIPE) as blocked,
    ):
        assert blocked.stdout is not None
        blocked.stdout.read(10)  # it runs; from here on nobody reads
        assert door.out("run", "--name", other, "busybox", "echo", "free") == "free"
        assert door.out("logs", other) == "free"
        killer = threading.Thread(target=lambda: door.docker("rm", "-f", stalled))
        killer.start()
        while blocked.stdout.read(1 << 20):
            pass
        killer.join()
