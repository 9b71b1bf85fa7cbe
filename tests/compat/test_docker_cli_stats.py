"""docker stats and docker container prune with the real CLI and docker-py, over real VMs."""

from __future__ import annotations

import json
import time

import pytest
from tests.hyperd import Hyperd, needs_docker_cli

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("cli")]

MIB = 1 << 20


@pytest.fixture(scope="module")
def cli() -> None:
    needs_docker_cli()


def test_stats_show_what_a_container_uses(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        script = "dd if=/dev/zero of=/file bs=1M count=8 2>/dev/null; sync; echo up; while :; do :; done"
        door.docker("run", "-d", "--name", name, "-m", "64m", "--pids-limit", "50", "busybox", "sh", "-c", script)
        deadline_s = time.monotonic() + 60
        while door.out("logs", name) != "up":
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        shown = json.loads(door.out("stats", "--no-stream", "--format", "{{json .}}", name))
        assert shown["Name"] == name
        assert float(shown["CPUPerc"].rstrip("%")) > 20, "it does nothing but count"
        assert shown["MemUsage"].endswith("/ 64MiB")
        assert shown["PIDs"] == "1"
        client = door.client()
        try:
            sample = client.containers.get(name).stats(stream=False)
            written = sum(
                one["value"] for one in sample["blkio_stats"]["io_service_bytes_recursive"] if one["op"] == "write"
            )
            assert written >= 8 * MIB
            assert (sample["memory_stats"]["limit"], sample["pids_stats"]) == (64 * MIB, {"current": 1, "limit": 50})
            assert 0 < sample["memory_stats"]["usage"] <= 64 * MIB
            assert set(sample["networks"]) == {"eth0"}
            samples = client.containers.get(name).stats(decode=True, stream=True)
            first, second = next(samples), next(samples)
            assert second["preread"] == first["read"]
            spent_ns = second["cpu_stats"]["cpu_usage"]["total_usage"] - first["cpu_stats"]["cpu_usage"]["total_usage"]
            assert spent_ns > 0
            samples.close()
        finally:
            client.close()


def test_stats_of_one_that_does_not_run_are_empty(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker("create", "--name", name, "busybox", "true")
        answer = door.http("GET", f"/containers/{name}/stats?stream=false")
        assert (answer.status, answer.json["name"], answer.json["memory_stats"]) == (200, f"/{name}", {})
    assert door.http("GET", "/containers/nobody/stats?stream=false").status == 404


def test_one_shot_does_not_wait_for_a_second_sample(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "--network", "none", "busybox", "sleep", "1000")
        answer = door.http("GET", f"/containers/{name}/stats?stream=false&one-shot=true")
        assert (answer.json["preread"], "networks" in answer.json) == ("0001-01-01T00:00:00Z", False)
        assert answer.json["pids_stats"]["current"] == 1


def test_prune_removes_what_has_ended_and_fits(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as running, door.name() as ended, door.name() as other:
        door.docker("run", "-d", "--name", running, "--label", "prune=me", "busybox", "sleep", "1000")
        script = "dd if=/dev/zero of=/file bs=1M count=4 2>/dev/null"
        door.docker("run", "--name", ended, "--label", "prune=me", "busybox", "sh", "-c", script)
        door.docker("create", "--name", other, "--label", "prune=not", "busybox", "true")
        ended_id = door.out("inspect", "-f", "{{.Id}}", ended)
        young = ("--filter", "until=1h", "--filter", "label=prune")
        assert door.out("container", "prune", "-f", *young) == "Total reclaimed space: 0B"
        said = door.out("container", "prune", "-f", "--filter", "label=prune", "--filter", "label!=prune=not")
        assert said.splitlines()[:2] == ["Deleted Containers:", ended_id]
        assert "Total reclaimed space: 4." in said and said.endswith("MB")
        left = door.out("ps", "-a", "--filter", "label=prune", "--format", "{{.Names}}").split()
        assert set(left) == {running, other}
        refused = door.docker("container", "prune", "-f", "--filter", "colour=red", check=False)
        assert refused.returncode == 1 and b"invalid filter 'colour'" in refused.stderr
        told = door.out(
            *("events", "--since", "10m", "--until", str(int(time.time()) + 1), "--filter", "event=prune"),
            *("--format", "{{.Type}} {{.Action}}"),
        )
        assert told.splitlines()[-1] == "container prune"
