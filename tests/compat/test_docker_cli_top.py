"""docker top with the real CLI and docker-py, over real VMs."""

from __future__ import annotations

import time

import pytest
from tests.hyperd import Hyperd, needs_docker_cli

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("cli")]


@pytest.fixture(scope="module")
def cli() -> None:
    needs_docker_cli()


def test_top_lists_the_containers_processes(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "-u", "7", "busybox", "sh", "-c", "sleep 1001 & exec sleep 1002")
        deadline_s = time.monotonic() + 30
        while door.out("top", name).count("sleep 100") != 2:
            assert time.monotonic() < deadline_s, door.out("top", name)
        titles, *rows = [line.split(None, 7) for line in door.out("top", name).splitlines()]
        assert titles == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        assert sorted(row[7] for row in rows) == ["sleep 1001", "sleep 1002"]
        assert {row[0] for row in rows} == {"7"}
        pid = door.out("inspect", "-f", "{{.State.Pid}}", name)
        assert pid in {row[1] for row in rows}
        listed = door.out("top", name, "-o", "pid,comm").splitlines()
        assert listed[0].split() == ["PID", "COMMAND"] and len(listed) == 3
        assert "%CPU" in door.out("top", name, "aux")
        refused = door.docker("top", name, "-Z", check=False)
        assert refused.returncode == 1 and b'ps argument "-Z" is not there' in refused.stderr
        client = door.client()
        try:
            assert client.containers.get(name).top(ps_args="aux")["Titles"][0] == "USER"
        finally:
            client.close()
        assert door.http("GET", f"/containers/{name}/top").status == 200
        door.docker("stop", "-t", "0", name)
        stopped = door.http("GET", f"/containers/{name}/top")
        assert (stopped.status, "is not running" in stopped.message) == (409, True)
