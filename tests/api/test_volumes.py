"""Named volumes through plain HTTP: Docker's answers, codes and words."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.hyperd import IMAGE, Door, Hyperd


@pytest.fixture
def name(door: Door) -> Iterator[str]:
    name = f"v{secrets.token_hex(5)}"
    yield name
    door.http("DELETE", f"/volumes/{name}?force=1")


def listed(door: Door, **filters: list[str]) -> set[str]:
    answer = door.http("GET", f"/volumes?filters={quote(json.dumps(filters))}")
    assert answer.status == 200, answer
    return {item["Name"] for item in answer.json["Volumes"]}


def test_a_volume_is_created_inspected_and_removed(door: Door, name: str) -> None:
    answer = door.http("POST", "/volumes/create", {"Name": name, "Labels": {"a": "1"}, "Driver": "local"})
    assert answer.status == 201
    assert answer.json["Name"] == name
    assert answer.json["Labels"] == {"a": "1"}
    assert answer.json["Mountpoint"].endswith(f"/volumes/{name}/_data")
    assert door.http("GET", f"/volumes/{name}").json == answer.json
    assert door.http("POST", "/volumes/create", {"Name": name, "Labels": {"a": "2"}}).json == answer.json
    assert door.http("DELETE", f"/volumes/{name}").status == 204
    gone = door.http("GET", f"/volumes/{name}")
    assert (gone.status, gone.message) == (404, f"get {name}: no such volume")
    missing = door.http("DELETE", f"/volumes/{name}")
    assert (missing.status, missing.message) == (404, f"get {name}: no such volume")
    assert door.http("DELETE", f"/volumes/{name}?force=1").status == 204


def test_a_volume_without_a_name_is_anonymous_and_pruned_first(door: Door, name: str) -> None:
    door.http("POST", "/volumes/create", {"Name": name})
    anonymous = door.http("POST", "/volumes/create", {}).json
    assert len(anonymous["Name"]) == 64
    assert anonymous["Labels"] == {"com.docker.volume.anonymous": ""}
    pruned = door.http("POST", "/volumes/prune").json
    assert anonymous["Name"] in pruned["VolumesDeleted"]
    assert name not in pruned["VolumesDeleted"]
    everything = door.http("POST", f"/volumes/prune?filters={quote(json.dumps({'all': ['true']}))}").json
    assert name in everything["VolumesDeleted"]
    assert listed(door, name=[name]) == set()


def test_prune_obeys_labels_and_older_clients(door: Door, name: str) -> None:
    door.http("POST", "/volumes/create", {"Name": name, "Labels": {"keep": name}})
    unlike = quote(json.dumps({"label!": [f"keep={name}"]}))
    assert name not in door.http("POST", f"/v1.41/volumes/prune?filters={unlike}").json["VolumesDeleted"]
    refused = door.http("POST", f"/v1.41/volumes/prune?filters={quote(json.dumps({'all': ['true']}))}", validate=False)
    assert (refused.status, refused.message) == (400, "invalid filter 'all'")
    like = quote(json.dumps({"label": [f"keep={name}"]}))
    assert door.http("POST", f"/v1.41/volumes/prune?filters={like}").json["VolumesDeleted"] == [name]


def test_lists_are_filtered(door: Door, name: str) -> None:
    door.http("POST", "/volumes/create", {"Name": name, "Labels": {"team": name}})
    assert name in listed(door)
    assert listed(door, name=[name[1:6]]) >= {name}
    assert listed(door, label=[f"team={name}"]) == {name}
    assert listed(door, label=["team=other"]) == set()
    assert name in listed(door, dangling=["true"])
    assert name not in listed(door, dangling=["false"])
    assert name in listed(door, driver=["local"])
    assert listed(door, driver=["other"]) == set()
    assert door.http("GET", f"/volumes?filters={quote(json.dumps({'nonsense': ['1']}))}").status == 400
    assert door.http("GET", f"/volumes?filters={quote(json.dumps({'dangling': ['perhaps']}))}").status == 400


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"Name": "x"}, 400, "volume name is too short"),
        ({"Name": "../x"}, 400, "includes invalid characters for a local volume name"),
        ({"Name": "ok1", "Driver": "flocker"}, 404, 'plugin "flocker" not found'),
        ({"Name": "ok1", "DriverOpts": {"foo": "bar"}}, 400, 'invalid option: "foo"'),
        ({"Name": "ok1", "DriverOpts": {"type": "nfs", "device": ":/x"}}, 501, "not there yet"),
        ({"Name": "ok1", "ClusterVolumeSpec": {}}, 501, "swarm"),
    ],
)
def test_what_cannot_be_is_refused(door: Door, body: dict[str, object], status: int, words: str) -> None:
    answer = door.http("POST", "/volumes/create", body, validate=False)
    assert answer.status == status, answer
    assert words in answer.message
    assert "ok1" not in listed(door)


def test_events_tell_of_volumes(door: Door, name: str) -> None:
    begin = time.time()
    door.http("POST", "/volumes/create", {"Name": name})
    door.http("DELETE", f"/volumes/{name}")
    end = time.time() + 0.01
    target = f"/events?since={begin:.9f}&until={end:.9f}&filters={quote(json.dumps({'volume': [name]}))}"
    events = [json.loads(line) for line in door.http("GET", target).body.splitlines() if line]
    assert [(item["Type"], item["Action"]) for item in events] == [("volume", "create"), ("volume", "destroy")]
    assert all(item["Actor"] == {"ID": name, "Attributes": {"driver": "local"}} for item in events)


def test_a_containers_mounts_are_shown_as_docker_shows_them(hyperd: Hyperd, tmp_path: Path) -> None:
    door = hyperd.door
    host = {
        "Binds": [f"{tmp_path}:/bound:ro", "named-by-bind:/n"],
        "Mounts": [
            {"Type": "volume", "Source": "named", "Target": "/m", "VolumeOptions": {"Labels": {"a": "1"}}},
            {"Type": "bind", "Source": str(tmp_path), "Target": "/b2", "BindOptions": {"Propagation": "rslave"}},
        ],
    }
    created = door.http("POST", "/containers/create", {"Image": IMAGE, "Volumes": {"/anon": {}}, "HostConfig": host})
    assert created.status == 201, created
    id_ = created.json["Id"]
    try:
        shown = door.http("GET", f"/containers/{id_}/json").json
        assert shown["HostConfig"]["Binds"] == host["Binds"]
        assert shown["HostConfig"]["Mounts"] == host["Mounts"]
        assert shown["Config"]["Volumes"] == {"/anon": {}}
        points = {item["Destination"]: item for item in shown["Mounts"]}
        assert points["/bound"] == {
            "Type": "bind",
            "Source": str(tmp_path),
            "Destination": "/bound",
            "Mode": "ro",
            "RW": False,
            "Propagation": "rprivate",
        }
        assert points["/m"] == {
            "Type": "volume",
            "Name": "named",
            "Source": door.http("GET", "/volumes/named").json["Mountpoint"],
            "Destination": "/m",
            "Driver": "local",
            "Mode": "z",
            "RW": True,
            "Propagation": "",
        }
        assert points["/b2"]["Propagation"] == "rslave"
        assert (points["/anon"]["Mode"], len(points["/anon"]["Name"])) == ("", 64)
        assert door.http("GET", "/volumes/named").json["Labels"] == {"a": "1"}
        for value, found in (("named", True), (str(tmp_path), True), ("/anon", True), ("other", False)):
            filters = quote(json.dumps({"volume": [value]}))
            listed_ids = [item["Id"] for item in door.http("GET", f"/containers/json?all=1&filters={filters}").json]
            assert (id_ in listed_ids) is found
        assert {"named", "named-by-bind"} <= listed(door, dangling=["false"])
        refused = door.http("DELETE", "/volumes/named")
        assert (refused.status, refused.message) == (409, f"remove named: volume is in use - [{id_}]")
    finally:
        door.http("DELETE", f"/containers/{id_}?v=1&force=1")
    assert door.http("GET", f"/volumes/{points['/anon']['Name']}").status == 404
    for name in ("named", "named-by-bind"):
        assert door.http("DELETE", f"/volumes/{name}").status == 204


@pytest.mark.parametrize(
    ("host", "status", "words"),
    [
        ({"Binds": ["/nowhere:/a", "/nowhere:/a"]}, 400, "Duplicate mount point: /a"),
        ({"Binds": ["/x:/a:nonsense"]}, 400, "invalid mode: nonsense"),
        ({"Binds": ["/x:/a:rshared"]}, 501, "cannot be honoured"),
        ({"Mounts": [{"Type": "bind", "Source": "/nowhere", "Target": "/a"}]}, 400, "bind source path does not exist"),
        ({"VolumesFrom": ["nobody"]}, 400, "No such container: nobody"),
        ({"VolumeDriver": "flocker", "Binds": ["v1:/a"]}, 404, 'plugin "flocker" not found'),
    ],
)
def test_mounts_that_cannot_be_are_refused(hyperd: Hyperd, host: dict[str, object], status: int, words: str) -> None:
    answer = hyperd.door.http("POST", "/containers/create", {"Image": IMAGE, "HostConfig": host}, validate=False)
    assert answer.status == status, answer
    assert words in answer.message
