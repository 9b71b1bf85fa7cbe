"""Containers that join another's namespaces, with the real docker CLI and real VMs: one VM, which outlives its first
container, and a daemon that is killed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
from tests.hyperd import Hyperd, needs_docker_cli

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("cli")]

SLEEP = ("busybox", "sleep", "300")


@pytest.fixture(scope="module")
def cli() -> None:
    needs_docker_cli()


@contextlib.contextmanager
def names(hyperd: Hyperd, count: int) -> Iterator[list[str]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(hyperd.door.name()) for _ in range(count)]


def shown(hyperd: Hyperd, name: str, what: str) -> str:
    return hyperd.door.out("inspect", "-f", "{{" + what + "}}", name)


def eventually(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_a_shared_network_is_one_network(hyperd: Hyperd) -> None:
    door = hyperd.door
    with names(hyperd, 2) as (first, second):
        serve = "echo hello > /tmp/index.html; httpd -f -p 127.0.0.1:80 -h /tmp"
        door.docker("run", "-d", "--name", first, "--hostname", "one", "busybox", "sh", "-c", serve)
        script = "wget -qO- http://127.0.0.1/; hostname; ip -o address show eth0; cat /etc/hosts"
        out = door.out("run", "--name", second, "--network", f"container:{first}", "busybox", "sh", "-c", script)
        address = shown(hyperd, first, ".NetworkSettings.IPAddress")
        assert out.startswith("hello\none\n") and f"inet {address}/" in out and f"{address}\tone" in out
        assert shown(hyperd, second, ".HostConfig.NetworkMode") == "container:" + shown(hyperd, first, ".Id")
        assert shown(hyperd, second, "len .NetworkSettings.Networks") == "0"


def test_a_shared_pid_namespace_shows_the_others_processes(hyperd: Hyperd) -> None:
    door = hyperd.door
    with names(hyperd, 2) as (first, second):
        door.docker("run", "-d", "--name", first, "--network", "none", *SLEEP)
        door.docker("run", "-d", "--name", second, "--pid", f"container:{first}", *SLEEP)
        assert door.out("exec", second, "ps").count("sleep 300") == 2
        assert shown(hyperd, first, ".Hyper.SandboxId") == shown(hyperd, second, ".Hyper.SandboxId")
        assert door.out("exec", second, "hostname") == shown(hyperd, second, ".Config.Hostname")
        assert door.out("exec", first, "hostname") == shown(hyperd, first, ".Config.Hostname")
        door.docker("kill", first)
        assert door.out("wait", second) == "137"


def test_a_shareable_ipc_namespace_and_its_memory_are_shared(hyperd: Hyperd) -> None:
    door = hyperd.door
    with names(hyperd, 2) as (first, second):
        flags = ("--network", "none", "--ipc", "shareable", "--shm-size", "3m")
        door.docker("run", "-d", "--name", first, *flags, "busybox", "sh", "-c", "echo said > /dev/shm/x; sleep 300")
        size = "df -k /dev/shm | tail -1 | awk '{print $2}'"
        script = f"cat /dev/shm/x; {size}; ip -o link | wc -l; readlink /proc/self/ns/ipc"
        flags = ("--rm", "--network", "none", "--ipc", f"container:{first}")
        out = door.out("run", *flags, "busybox", "sh", "-c", script).split()
        assert out == ["said", "3072", "1", door.out("exec", first, "readlink", "/proc/self/ns/ipc")]
        script = "ls /dev/shm | wc -l; readlink /proc/self/ns/ipc"
        apart = door.out("run", "--rm", "--network", f"container:{first}", "busybox", "sh", "-c", script).split()
        assert apart[0] == "0" and apart[1] != out[3]
        door.docker("run", "-d", "--name", second, "--network", "none", *SLEEP)
        result = door.docker("run", "--rm", "--ipc", f"container:{second}", "busybox", "true", check=False)
        assert result.returncode == 125 and b"non-shareable IPC" in result.stderr


def test_the_vm_goes_on_without_its_first_container_which_can_start_again_elsewhere(hyperd: Hyperd) -> None:
    door = hyperd.door
    with names(hyperd, 2) as (first, second):
        door.docker("run", "-d", "--name", first, "busybox", "sh", "-c", "echo x >> /count; sleep 300")
        count = "echo y >> /count; sleep 300"
        door.docker("run", "-d", "--name", second, "--network", f"container:{first}", "busybox", "sh", "-c", count)
        sandbox = shown(hyperd, first, ".Hyper.SandboxId")
        eventually(lambda: door.docker("exec", first, "cat", "/count", check=False).stdout == b"x\n")
        door.docker("stop", "-t", "0", first)
        eventually(lambda: "eth0" not in door.out("exec", second, "ls", "/sys/class/net").split())
        door.docker("start", first)
        eventually(lambda: door.docker("exec", first, "cat", "/count", check=False).stdout == b"x\nx\n")
        assert shown(hyperd, first, ".Hyper.SandboxId") != sandbox == shown(hyperd, second, ".Hyper.SandboxId")
        door.docker("rm", "-f", first)
        assert door.out("exec", second, "cat", "/count") == "y"
        door.docker("restart", "-t", "0", second, check=False)
        assert shown(hyperd, second, ".State.Running") == "false"


def test_many_come_and_go(hyperd: Hyperd) -> None:
    door = hyperd.door
    with names(hyperd, 1) as (first,):
        door.docker("run", "-d", "--name", first, "--network", "none", *SLEEP)
        flags = ("--rm", "--network", f"container:{first}", "busybox")
        for number in range(4):
            assert door.out("run", *flags, "sh", "-c", f"echo {number} > /x; cat /x") == str(number)
        result = door.docker("run", *flags, "nosuch", check=False)
        assert result.returncode == 127
        assert door.out("exec", first, "sh", "-c", "ls -d /sys/block/sd? | wc -l") == "2"


def test_who_is_not_there_or_does_not_run_cannot_be_joined(hyperd: Hyperd) -> None:
    door = hyperd.door
    with names(hyperd, 2) as (first, second):
        door.docker("create", "--name", first, "busybox", "true")
        for flag in ("--network", "--pid", "--ipc"):
            result = door.docker("run", "--rm", flag, f"container:{first}", "busybox", "true", check=False)
            assert result.returncode == 125 and b"is not running" in result.stderr
            result = door.docker("run", "--rm", flag, "container:nosuch", "busybox", "true", check=False)
            assert result.returncode == 125 and b"No such container: nosuch" in result.stderr
        flags = ("--network", f"container:{first}")
        result = door.docker("run", "--name", second, *flags, "-p", "80", "busybox", "true", check=False)
        assert b"conflicting options: port publishing and the container type network mode" in result.stderr


def test_memory_of_a_pod_is_that_of_all_in_it(hyperd: Hyperd) -> None:
    door = hyperd.door
    with names(hyperd, 2) as (first, second):

        def kilobytes() -> int:
            return int(door.out("exec", first, "sh", "-c", "grep MemTotal /proc/meminfo").split()[1])

        door.docker("run", "-d", "--name", first, "--network", "none", "--memory", "64m", *SLEEP)
        before = kilobytes()
        flags = ("--network", f"container:{first}", "--memory", "512m")
        door.docker("run", "-d", "--name", second, *flags, *SLEEP)
        assert kilobytes() - before > 300 << 10
        assert door.out("exec", second, "cat", "/sys/fs/cgroup/memory.max") == str(512 << 20)


def test_a_pod_outlives_a_killed_daemon(hyperd: Hyperd) -> None:
    door = hyperd.door
    with names(hyperd, 3) as (first, second, third):
        door.docker("run", "-d", "--name", first, "busybox", "sh", "-c", "while :; do echo one; sleep 0.2; done")
        flags = ("--network", f"container:{first}")
        door.docker(
            "run", "-d", "--name", second, *flags, "busybox", "sh", "-c", "while :; do echo two; sleep 0.2; done"
        )
        door.docker("run", "-d", "--name", third, *flags, *SLEEP)
        hyperd.kill()
        hyperd.start()
        for name in (first, second, third):
            assert shown(hyperd, name, ".State.Running") == "true"
        lines = len(door.out("logs", second).split())
        eventually(lambda: len(door.out("logs", second).split()) > lines)
        assert set(door.out("logs", second).split()) == {"two"} and set(door.out("logs", first).split()) == {"one"}
        door.docker("kill", first)
        assert door.out("exec", third, "echo", "on") == "on"
        hyperd.kill()
        hyperd.start()
        assert shown(hyperd, first, ".State.Status") == "exited"
        assert door.out("exec", second, "echo", "on") == "on"
        door.docker("start", first)
        door.docker("rm", "-f", second, third)
        assert shown(hyperd, first, ".State.Running") == "true"
