"""``docker ps``: which containers, in which words. And inspect, held against the API file."""

from __future__ import annotations

import msgspec
import pytest
from tests.api import schema

from hyper.api.docker import filters, listing
from hyper.api.docker.inspect import container_json
from hyper.api.docker.listing import Selection, select, status_text, summary_json
from hyper.engine.model import (
    Container,
    ContainerConfig,
    ContainerState,
    NetworkAttachment,
    PortBinding,
    PortRequest,
    Status,
    Ulimit,
)
from hyper.errors import InvalidArgument, NotFound

SECOND_NS = 1_000_000_000
NOW_NS = 1_700_000_000 * SECOND_NS


def container(name: str, status: Status = Status.RUNNING, **state: object) -> Container:
    number = len(name)
    return Container(
        id=(name.encode().hex() + "0" * 64)[:64],
        name=name,
        created_ns=NOW_NS - 100 * SECOND_NS + number * SECOND_NS,
        image_id="sha256:" + "1" * 64,
        config=ContainerConfig(
            image="busybox",
            labels={"app": name},
            exposed_ports=("80/tcp", "9/udp"),
            ports=(PortRequest(container_port=80, host_port=8080),),
            ulimits=(Ulimit(name="nofile", soft=1, hard=2),),
            stop_signal="SIGINT",
            stop_timeout_s=3,
        ),
        path="sh",
        args=("-c", "echo a b"),
        state=ContainerState(status=status, started_ns=NOW_NS - 180 * SECOND_NS, **state),  # type: ignore[arg-type]
        networks=(NetworkAttachment(network="bridge", network_id="ab" * 32, address="172.29.0.2", prefix_length=16),),
        bindings=(PortBinding(container_port=80, protocol="tcp", host_ip="", host_port=8080),),
    )


WEB = container("web")
DONE = container("done", Status.EXITED, exit_code=3, finished_ns=NOW_NS - 5 * SECOND_NS)
FRESH = container("fresh", Status.CREATED)
ALL = [FRESH, DONE, WEB]


def names(filter_text: str = "", *, everything: bool = True, limit: int = 0) -> list[str]:
    selection = Selection(
        filters=filters.parse(filter_text, listing.ACCEPTED),
        all=everything,
        limit=limit,
        image_ids_of=lambda name: frozenset({WEB.image_id}) if name == "busybox" else frozenset(),
    )
    return [item.name for item in select(ALL, selection)]


def test_only_running_ones_unless_all_are_asked_for() -> None:
    assert names(everything=False) == ["web"]
    assert names() == ["fresh", "done", "web"]
    assert names(everything=False, limit=2) == ["fresh", "done"]


@pytest.mark.parametrize(
    ("filter_text", "found"),
    [
        ('{"name": ["we"]}', ["web"]),
        ('{"name": ["^/?done$"]}', ["done"]),
        ('{"name": ["web", "fresh"]}', ["fresh", "web"]),
        ('{"id": ["' + WEB.id[:10] + '"]}', ["web"]),
        ('{"label": ["app"]}', ["fresh", "done", "web"]),
        ('{"label": ["app=web"]}', ["web"]),
        ('{"label": ["app=web", "app=done"]}', []),
        ('{"status": ["exited"]}', ["done"]),
        ('{"status": ["created", "running"]}', ["fresh", "web"]),
        ('{"exited": ["3"]}', ["done"]),
        ('{"exited": ["0"]}', []),
        ('{"ancestor": ["busybox"]}', ["fresh", "done", "web"]),
        ('{"ancestor": ["nginx"]}', []),
        ('{"before": ["done"]}', ["web"]),
        ('{"since": ["done"]}', ["fresh"]),
        ('{"network": ["bridge"]}', ["fresh", "done", "web"]),
        ('{"network": ["none"]}', []),
        ('{"publish": ["8080"]}', ["web"]),
        ('{"publish": ["8000-8100/tcp"]}', ["web"]),
        ('{"publish": ["8080/udp"]}', []),
        ('{"expose": ["9/udp"]}', ["fresh", "done", "web"]),
        ('{"expose": ["81"]}', []),
        ('{"health": ["none"]}', ["fresh", "done", "web"]),
        ('{"health": ["healthy"]}', []),
        ('{"volume": ["x"]}', []),
        ('{"is-task": ["true"]}', []),
        ('{"is-task": ["false"]}', ["fresh", "done", "web"]),
    ],
)
def test_filters_choose(filter_text: str, found: list[str]) -> None:
    assert names(filter_text) == found


def test_filtering_by_status_looks_at_stopped_ones_too() -> None:
    assert names('{"status": ["exited"]}', everything=False) == ["done"]


@pytest.mark.parametrize(
    "filter_text",
    ['{"colour": ["red"]}', '{"status": ["happy"]}', '{"exited": ["x"]}', '{"health": ["fine"]}', '{"publish": ["x"]}'],
)
def test_bad_filters_are_refused(filter_text: str) -> None:
    with pytest.raises(InvalidArgument):
        names(filter_text)


def test_an_unknown_container_in_a_filter_is_not_found() -> None:
    with pytest.raises(NotFound, match="No such container: nobody"):
        names('{"before": ["nobody"]}')


def test_a_hostile_pattern_takes_no_time() -> None:
    assert names('{"name": ["(a+)+$", "(((((((("]}') == []
    assert names('{"name": ["' + ".*" * 1000 + '"]}') == []


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (WEB, "Up 3 minutes"),
        (DONE, "Exited (3) 5 seconds ago"),
        (FRESH, "Created"),
        (container("p", Status.PAUSED), "Up 3 minutes (Paused)"),
        (container("d", Status.DEAD), "Dead"),
        (container("r", Status.REMOVING), "Removal In Progress"),
        (container("r", Status.RESTARTING, exit_code=1, finished_ns=NOW_NS), "Restarting (1) Less than a second ago"),
    ],
)
def test_the_status_column(item: Container, text: str) -> None:
    assert status_text(item, NOW_NS) == text


def test_a_lists_entry_fits_the_api_file_and_shows_ports_and_command() -> None:
    entries = [summary_json(item, "busybox", NOW_NS) for item in ALL]
    schema.check_response("GET", "/v1.50/containers/json", 200, msgspec.json.encode(entries))
    web = entries[2]
    assert web["Command"] == "sh -c 'echo a b'"
    assert web["Ports"] == [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 9, "Type": "udp"},
    ]
    assert entries[0]["Ports"] == []


@pytest.mark.parametrize("item", ALL, ids=lambda item: item.name)
def test_inspect_fits_the_api_file(item: Container) -> None:
    for version in ((1, 24), (1, 50)):
        schema.check_response("GET", "/containers/x/json", 200, msgspec.json.encode(container_json(item, version)))


def test_inspect_has_every_member_of_the_api_files_host_config() -> None:
    description = schema.definitions()["HostConfig"]["allOf"]
    wanted = set(description[1]["properties"]) | set(schema.definitions()["Resources"]["properties"])
    assert wanted <= set(container_json(WEB, (1, 50))["HostConfig"])


def test_inspect_shows_published_and_only_exposed_ports() -> None:
    shown = container_json(WEB, (1, 50))
    assert shown["NetworkSettings"]["Ports"] == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}],
        "9/udp": None,
    }
    assert shown["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}
    assert shown["NetworkSettings"]["IPAddress"] == "172.29.0.2"
    assert shown["State"]["StartedAt"] == "2023-11-14T22:10:20Z"
    assert shown["State"]["FinishedAt"] == "0001-01-01T00:00:00Z"
