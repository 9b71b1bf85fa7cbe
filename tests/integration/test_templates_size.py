"""Memory and processors of clones: what was asked for is what the container sees, and can use.

The template is small here, so that whoever asks for more gets a VM that grows. Neighbour: ``test_update.py`` (every
limit of ``docker update``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.hyperd import Hyperd, needs_docker_cli, running_hyperd
from tests.templates import MIB, SMALL, ran, run, rung, settled, vmms

pytestmark = pytest.mark.vm

DEFAULT_BYTES = 96 * MIB
TEMPLATE_BYTES = 300 * MIB
"""More than a machine of the default size has."""
HOST_CPUS = os.cpu_count() or 1
LARGE_BYTES = 450 * MIB
LARGE = ("--memory", "450m", "--cpus", str(HOST_CPUS))


@pytest.fixture(scope="module")
def daemon() -> Iterator[Hyperd]:
    needs_docker_cli()
    with running_hyperd("--pool-size", "1", *SMALL) as daemon:
        yield daemon


@pytest.fixture
def hyperd(daemon: Hyperd) -> Hyperd:
    """Its pool is full: the next container is in a clone of it."""
    settled(daemon)
    return daemon


LOOK = """
cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max
nproc
head -n 1 /proc/meminfo
"""
USE = """
dd if=/dev/zero of=/dev/null bs={most_of_it}M count=1 2>/dev/null && echo "used the memory"
taskset {last_cpu:#x} cut -d " " -f 39 /proc/self/stat
"""


@dataclass(frozen=True)
class Seen:
    """What a container sees of its limits."""

    memory_max: str
    cpu_max: str
    cpus: int
    total_bytes: int

    @classmethod
    def read(cls, lines: list[str]) -> Seen:
        memory_max, cpu_max, cpus, total = lines
        return cls(memory_max, cpu_max, int(cpus), int(total.split()[1]) << 10)


def use(memory_bytes: int, cpus: int) -> str:
    """A script that fills nearly so much memory, and runs on the last processor."""
    return USE.format(most_of_it=memory_bytes * 7 // 8 // MIB, last_cpu=1 << (cpus - 1))


@pytest.mark.parametrize(
    ("limits", "memory_bytes", "cpu_max", "cpus"),
    [
        ((), DEFAULT_BYTES, "max 100000", 1),
        (("--memory", "32m", "--cpus", "0.5"), 32 * MIB, "50000 100000", 1),
        (LARGE, LARGE_BYTES, f"{HOST_CPUS}00000 100000", HOST_CPUS),
    ],
    ids=["default", "less", "more"],
)
def test_a_clone_has_what_was_asked_for_and_can_use_it(
    hyperd: Hyperd, limits: tuple[str, ...], memory_bytes: int, cpu_max: str, cpus: int
) -> None:
    script = LOOK + use(memory_bytes, cpus)
    came, said = ran(hyperd, "--network", "none", *limits, "busybox", "sh", "-c", script)
    assert came == "pool"
    *lines, memory, cpu = said.splitlines()
    seen = Seen.read(lines)
    assert (seen.memory_max, seen.cpu_max, seen.cpus) == (str(memory_bytes), cpu_max, cpus)
    assert seen.total_bytes > memory_bytes
    assert (seen.total_bytes > TEMPLATE_BYTES) == (memory_bytes > TEMPLATE_BYTES)
    assert (memory, cpu) == ("used the memory", str(cpus - 1))


def test_a_running_clone_grows_beyond_its_size(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "--network", "none", "--memory", "64m", "busybox", "sleep", "1000")
        assert rung(hyperd, name) == "pool"
        before = Seen.read(door.out("exec", name, "sh", "-c", LOOK).splitlines())
        assert before.total_bytes < TEMPLATE_BYTES and before.cpus == 1
        door.docker("update", *LARGE, name)
        after = Seen.read(door.out("exec", name, "sh", "-c", LOOK).splitlines())
        assert (after.memory_max, after.cpus) == (str(LARGE_BYTES), HOST_CPUS)
        assert after.total_bytes > LARGE_BYTES
        used = door.out("exec", name, "sh", "-c", use(LARGE_BYTES, HOST_CPUS)).splitlines()
        assert used == ["used the memory", str(HOST_CPUS - 1)]
        # One that is big enough has no further to go.
        door.docker("update", "--memory", "300m", "--cpus", "1", name)
        again = Seen.read(door.out("exec", name, "sh", "-c", LOOK).splitlines())
        assert (again.memory_max, again.total_bytes) == (str(300 * MIB), after.total_bytes)


@pytest.mark.parametrize(
    ("limits", "too_much"), [((), "200M"), (("--memory", "300m"), "400M")], ids=["default", "more"]
)
def test_who_uses_more_than_its_limit_is_killed_and_that_is_told(
    hyperd: Hyperd, limits: tuple[str, ...], too_much: str
) -> None:
    door = hyperd.door
    with door.name() as name:
        command = ("dd", "if=/dev/zero", "of=/dev/null", f"bs={too_much}", "count=1")
        killed = door.docker("run", "--name", name, "--network", "none", *limits, "busybox", *command, check=False)
        assert killed.returncode == 137, killed
        assert rung(hyperd, name) == "pool"
        state = json.loads(door.out("inspect", "-f", "{{json .State}}", name))
        assert state["OOMKilled"] and state["ExitCode"] == 137 and state["Error"] == ""


REFUSED = [
    (("--memory", "4m"), "Minimum memory limit allowed is 6MB"),
    (("--cpus", str(HOST_CPUS + 1)), f"ange of CPUs is from 0.01 to {HOST_CPUS}.00"),
]


@pytest.mark.parametrize(("limits", "words"), REFUSED, ids=["memory", "cpus"])
def test_what_cannot_be_is_refused_and_takes_nothing(hyperd: Hyperd, limits: tuple[str, ...], words: str) -> None:
    door = hyperd.door
    before = vmms(hyperd)
    refused = door.docker("run", "--rm", "--network", "none", *limits, "busybox", "true", check=False)
    assert refused.returncode == 125 and words in refused.stderr.decode()
    assert vmms(hyperd) == before and door.out("ps", "-aq") == ""
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "--network", "none", "--memory", "64m", "busybox", "sleep", "1000")
        refused = door.docker("update", *limits, name, check=False)
        assert refused.returncode == 1 and words in refused.stderr.decode()
        seen = Seen.read(door.out("exec", name, "sh", "-c", LOOK).splitlines())
        assert (seen.memory_max, seen.cpu_max) == (str(64 * MIB), "max 100000")


def test_more_memory_than_the_host_has_is_no_reason_not_to_run(hyperd: Hyperd) -> None:
    came, said = ran(hyperd, "--network", "none", "--memory", "4t", "busybox", "cat", "/sys/fs/cgroup/memory.max")
    assert (came, said) == ("pool", str(4 << 40))
    settled(hyperd)
    assert run(hyperd) == "pool"
