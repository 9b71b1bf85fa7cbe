"""``docker update`` on real VMs: what a running container sees of it, and what a VM grows by.

VMs are small here, whichever way they came, so that they have to grow. Neighbour: ``test_templates_size.py``.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator

import pytest
from tests.hyperd import Hyperd, needs_docker_cli, running_hyperd
from tests.templates import SMALL

from hyper.hypervisors.qemu.vmm import QMP_SOCKET

pytestmark = pytest.mark.vm
MIB = 1 << 20


@pytest.fixture(scope="module")
def hyperd() -> Iterator[Hyperd]:
    with running_hyperd("--pool-size", "1", *SMALL) as daemon:
        yield daemon


@pytest.fixture
def sleeper(hyperd: Hyperd) -> Iterator[str]:
    needs_docker_cli()
    with hyperd.door.name() as name:
        limits = ("--memory", "64m", "--cpus", "1", "--pids-limit", "100")
        hyperd.door.docker("run", "-d", "--name", name, "--network", "none", *limits, "busybox", "sleep", "1000")
        yield name


def inside(hyperd: Hyperd, name: str, file: str) -> str:
    return hyperd.door.out("exec", name, "cat", f"/sys/fs/cgroup/{file}")


def memory_total_bytes(hyperd: Hyperd, name: str) -> int:
    line = hyperd.door.out("exec", name, "grep", "MemTotal", "/proc/meminfo")
    return int(line.split()[1]) * 1024


def test_a_running_container_has_its_new_limits(hyperd: Hyperd, sleeper: str) -> None:
    limits = ("--memory", "48m", "--memory-reservation", "32m", "--cpus", "0.5", "--cpu-shares", "512")
    hyperd.door.docker("update", *limits, "--pids-limit", "50", "--cpuset-cpus", "0", sleeper)
    assert inside(hyperd, sleeper, "memory.max") == str(48 * MIB)
    assert inside(hyperd, sleeper, "memory.low") == str(32 * MIB)
    assert inside(hyperd, sleeper, "cpu.max") == "50000 100000"
    assert inside(hyperd, sleeper, "cpu.weight") == "20"
    assert inside(hyperd, sleeper, "pids.max") == "50"
    assert inside(hyperd, sleeper, "cpuset.cpus") == "0"
    hyperd.door.docker("update", "--pids-limit", "-1", sleeper)
    assert inside(hyperd, sleeper, "pids.max") == "max"


def test_a_vm_that_is_too_small_grows_and_is_adopted_so(hyperd: Hyperd, sleeper: str) -> None:
    assert memory_total_bytes(hyperd, sleeper) < 300 * MIB
    hyperd.door.docker("update", "--memory", "512m", sleeper)
    assert memory_total_bytes(hyperd, sleeper) > 512 * MIB
    assert inside(hyperd, sleeper, "memory.max") == str(512 * MIB)
    hyperd.kill()
    hyperd.start()
    # All of it can be used: more than the VM had before.
    hyperd.door.docker("exec", sleeper, "dd", "if=/dev/zero", "of=/dev/null", "bs=300M", "count=1")
    shown = json.loads(hyperd.door.out("inspect", "-f", "{{json .HostConfig}}", sleeper))
    assert shown["Memory"] == 512 * MIB
    hyperd.door.docker("update", "--memory", "64m", sleeper)
    assert inside(hyperd, sleeper, "memory.max") == str(64 * MIB)


def test_processors_are_added_or_it_is_told_why_not(hyperd: Hyperd, sleeper: str) -> None:
    """QEMU would abort when its cache of translated code is full, which it is after a boot of Debian's kernel."""
    wanted = os.cpu_count() or 1
    done = hyperd.door.docker("update", "--cpus", str(wanted), sleeper, check=False)
    if done.returncode == 0:
        assert hyperd.door.out("exec", sleeper, "nproc") == str(wanted)
    else:
        assert b"cache of translated code is as full as now" in done.stderr
        assert hyperd.door.out("exec", sleeper, "nproc") == "1"


def test_a_vm_that_a_killed_daemon_left_standing_still_goes_on(hyperd: Hyperd, sleeper: str) -> None:
    """As one that was killed while it plugged a processor."""
    sandbox = hyperd.door.out("inspect", "-f", "{{.Hyper.SandboxId}}", sleeper)
    hyperd.kill()
    [path] = hyperd.exec_root.glob(f"vm/{sandbox}/{QMP_SOCKET}")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        with connection.makefile("rw") as told:
            for command in ("qmp_capabilities", "stop"):
                told.write(json.dumps({"execute": command, "id": command}) + "\n")
                told.flush()
                while json.loads(told.readline()).get("id") != command:
                    pass
    hyperd.start()
    assert hyperd.door.out("exec", sleeper, "echo", "here") == "here"


def test_a_limit_below_the_usage_is_refused(hyperd: Hyperd, sleeper: str) -> None:
    hyperd.door.docker("exec", sleeper, "sh", "-c", f"head -c {24 * MIB} /dev/zero > /dev/shm/used")
    refused = hyperd.door.docker("update", "--memory", "16m", sleeper, check=False)
    assert refused.returncode == 1
    assert b"below the current usage" in refused.stderr
    assert inside(hyperd, sleeper, "memory.max") == str(64 * MIB)
    # What is only cached the kernel gives up.
    hyperd.door.docker("exec", sleeper, "sh", "-c", f"rm /dev/shm/used; head -c {24 * MIB} /dev/zero > /cached")
    hyperd.door.docker("update", "--memory", "16m", sleeper)
    assert inside(hyperd, sleeper, "memory.max") == str(16 * MIB)
    assert hyperd.door.out("inspect", "-f", "{{.State.Running}}", sleeper) == "true"


def test_a_paused_container_takes_them_too(hyperd: Hyperd, sleeper: str) -> None:
    hyperd.door.docker("pause", sleeper)
    hyperd.door.docker("update", "--pids-limit", "77", sleeper)
    hyperd.door.docker("unpause", sleeper)
    assert inside(hyperd, sleeper, "pids.max") == "77"


def test_a_stopped_container_has_them_at_its_next_start(hyperd: Hyperd, sleeper: str) -> None:
    hyperd.door.docker("stop", "-t", "0", sleeper)
    hyperd.door.docker("update", "--memory", "96m", "--cpuset-cpus", f"{os.cpu_count() - 1}", sleeper)  # type: ignore[operator]
    hyperd.door.docker("start", sleeper)
    assert inside(hyperd, sleeper, "memory.max") == str(96 * MIB)
    assert inside(hyperd, sleeper, "cpuset.cpus.effective") == f"{os.cpu_count() - 1}"  # type: ignore[operator]
