"""create, start, attach, wait, logs, exec, kill, stop, restart, pause, rm, ps, inspect, rename with the real CLI."""

from __future__ import annotations

import json
import subprocess
import time
from datetime import UTC, datetime

import pytest
from tests.hyperd import Door, needs_docker_cli

pytestmark = pytest.mark.usefixtures("cli")


@pytest.fixture(scope="module")
def cli() -> None:
    needs_docker_cli()


def status(door: Door, name: str) -> str:
    return door.out("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name)


def test_create_start_wait_logs_rm(door: Door) -> None:
    with door.name() as name:
        door.docker("create", "--name", name, "busybox", "sh", "-c", "echo hi; exit 3")
        assert status(door, name) == "created 0"
        door.docker("start", name)
        assert door.out("wait", name) == "3"
        assert status(door, name) == "exited 3"
        assert door.out("logs", name) == "hi"
        door.docker("rm", name)
        assert door.docker("inspect", name, check=False).returncode == 1


def test_start_attached_gives_output_and_exit_code(door: Door) -> None:
    with door.name() as name:
        door.docker("create", "--name", name, "-i", "busybox", "sh", "-c", "cat; exit 4")
        result = door.docker("start", "-a", "-i", name, input=b"through\n", check=False)
        assert (result.stdout, result.returncode) == (b"through\n", 4)


def test_attach_later_sees_what_comes_and_the_exit_code(door: Door) -> None:
    with door.name() as name:
        door.docker("run", "-d", "-i", "--name", name, "busybox", "sh", "-c", "read line; echo $line; exit 6")
        result = door.docker("attach", name, input=b"typed\n", check=False)
        assert (result.stdout, result.returncode) == (b"typed\n", 6)


def test_logs_follow_until_the_end(door: Door) -> None:
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done")
        assert door.out("logs", "-f", name).split() == ["1", "2", "3"]


def test_logs_by_tail_time_and_stream(door: Door) -> None:
    with door.name() as name:
        script = "echo one; sleep 1.1; echo two; echo bad >&2; sleep 0.1"
        door.docker("run", "--name", name, "busybox", "sh", "-c", script)
        assert door.out("logs", "--tail", "1", name) in ("two", "")
        stamped = door.docker("logs", "-t", name)
        lines = stamped.stdout.decode().splitlines()
        assert [line.split(" ", 1)[1] for line in lines] == ["one", "two"]
        moment = datetime.fromisoformat(lines[0].split(" ")[0][:26] + "+00:00")
        assert abs((datetime.now(UTC) - moment).total_seconds()) < 60
        assert stamped.stderr.decode().split(" ", 1)[1] == "bad\n"
        second = lines[1].split(" ")[0]
        assert door.out("logs", "--since", second, name) == "two"
        assert door.out("logs", "--until", lines[0].split(" ")[0], name) in ("one", "")


def test_exec_output_input_environment_and_codes(door: Door) -> None:
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "-e", "A=outer", "busybox", "sleep", "60")
        result = door.docker("exec", name, "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
        assert (result.stdout, result.stderr, result.returncode) == (b"out\n", b"err\n", 3)
        assert door.docker("exec", "-i", name, "cat", input=b"x" * 300_000).stdout == b"x" * 300_000
        assert (
            door.out("exec", "-e", "B=inner", "-w", "/tmp", name, "sh", "-c", 'echo "$A $B $PWD"') == "outer inner /tmp"
        )
        assert door.docker("exec", name, "nosuch", check=False).returncode == 127
        assert door.docker("exec", name, "/etc/passwd", check=False).returncode == 126
        assert door.docker("exec", "-d", name, "true").stdout == b""


def test_exec_needs_a_running_container(door: Door) -> None:
    with door.name() as name:
        door.docker("create", "--name", name, "busybox", "true")
        result = door.docker("exec", name, "true", check=False)
        assert result.returncode == 1
        assert b"is not running" in result.stderr


def test_stop_kill_and_restart(door: Door) -> None:
    with door.name() as name:
        script = 'trap "exit 9" TERM; echo up; while :; do sleep 0.05; done'
        door.docker("run", "-d", "--name", name, "busybox", "sh", "-c", script)
        while door.out("logs", name) != "up":
            pass
        door.docker("stop", name)
        assert status(door, name) == "exited 9"
        door.docker("start", name)
        assert status(door, name) == "running 0"
        door.docker("kill", "-s", "KILL", name)
        assert status(door, name) == "exited 137"
        door.docker("restart", "-t", "1", name)
        assert status(door, name) == "running 0"
        assert door.docker("kill", "-s", "NONSENSE", name, check=False).returncode == 1
        assert status(door, name) == "running 0"


def test_stop_waits_and_then_kills(door: Door) -> None:
    with door.name() as name:
        door.docker(
            "run", "-d", "--name", name, "busybox", "sh", "-c", 'trap "" TERM; echo up; while :; do sleep 0.05; done'
        )
        while door.out("logs", name) != "up":
            pass
        begin_s = time.monotonic()
        door.docker("stop", "-t", "1", name)
        assert time.monotonic() - begin_s >= 1
        assert status(door, name) == "exited 137"


def test_pause_freezes_and_unpause_goes_on(door: Door) -> None:
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "busybox", "sleep", "60")
        door.docker("pause", name)
        assert status(door, name) == "paused 0"
        assert "(Paused)" in door.out("ps", "--filter", f"name={name}", "--format", "{{.Status}}")
        door.docker("unpause", name)
        assert status(door, name) == "running 0"
        assert door.docker("unpause", name, check=False).returncode == 1


def test_rename_and_names_in_use(door: Door) -> None:
    with door.name() as first, door.name() as second, door.name() as third:
        door.docker("create", "--name", first, "busybox", "true")
        door.docker("create", "--name", second, "busybox", "true")
        assert b"already in use" in door.docker("create", "--name", first, "busybox", "true", check=False).stderr
        assert b"already in use" in door.docker("rename", first, second, check=False).stderr
        door.docker("rename", first, third)
        assert door.out("inspect", "-f", "{{.Name}}", third) == f"/{third}"
        assert door.docker("inspect", first, check=False).returncode == 1


def test_ps_filters_and_formats(door: Door) -> None:
    with door.name() as running, door.name() as exited:
        door.docker("run", "-d", "--name", running, "--label", f"who={running}", "busybox", "sleep", "60")
        door.docker("run", "--name", exited, "--label", f"who={running}", "busybox", "sh", "-c", "exit 2", check=False)
        label = f"label=who={running}"
        assert door.out("ps", "--filter", label, "--format", "{{.Names}}") == running
        assert door.out("ps", "-a", "--filter", label, "--format", "{{.Names}}").split() == [exited, running]
        assert door.out("ps", "-a", "--filter", label, "--filter", "exited=2", "--format", "{{.Names}}") == exited
        assert door.out("ps", "--filter", label, "--filter", "status=exited", "--format", "{{.Names}}") == exited
        assert (
            door.out("ps", "-a", "--filter", f"since={running}", "--filter", label, "--format", "{{.Names}}") == exited
        )
        assert exited in door.out("ps", "-a", "--filter", "ancestor=busybox", "--format", "{{.Names}}").split()
        row = json.loads(door.out("ps", "-a", "--filter", f"name={exited}", "--format", "{{json .}}"))
        assert row["Image"] == "busybox"
        assert row["Status"].startswith("Exited (2) ")
        assert row["Command"] == "\"sh -c 'exit 2'\""
        assert door.docker("ps", "--filter", "colour=red", check=False).returncode == 1
        assert door.out("ps", "-lq", "--no-trunc") == door.out("inspect", "-f", "{{.Id}}", exited)


def test_rm_refuses_a_running_container_unless_forced(door: Door) -> None:
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "busybox", "sleep", "60")
        result = door.docker("rm", name, check=False)
        assert result.returncode == 1
        assert b"container is running" in result.stderr
        door.docker("rm", "-f", name)
        assert door.docker("inspect", name, check=False).returncode == 1


def test_inspect_shows_what_was_asked_for(door: Door) -> None:
    with door.name() as name:
        door.docker(
            "create",
            "--name",
            name,
            "--label",
            "a=b",
            "-e",
            "X=y",
            "-w",
            "/tmp",
            "--memory",
            "64m",
            "--cpus",
            "0.5",
            "--stop-signal",
            "SIGINT",
            "--stop-timeout",
            "7",
            "-u",
            "1:1",
            "--read-only",
            "--tmpfs",
            "/t",
            "--hostname",
            "h",
            "--cap-drop",
            "NET_RAW",
            "-p",
            "8080:80",
            "busybox",
            "sleep",
            "1",
        )
        shown = json.loads(door.out("inspect", name))[0]
        config, host = shown["Config"], shown["HostConfig"]
        assert (config["Labels"]["a"], config["WorkingDir"], config["User"]) == ("b", "/tmp", "1:1")
        assert (config["StopSignal"], config["StopTimeout"], config["Hostname"]) == ("SIGINT", 7, "h")
        assert "X=y" in config["Env"]
        assert (host["Memory"], host["NanoCpus"], host["ReadonlyRootfs"]) == (64 << 20, 500_000_000, True)
        assert host["Tmpfs"] == {"/t": ""}
        assert host["CapDrop"] in (["NET_RAW"], ["CAP_NET_RAW"])
        assert host["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}


def test_events_are_told_as_they_happen(door: Door) -> None:
    with (
        door.name() as name,
        door.popen(
            "events", "--filter", f"container={name}", "--format", "{{.Action}}", stdout=subprocess.PIPE
        ) as events,
    ):
        assert events.stdout is not None
        # The CLI gives no sign that it listens: make things happen until it has heard one.
        door.docker("create", "--name", name, "busybox", "true")
        door.docker("start", name)
        door.docker("wait", name)
        door.docker("start", name)
        door.docker("wait", name)
        assert events.stdout.readline().strip() in (b"create", b"start", b"die")
        events.terminate()


def test_update_is_inspected_and_told_as_an_event(door: Door) -> None:
    with door.name() as name:
        door.docker("create", "--name", name, "busybox", "true")
        before = int(time.time())
        assert door.out("update", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "9", name) == name
        shown = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}"
        assert door.out("inspect", "-f", shown, name) == f"{64 << 20} 500000000 9"
        options = ("--since", str(before), "--until", str(int(time.time()) + 1), "--filter", f"container={name}")
        assert "update" in door.out("events", "--format", "{{.Action}}", *options).split()
        door.docker("update", "--restart", "on-failure:2", name)
        policy = "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}"
        assert door.out("inspect", "-f", policy, name) == "on-failure 2"
