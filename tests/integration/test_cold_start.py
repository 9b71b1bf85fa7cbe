"""What every kernel here must give: a start that tells where its time went, one processor where code is translated,
and only ``lo``. How long it takes is for ``python -m bench cold-start``: machines differ, and tests do not time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hyperd import Hyperd, needs_docker_cli, running_hyperd

pytestmark = pytest.mark.vm

KERNELS = Path(os.environ.get("HYPER_TEST_KERNELS", "/var/lib/hyper/kernels"))


def _kernels() -> list[Path]:
    return [
        path for pattern in ("tuned/vmlinux", "distribution/*/vmlinu[xz]") for path in sorted(KERNELS.glob(pattern))
    ]


@pytest.fixture(scope="module", params=_kernels(), ids=lambda path: str(path.relative_to(KERNELS).parent))
def daemon(request: pytest.FixtureRequest) -> Iterator[Hyperd]:
    needs_docker_cli()
    with running_hyperd("--accel", "tcg", "--kernel", str(request.param)) as daemon:
        yield daemon


def test_a_start_tells_where_its_time_went(daemon: Hyperd) -> None:
    container = daemon.door.out("run", "-d", "--network", "none", "busybox", "sleep", "1000")
    try:
        timings = json.loads(daemon.door.out("inspect", "-f", "{{json .Hyper.TimingsMs}}", container))
        parts = {"address", "sandbox", "disks", "agent.create", "agent.start"}
        assert parts | {"total", "sandbox.vmm", "sandbox.boot", "sandbox.configure"} == set(timings)
        assert sum(timings[part] for part in parts) == pytest.approx(timings["total"], abs=1)
    finally:
        daemon.door.docker("rm", "-f", container)


def test_without_a_network_there_is_only_lo_and_one_processor(daemon: Hyperd) -> None:
    command = ("sh", "-c", "ls /sys/class/net; nproc; ip link | grep -c '^[0-9]'")
    assert daemon.door.out("run", "--rm", "--network", "none", "busybox", *command) == "lo\n1\n1"


def test_with_the_bridge_there_are_lo_and_eth0(daemon: Hyperd) -> None:
    assert daemon.door.out("run", "--rm", "busybox", "ls", "/sys/class/net").split() == ["eth0", "lo"]
