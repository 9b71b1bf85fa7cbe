"""kill -9 of hyperd, of VMs, at any time: what was acknowledged stays, what runs runs on, what is nobody's goes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.api.client import request
from tests.hyperd import Hyperd, running_hyperd

pytestmark = pytest.mark.vm

COUNTER = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done"


@pytest.fixture
def daemon() -> Iterator[Hyperd]:
    with running_hyperd() as daemon:
        # The host's accelerator is chosen once, in seconds: not in the middle of what is timed here.
        daemon.door.docker("run", "--rm", "--network", "none", "busybox", "true")
        yield daemon
        if daemon.process is None:
            daemon.start()
        for line in daemon.door.out("ps", "-aq").split():
            daemon.door.docker("rm", "-f", line)


def state(daemon: Hyperd, name: str) -> dict[str, object]:
    answer = json.loads(daemon.door.out("inspect", "-f", "{{json .State}}", name))
    assert isinstance(answer, dict)
    return answer


def vmm_pids(daemon: Hyperd) -> list[int]:
    """QEMU processes of this daemon's root, by the marker in their names; not the one that tries an accelerator out."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if f"hyper:{daemon.root_id}:".encode() in command and b":probe-" not in command:
                found.append(int(entry.name))
    return found


def test_a_container_runs_on_through_kills_and_its_log_has_no_gap(daemon: Hyperd) -> None:
    door = daemon.door
    door.docker("run", "-d", "--name", "counter", "--network", "none", "busybox", "sh", "-c", COUNTER)
    before = state(daemon, "counter")
    for _ in range(3):
        time.sleep(0.7)
        daemon.kill()
        time.sleep(0.5)  # it prints on while nobody listens
        daemon.start()
    after = state(daemon, "counter")
    assert after["Status"] == "running"
    assert (after["Pid"], after["StartedAt"]) == (before["Pid"], before["StartedAt"])
    door.docker("kill", "counter")
    numbers = [int(line) for line in door.out("logs", "counter").split()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 40


def test_an_exit_that_nobody_saw_is_told_by_the_next_daemon(daemon: Hyperd) -> None:
    door = daemon.door
    door.docker(
        "run", "-d", "--name", "short", "--network", "none", "busybox", "sh", "-c", "sleep 2; echo bye; exit 42"
    )
    daemon.kill()
    time.sleep(3)
    daemon.start()
    assert door.out("wait", "short") == "42"
    assert door.out("logs", "short") == "bye"
    assert state(daemon, "short")["Error"] == ""


def test_stop_exec_and_attach_work_after_adoption(daemon: Hyperd) -> None:
    door = daemon.door
    door.docker("run", "-d", "-i", "--name", "adopted", "--network", "none", "busybox", "cat")
    daemon.kill()
    daemon.start()
    assert door.out("exec", "adopted", "echo", "still here") == "still here"
    attached = door.popen("attach", "adopted", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert attached.stdin is not None
    assert attached.stdout is not None
    attached.stdin.write(b"through the new daemon\n")
    attached.stdin.flush()
    assert attached.stdout.readline() == b"through the new daemon\n"
    door.docker("rm", "-f", "adopted")
    assert attached.communicate(timeout=20)[0] == b""
    assert vmm_pids(daemon) == []


def test_a_vm_that_dies_is_noticed_within_a_second_with_a_reason(daemon: Hyperd) -> None:
    door = daemon.door
    door.docker("run", "-d", "--name", "victim", "--network", "none", "busybox", "sleep", "1000")
    [pid] = vmm_pids(daemon)
    os.kill(pid, signal.SIGKILL)
    deadline_s = time.monotonic() + 1.0
    while state(daemon, "victim")["Running"] and time.monotonic() < deadline_s:
        time.sleep(0.02)
    now = state(daemon, "victim")
    assert now["Status"] == "exited"
    assert "VM" in str(now["Error"])
    door.docker("start", "victim")
    assert state(daemon, "victim")["Running"]


def test_a_vm_that_died_while_nobody_watched_shows_as_exited(daemon: Hyperd) -> None:
    door = daemon.door
    door.docker("run", "-d", "--name", "victim", "--network", "none", "busybox", "sleep", "1000")
    [pid] = vmm_pids(daemon)
    daemon.kill()
    os.kill(pid, signal.SIGKILL)
    daemon.start()
    now = state(daemon, "victim")
    assert now["Status"] == "exited"
    assert "VM" in str(now["Error"])


def test_published_ports_and_addresses_survive(daemon: Hyperd) -> None:
    door = daemon.door
    door.docker("run", "-d", "--name", "web", "-p", "18080:80", "busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
    address = door.out("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web")
    daemon.kill()
    assert b"root" in fetch(daemon, "/passwd")
    daemon.start()
    assert door.out("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web") == address
    assert door.out("port", "web", "80/tcp") == "0.0.0.0:18080"
    assert b"root" in fetch(daemon, "/passwd")


def fetch(daemon: Hyperd, path: str) -> bytes:
    """From the published port, as a program on the host would; retried while the server comes up."""
    deadline_s = time.monotonic() + 20
    while True:
        try:
            with daemon.namespace.connect("127.0.0.1", 18080) as connection:
                connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                answer = b""
                while block := connection.recv(65536):
                    answer += block
                if answer:
                    return answer
        except OSError:
            if time.monotonic() > deadline_s:
                raise
        time.sleep(0.1)


class Journal:
    """What the daemon acknowledged, as a client remembers it. ``doubt`` is what was in flight at a kill."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.tags: set[str] = set()
        self.doubt: set[str] = set()


def operate(daemon: Hyperd, journal: Journal, choice: random.Random, number: int) -> None:
    """One operation; remembers it only when it was acknowledged. OSError when the daemon dies under it."""
    socket = daemon.door.socket
    kinds = ["create", "create", "tag", "start", "start", "stop", "remove", "rename", "untag"]
    kind = choice.choice(kinds)
    if kind == "create" or not journal.names:
        name = f"c{number}"
        journal.doubt.add(name)
        body = {"Image": "busybox", "Cmd": ["sh", "-c", COUNTER], "HostConfig": {"NetworkMode": "none"}}
        answer = request(socket, "POST", f"/containers/create?name={name}", body)
        assert answer.status == 201, answer.body
        journal.names[name] = answer.json["Id"]
        journal.doubt.discard(name)
        return
    if kind == "tag":
        tag = f"copy{number}:latest"
        journal.doubt.add(tag)
        assert request(socket, "POST", f"/images/busybox/tag?repo=copy{number}&tag=latest").status == 201
        journal.tags.add(tag)
        journal.doubt.discard(tag)
        return
    if kind == "untag":
        if journal.tags:
            tag = journal.tags.pop()
            journal.doubt.add(tag)
            assert request(socket, "DELETE", f"/images/{tag}").status == 200
            journal.doubt.discard(tag)
        return
    name = choice.choice(sorted(journal.names))
    if kind == "remove":
        container = journal.names.pop(name)
        journal.doubt.add(name)
        assert request(socket, "DELETE", f"/containers/{container}?force=1").status == 204
        journal.doubt.discard(name)
    elif kind == "rename":
        new = f"r{number}"
        container = journal.names.pop(name)
        journal.doubt |= {name, new}
        assert request(socket, "POST", f"/containers/{container}/rename?name={new}").status == 204
        journal.names[new] = container
        journal.doubt -= {name, new}
    else:
        action = "start" if kind == "start" else "stop?t=0"
        assert request(socket, "POST", f"/containers/{name}/{action}").status in (204, 304)


def check(daemon: Hyperd, journal: Journal) -> None:
    """The daemon has just been started again: it knows what it acknowledged, and nothing else is left."""
    listed = request(daemon.door.socket, "GET", "/containers/json?all=1").json
    names = {item["Names"][0].removeprefix("/"): item for item in listed}
    assert set(journal.names) - journal.doubt <= set(names)
    assert set(names) <= set(journal.names) | journal.doubt
    tags = {tag for image in request(daemon.door.socket, "GET", "/images/json").json for tag in image["RepoTags"]}
    assert journal.tags - journal.doubt <= tags
    ids = {item["Id"] for item in listed}
    running = [item for item in listed if item["State"] in ("running", "paused")]
    assert len(vmm_pids(daemon)) == len(running)
    assert {path.name for path in (daemon.data_root / "containers").glob("*")} <= ids
    assert {path.name.partition(".")[0] for path in (daemon.data_root / "writable").glob("*")} == ids
    assert len(list((daemon.exec_root / "vm").glob("*"))) == len(running)
    # From here on, what was in doubt is known.
    journal.names = {name: item["Id"] for name, item in names.items()}
    journal.tags = {tag for tag in tags if tag.startswith("copy")}
    journal.doubt.clear()


def kill_at_random(daemon: Hyperd, operations: int, seed: int) -> None:
    choice = random.Random(seed)
    journal = Journal()
    for number in range(operations):
        # From "before the first answer" to "a container has booted and another is being removed".
        delay_s = choice.choice([0.0, 0.01, 0.05, 0.3, 1.5, 4.0, 8.0]) * choice.random()
        timer = threading.Timer(delay_s, lambda: daemon.process is not None and daemon.process.kill())
        timer.start()
        try:
            for step in range(4):
                operate(daemon, journal, choice, number * 10 + step)
        except OSError:
            pass  # the connection went with the daemon
        finally:
            timer.join()
        daemon.kill()
        daemon.start()
        check(daemon, journal)
    for name in sorted(journal.names):
        logs = daemon.door.docker("logs", name).stdout.split()
        # Each run of the container counts from 0; within a run nothing is missing and nothing comes twice.
        previous = -1
        for number in map(int, logs):
            assert number in (0, previous + 1)
            previous = number


def test_killed_at_random_nothing_acknowledged_is_lost(daemon: Hyperd) -> None:
    kill_at_random(daemon, 8, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_during_fifty_operations(daemon: Hyperd) -> None:
    kill_at_random(daemon, 50, seed=int(os.environ.get("HYPER_TEST_SEED", "2")))
