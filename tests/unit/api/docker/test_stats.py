"""What a container uses, in dockerd's form."""

from __future__ import annotations

import msgspec
from tests.api import schema

from hyper.api.docker.stats import stats_json
from hyper.engine.model import Container, ContainerConfig, DeviceUse, Usage

SECOND_NS = 1_000_000_000
CONTAINER = Container(
    id="a" * 64, name="one", created_ns=1, image_id="sha256:x", config=ContainerConfig(image="x"), path="x", args=()
)


def used(seconds: int, *, cpu_ns: int = 0, pids_limit: int | None = None) -> Usage:
    """``seconds`` after its start."""
    return Usage(
        time_ns=1_700_000_000 * SECOND_NS + seconds * SECOND_NS,
        cpu_total_ns=cpu_ns,
        cpu_user_ns=cpu_ns,
        cpu_system_ns=0,
        machine_ns=2 * seconds * SECOND_NS,
        cpus=2,
        memory_bytes=100,
        memory_limit_bytes=1000,
        memory_detail={"inactive_file": 30},
        pids=3,
        pids_limit=pids_limit,
        devices=(DeviceUse(major=8, minor=0, read_bytes=5, written_bytes=7, reads=1, writes=1),),
        networks={"eth0": {"rx_bytes": 11, "tx_bytes": 13, "collisions": 1}},
    )


def test_clients_compute_the_share_of_a_processor_as_with_docker() -> None:
    sample = stats_json(CONTAINER, used(11, cpu_ns=2 * SECOND_NS), used(10, cpu_ns=SECOND_NS))
    cpu, before = sample["cpu_stats"], sample["precpu_stats"]
    busy_ns = cpu["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    machine_ns = cpu["system_cpu_usage"] - before["system_cpu_usage"]
    assert busy_ns / machine_ns * cpu["online_cpus"] == 1.0
    assert sample["read"] > sample["preread"]


def test_memory_processes_disks_and_networks() -> None:
    sample = stats_json(CONTAINER, used(1, pids_limit=9), None)
    assert (sample["name"], sample["id"]) == ("/one", CONTAINER.id)
    assert sample["memory_stats"] == {"usage": 100, "limit": 1000, "stats": {"inactive_file": 30}}
    assert sample["pids_stats"] == {"current": 3, "limit": 9}
    assert [(one["op"], one["value"]) for one in sample["blkio_stats"]["io_service_bytes_recursive"]] == [
        ("read", 5),
        ("write", 7),
    ]
    assert sample["networks"]["eth0"]["rx_bytes"] == 11 and "collisions" not in sample["networks"]["eth0"]
    assert sample["preread"] == "0001-01-01T00:00:00Z"


def test_of_one_that_does_not_run_there_are_only_its_names() -> None:
    sample = stats_json(CONTAINER, None, None)
    assert (sample["name"], sample["memory_stats"], "networks" in sample) == ("/one", {}, False)
    assert sample["cpu_stats"]["cpu_usage"]["total_usage"] == 0


def test_samples_are_as_the_description_says() -> None:
    for sample in (stats_json(CONTAINER, used(2), used(1)), stats_json(CONTAINER, None, None)):
        schema.check_response("GET", "/containers/x/stats", 200, msgspec.json.encode(sample))
