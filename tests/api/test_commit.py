"""Images from containers, and what images take, through plain HTTP."""

from __future__ import annotations

import io
import json
import secrets
import tarfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from tests.api.client import Answer
from tests.hyperd import Door, Hyperd

pytestmark = pytest.mark.vm

_SCRIPT = "mkdir /new; echo content > /new/file; rm /etc/passwd; rm -r /bin/vi; echo ready; exec sleep 1000"


@pytest.fixture
def name(hyperd: Hyperd) -> Iterator[str]:
    name = f"c{secrets.token_hex(5)}"
    yield name
    hyperd.door.http("DELETE", f"/containers/{name}?force=1", validate=False)
    for tag in ("one", "two", "latest"):
        hyperd.door.http("DELETE", f"/images/{name}:{tag}?force=1", validate=False)


def run(door: Door, name: str, script: str, **config: Any) -> None:
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {"NetworkMode": "none"}, **config}
    assert door.http("POST", f"/containers/create?name={name}", body).status == 201
    assert door.http("POST", f"/containers/{name}/start").status == 204
    while b"ready" not in door.http("GET", f"/containers/{name}/logs?stdout=1").body:
        assert door.http("GET", f"/containers/{name}/json").json["State"]["Running"]


def commit(door: Door, name: str, body: object = None, **query: Any) -> Answer:
    return door.http("POST", f"/commit?{urlencode({'container': name, **query}, doseq=True)}", body)


def output(door: Door, image: str, *command: str) -> str:
    body = {"Image": image, "HostConfig": {"NetworkMode": "none"}, **({"Cmd": list(command)} if command else {})}
    container = door.http("POST", "/containers/create", body).json["Id"]
    try:
        assert door.http("POST", f"/containers/{container}/start").status == 204
        door.http("POST", f"/containers/{container}/wait")
        return door.http("GET", f"/containers/{container}/logs?stdout=1&stderr=1").body.decode(errors="replace")
    finally:
        door.http("DELETE", f"/containers/{container}?force=1")


@pytest.mark.parametrize("state", ["running", "paused", "stopped"])
def test_a_commit_has_what_the_container_changed(hyperd: Hyperd, name: str, state: str) -> None:
    door = hyperd.door
    run(door, name, _SCRIPT, Labels={"kept": "1"}, Env=["A=1"])
    if state != "running":
        door.http("POST", f"/containers/{name}/{'pause' if state == 'paused' else 'kill'}")
    changes = ["CMD cat /new/file", "ENV B=2 C=3", "EXPOSE 80", "LABEL added=x", "WORKDIR /new", "USER 5"]
    answer = commit(door, name, repo=name, tag="one", comment="why", author="me", changes=changes)
    assert answer.status == 201, answer
    image = door.http("GET", f"/images/{name}:one/json").json
    assert image["Id"] == answer.json["Id"]
    assert (image["Comment"], image["Author"]) == ("why", "me")
    config = image["Config"]
    assert config["Cmd"] == ["/bin/sh", "-c", "cat /new/file"]
    assert [variable for variable in config["Env"] if not variable.startswith("PATH=")] == ["A=1", "B=2", "C=3"]
    assert (config["Labels"], config["WorkingDir"], config["User"]) == ({"kept": "1", "added": "x"}, "/new", "5")
    assert config["ExposedPorts"] == {"80/tcp": {}}
    base = door.http("GET", "/images/busybox/json").json
    assert image["RootFS"]["Layers"][:-1] == base["RootFS"]["Layers"]
    [newest, *_] = door.http("GET", f"/images/{name}:one/history").json
    assert newest["Comment"] == "why"
    assert newest["CreatedBy"] == f"sh -c {_SCRIPT}"
    assert "content" in output(door, f"{name}:one")
    assert "/etc/passwd: No such file" in output(door, f"{name}:one", "ls", "/etc/passwd", "/etc/group")
    state_now = door.http("GET", f"/containers/{name}/json").json["State"]["Status"]
    assert state_now == {"running": "running", "paused": "paused", "stopped": "exited"}[state]


def test_a_commit_of_no_change_adds_no_layer_and_no_mount_point(hyperd: Hyperd, name: str) -> None:
    door = hyperd.door
    run(door, name, "echo ready; exec sleep 1000")
    image = commit(door, name, repo=name).json["Id"]
    base = door.http("GET", "/images/busybox/json").json
    made = door.http("GET", f"/images/{image}/json").json
    assert made["RootFS"]["Layers"] == base["RootFS"]["Layers"]
    assert made["Config"]["Cmd"] == ["sh", "-c", "echo ready; exec sleep 1000"]


def test_a_body_wins_over_the_container(hyperd: Hyperd, name: str) -> None:
    door = hyperd.door
    run(door, name, "echo ready; exec sleep 1000", Env=["A=1"])
    image = commit(door, name, {"Cmd": ["true"], "Env": ["A=2"], "Labels": {"x": "y"}}, repo=name).json["Id"]
    config = door.http("GET", f"/images/{image}/json").json["Config"]
    assert (config["Cmd"], config["Labels"]) == (["true"], {"x": "y"})
    assert "A=2" in config["Env"]
    assert "A=1" not in config["Env"]


def test_bad_commits_are_refused(hyperd: Hyperd, name: str) -> None:
    door = hyperd.door
    run(door, name, "echo ready; exec sleep 1000")
    assert commit(door, "nosuch").status == 404
    assert door.http("POST", "/commit").status == 404
    assert commit(door, name, changes="NOSUCH x").message == "nosuch is not a valid change command"
    assert commit(door, name, repo="Bad Name").status == 400
    assert commit(door, name, repo="x@sha256:" + "0" * 64).status == 400
    assert door.http("GET", f"/containers/{name}/json").json["State"]["Status"] == "running"


def members(answer: Answer) -> dict[str, bytes]:
    assert answer.status == 200, answer
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        return {item.name: tar.extractfile(item).read() for item in tar if item.isreg()}  # type: ignore[union-attr]


def test_saved_images_come_back_as_they_were(hyperd: Hyperd, name: str) -> None:
    door = hyperd.door
    run(door, name, _SCRIPT)
    first = commit(door, name, repo=name, tag="one").json["Id"]
    assert door.http("POST", f"/images/{name}:one/tag?repo={name}&tag=two").status == 201
    by_name = members(door.http("GET", f"/images/{name}:one/get"))
    assert [item["RepoTags"] for item in json.loads(by_name["manifest.json"])] == [[f"{name}:one"]]
    answer = door.http("GET", f"/images/get?names={name}&names=busybox:latest")
    found = members(answer)
    [mine, busybox] = json.loads(found["manifest.json"])
    assert (mine["RepoTags"], busybox["RepoTags"]) == ([f"{name}:one", f"{name}:two"], ["busybox:latest"])
    assert mine["Config"] == "blobs/sha256/" + first.removeprefix("sha256:")
    index = json.loads(found["index.json"])
    names = [item["annotations"]["io.containerd.image.name"] for item in index["manifests"]]
    assert f"docker.io/library/{name}:two" in names
    for item in index["manifests"]:
        manifest = json.loads(found["blobs/sha256/" + item["digest"].removeprefix("sha256:")])
        assert all("blobs/sha256/" + layer["digest"].removeprefix("sha256:") in found for layer in manifest["layers"])
    assert json.loads(found["repositories"])[name].keys() == {"one", "two"}
    by_id = members(door.http("GET", f"/images/{first}/get"))
    assert [item["RepoTags"] for item in json.loads(by_id["manifest.json"])] == [None]
    door.http("DELETE", f"/containers/{name}?force=1")
    for tag in ("one", "two"):
        assert door.http("DELETE", f"/images/{name}:{tag}").status == 200
    loaded = door.http("POST", "/images/load", raw=answer.body, headers={"Content-Type": "application/x-tar"})
    assert f"Loaded image: {name}:two".encode() in loaded.body
    assert door.http("GET", f"/images/{name}:one/json").json["Id"] == first
    assert "content" in output(door, f"{name}:one", "cat", "/new/file")
    missing = door.http("GET", "/images/nosuch/get")
    assert missing.status == 404
    assert door.http("GET", "/images/get").status == 400


def test_an_oci_layout_alone_can_be_made_of_it(hyperd: Hyperd, name: str) -> None:
    """What other tools read: without Docker's own files it still loads."""
    door = hyperd.door
    found = members(door.http("GET", "/images/busybox:latest/get"))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, content in found.items():
            if path not in ("manifest.json", "repositories"):
                info = tarfile.TarInfo(path)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    loaded = door.http("POST", "/images/load", raw=out.getvalue(), headers={"Content-Type": "application/x-tar"})
    assert b"Loaded image: busybox:latest" in loaded.body


def prune(door: Door, **filters: list[str]) -> tuple[set[str], int]:
    answer = door.http("POST", f"/images/prune?filters={quote(json.dumps(filters))}")
    assert answer.status == 200, answer
    return {item.get("Deleted") or item["Untagged"] for item in answer.json["ImagesDeleted"]}, answer.json[
        "SpaceReclaimed"
    ]


def test_prune_takes_what_no_container_has(hyperd: Hyperd, name: str) -> None:
    door = hyperd.door
    run(door, name, _SCRIPT)
    dangling = commit(door, name, changes="LABEL a=1").json["Id"]
    named = commit(door, name, repo=name, tag="one", changes="LABEL a=2").json["Id"]
    assert dangling not in prune(door, label=["a=2"])[0]
    assert dangling not in prune(door, **{"label!": ["a=1"]})[0]
    assert dangling not in prune(door, until=["1h"])[0]
    deleted, freed = prune(door)
    assert dangling in deleted
    assert freed == 0  # its layer is the other's as well
    assert named not in deleted
    deleted, freed = prune(door, dangling=["false"], label=["a=2"])
    assert {f"{name}:one", named} <= deleted
    assert freed > 0
    # The image of a container stays, whatever is asked for.
    assert "busybox:latest" not in prune(door, dangling=["false"])[0]
    assert door.http("POST", '/images/prune?filters={"nosuch":["1"]}').status == 400


def test_what_everything_takes(hyperd: Hyperd, name: str) -> None:
    door = hyperd.door
    run(door, name, _SCRIPT)
    commit(door, name, repo=name, tag="one")
    usage = door.http("GET", "/system/df").json
    images = {(item["RepoTags"] or [""])[0]: item for item in usage["Images"]}
    mine, busybox = images[f"{name}:one"], images["busybox:latest"]
    assert mine["SharedSize"] == busybox["SharedSize"] == busybox["Size"]
    assert usage["LayersSize"] >= mine["Size"]
    assert (busybox["Containers"], mine["Containers"]) == (1, 0)
    [container] = usage["Containers"]
    assert container["SizeRootFs"] > container["SizeRw"] >= 0
    assert usage["BuildCache"] == []
    only = door.http("GET", "/system/df?type=volume").json
    assert only["Volumes"] == []
    assert "Images" not in only
    assert door.http("GET", "/system/df?type=nosuch").status == 400


def test_a_forced_removal_takes_the_name_of_a_running_containers_image(hyperd: Hyperd, name: str) -> None:
    door = hyperd.door
    run(door, name, _SCRIPT)
    image = commit(door, name, repo=name, tag="one").json["Id"]
    user = f"{name}x"
    run(door, user, "echo ready; exec sleep 1000", Image=f"{name}:one")
    try:
        refused = door.http("DELETE", f"/images/{name}:one")
        assert refused.status == 409
        assert "(must force) - container" in refused.message
        forced = door.http("DELETE", f"/images/{name}:one?force=1")
        assert forced.json == [{"Untagged": f"{name}:one"}]
        by_id = door.http("DELETE", f"/images/{image}?force=1")
        assert by_id.status == 409
        assert "(cannot be forced) - image is being used by running container" in by_id.message
    finally:
        door.http("DELETE", f"/containers/{user}?force=1")
    assert {"Deleted": image} in door.http("DELETE", f"/images/{image}").json
