"""What every kernel here must give: a start in time, one processor where code is translated, and only ``lo``.

The limit is on QEMU's CPU time, which others' load changes less than the clock; `make bench` shows both.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hyperd import Hyperd, needs_docker_cli, running_hyperd

pytestmark = pytest.mark.vm

KERNELS = Path(os.environ.get("HYPER_TEST_KERNELS", "/var/lib/hyper/kernels"))
LIMIT_S = 3.0


def _kernels() -> list[Path]:
    return [
        path for pattern in ("tuned/vmlinux", "distribution/*/vmlinu[xz]") for path in sorted(KERNELS.glob(pattern))
    ]


@pytest.fixture(scope="module", params=_kernels(), ids=lambda path: str(path.relative_to(KERNELS).parent))
def daemon(request: pytest.FixtureRequest) -> Iterator[Hyperd]:
    needs_docker_cli()
    with running_hyperd("--accel", "tcg", "--kernel", str(request.param)) as daemon:
        yield daemon


def test_a_container_runs_within_the_limit_and_tells_where_the_time_went(daemon: Hyperd) -> None:
    container = daemon.door.out("run", "-d", "--network", "none", "busybox", "sleep", "1000")
    try:
        timings = json.loads(daemon.door.out("inspect", "-f", "{{json .Hyper.TimingsMs}}", container))
        parts = {"network", "sandbox", "disks", "agent.create", "agent.start"}
        assert parts | {"total", "sandbox.vmm", "sandbox.boot", "sandbox.configure"} == set(timings)
        assert sum(timings[part] for part in parts) == pytest.approx(timings["total"], abs=1)
        assert _cpu_s(_vmm(daemon)) < LIMIT_S
    finally:
        daemon.door.docker("rm", "-f", container)


def test_without_a_network_there_is_only_lo_and_one_processor(daemon: Hyperd) -> None:
    command = ("sh", "-c", "ls /sys/class/net; nproc; ip link | grep -c '^[0-9]'")
    assert daemon.door.out("run", "--rm", "--network", "none", "busybox", *command) == "lo\n1\n1"


def test_with_the_bridge_there_are_lo_and_eth0(daemon: Hyperd) -> None:
    assert daemon.door.out("run", "--rm", "busybox", "ls", "/sys/class/net").split() == ["eth0", "lo"]


def _vmm(daemon: Hyperd) -> int:
    marker = f"hyper:{daemon.root_id}:".encode()
    found = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and marker in _command(path)]
    [pid] = found
    return pid


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
