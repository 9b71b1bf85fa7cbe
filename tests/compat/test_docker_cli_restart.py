"""Restart policies with the real docker CLI, over VMs that end and daemons that are killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
from tests.hyperd import Door, Hyperd, needs_docker_cli, running_hyperd

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("cli")]


@pytest.fixture(scope="module")
def cli() -> None:
    needs_docker_cli()


@pytest.fixture
def own_hyperd() -> Iterator[Hyperd]:
    """One that may be stopped and killed."""
    with running_hyperd() as daemon:
        yield daemon


def state(door: Door, name: str) -> str:
    return door.out("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", name)


def wait_until(true: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_on_failure_tries_as_often_as_it_was_told(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        script = "echo run; exit 3"
        door.docker("run", "-d", "--name", name, "--restart", "on-failure:2", "busybox", "sh", "-c", script)
        wait_until(lambda: state(door, name) == "exited 3 2")
        assert door.out("logs", name).split() == ["run"] * 3
        told = door.out(
            *("events", "--since", "10m", "--until", str(int(time.time()) + 1), "--filter", f"container={name}"),
            *("--format", "{{.Action}} {{.Actor.Attributes.exitCode}}"),
        )
        said = [line.replace("<no value>", "").strip() for line in told.splitlines()]
        assert said == ["create", "start", "die 3", "start", "die 3", "start", "die 3"]


def test_a_failing_container_is_seen_restarting_until_it_is_stopped(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "--restart", "always", "busybox", "false")
        shown = ("ps", "--filter", f"name={name}", "--filter", "status=restarting", "--format", "{{.Status}}")
        wait_until(lambda: door.out(*shown).startswith("Restarting (1) "))
        refused = door.docker("rm", name, check=False)
        assert refused.returncode == 1 and b"stop the container before removing or force remove" in refused.stderr
        door.docker("stop", name)
        assert state(door, name).startswith("exited 1 ")
        door.docker("rm", name)


def test_rm_and_a_restart_policy_exclude_each_other(hyperd: Hyperd) -> None:
    result = hyperd.door.docker("run", "--rm", "--restart", "always", "busybox", "true", check=False)
    assert result.returncode == 125
    assert b"conflicting options" in result.stderr


def test_docker_kill_is_final_and_wait_hears_every_end(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "--restart", "always", "busybox", "sleep", "1000")
        door.docker("exec", name, "kill", "-9", "1", check=False)  # it cannot, but the next can
        door.docker("kill", name)
        assert state(door, name) == "exited 137 0"
        assert door.out("wait", name) == "137"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_policies_survive_the_daemon(own_hyperd: Hyperd, end: str) -> None:
    door = own_hyperd.door
    names = {policy: f"c-{policy}" for policy in ("no", "always", "unless-stopped", "on-failure")}
    for policy, name in names.items():
        door.docker("run", "-d", "--name", name, "--restart", policy, "busybox", "sleep", "1000")
        door.docker("run", "-d", "--name", f"{name}-stopped", "--restart", policy, "busybox", "sleep", "1000")
        door.docker("stop", "-t", "0", f"{name}-stopped")
    started = json.loads(door.out("inspect", "c-always"))[0]["State"]["StartedAt"]
    if end == "stop":
        own_hyperd.stop()
    else:
        own_hyperd.kill()
    own_hyperd.start()
    running = set(door.out("ps", "--format", "{{.Names}}").split())
    # A killed daemon leaves its VMs running; one that is stopped ends them, which is nobody's stop.
    survivors = {"c-always", "c-unless-stopped", "c-on-failure"} | ({"c-no"} if end == "kill" else set())
    assert running == survivors | {"c-always-stopped"}
    again = json.loads(door.out("inspect", "c-always"))[0]["State"]["StartedAt"]
    assert (again == started) is (end == "kill")
    for name in door.out("ps", "-aq").split():
        door.docker("rm", "-f", name)
