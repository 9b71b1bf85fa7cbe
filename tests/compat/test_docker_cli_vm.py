"""What only a real VM can show: limits, names, networks, read-only roots, users. Real CLI, real hyperd."""

from __future__ import annotations

import os
import time
import urllib.request

import pytest
from tests.hyperd import Hyperd, needs_docker_cli

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("cli")]


@pytest.fixture(scope="module")
def cli() -> None:
    needs_docker_cli()


def test_the_kernel_is_not_the_hosts(hyperd: Hyperd) -> None:
    assert hyperd.door.out("run", "--rm", "busybox", "uname", "-r") != os.uname().release


def test_hostname(hyperd: Hyperd) -> None:
    assert (
        hyperd.door.out(
            "run", "--rm", "--hostname", "here", "busybox", "sh", "-c", "hostname; grep here /etc/hosts"
        ).split()[0]
        == "here"
    )


def test_user(hyperd: Hyperd) -> None:
    assert hyperd.door.out("run", "--rm", "-u", "1000:1001", "busybox", "sh", "-c", "id -u; id -g").split() == [
        "1000",
        "1001",
    ]
    assert hyperd.door.out("run", "--rm", "-u", "nobody", "busybox", "id", "-u") == "65534"


def test_a_user_that_is_not_in_the_image_is_refused(hyperd: Hyperd) -> None:
    result = hyperd.door.docker("run", "--rm", "-u", "somebody", "busybox", "true", check=False)
    assert result.returncode in (125, 126)
    assert b"somebody" in result.stderr


def test_memory_limit(hyperd: Hyperd) -> None:
    script = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/*/memory.max"
    assert hyperd.door.out("run", "--rm", "--memory", "64m", "busybox", "sh", "-c", script).split()[0] == str(64 << 20)


def test_too_much_memory_is_an_oom_kill(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        result = door.docker("run", "--name", name, "--memory", "32m", "busybox", "tail", "/dev/zero", check=False)
        assert result.returncode == 137
        assert door.out("inspect", "-f", "{{.State.OOMKilled}}", name) == "true"


def test_network_none_has_only_lo(hyperd: Hyperd) -> None:
    assert hyperd.door.out("run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net") == "lo"


def test_the_default_network_has_an_address_that_inspect_shows(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "busybox", "sleep", "60")
        address = door.out("inspect", "-f", "{{.NetworkSettings.IPAddress}}", name)
        assert address.startswith("172.29.")
        assert f"inet {address}/" in door.out("exec", name, "ip", "address", "show", "eth0")


def test_a_published_port_is_reached_and_shown(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker(
            "run",
            "-d",
            "--name",
            name,
            "-p",
            "127.0.0.1::80",
            "busybox",
            "sh",
            "-c",
            "echo hello > /tmp/index.html; httpd -f -p 80 -h /tmp",
        )
        shown = door.out("port", name)
        assert shown.startswith("80/tcp -> 127.0.0.1:")
        port = int(shown.rpartition(":")[2])
        with hyperd.namespace.entered():
            deadline_s = time.monotonic() + 20
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                        assert answer.read() == b"hello\n"
                    break
                except OSError:
                    if time.monotonic() > deadline_s:
                        raise
                    time.sleep(0.1)
        assert f"127.0.0.1:{port}->80/tcp" in door.out("ps", "--filter", f"name={name}", "--format", "{{.Ports}}")


def test_read_only_root_and_tmpfs(hyperd: Hyperd) -> None:
    out = hyperd.door.out(
        "run",
        "--rm",
        "--read-only",
        "--tmpfs",
        "/scratch:size=1m",
        "busybox",
        "sh",
        "-c",
        "touch /x 2>/dev/null && echo writable; touch /scratch/x && echo scratch; df -k /scratch | tail -1",
    )
    assert "writable" not in out
    assert "scratch" in out
    assert " 1024 " in out


def test_cpus(hyperd: Hyperd) -> None:
    script = "cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/*/cpu.max"
    quota, period = hyperd.door.out("run", "--rm", "--cpus", "0.5", "busybox", "sh", "-c", script).split()[:2]
    assert int(quota) * 2 == int(period)


def test_restart_keeps_the_writable_layer(hyperd: Hyperd) -> None:
    door = hyperd.door

    def wait_for(*lines: bytes) -> None:
        deadline_s = time.monotonic() + 20
        while (seen := door.docker("exec", name, "cat", "/count", check=False).stdout.split()) != list(lines):
            assert time.monotonic() < deadline_s, seen

    with door.name() as name:
        door.docker("run", "-d", "--name", name, "busybox", "sh", "-c", "echo x >> /count; sleep 60")
        wait_for(b"x")
        door.docker("restart", "-t", "0", name)
        wait_for(b"x", b"x")
