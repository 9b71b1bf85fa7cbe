"""System, networks, images and events through plain HTTP, every answer validated."""

from __future__ import annotations

import io
import tarfile
import time

from tests.hyperd import IMAGE, Door


def test_ping_says_what_clients_look_for(door: Door) -> None:
    for method in ("GET", "HEAD"):
        answer = door.http(method, "/_ping")
        assert answer.body == (b"OK" if method == "GET" else b"")
        assert answer.headers["api-version"] == "1.50"
        assert answer.headers["docker-experimental"] == "false"
        assert answer.headers["ostype"] == "linux"
        assert answer.headers["builder-version"] == "1"
        assert answer.headers["server"].startswith("Hyper/")


def test_version_and_info(door: Door) -> None:
    version = door.http("GET", "/version").json
    assert (version["ApiVersion"], version["MinAPIVersion"]) == ("1.50", "1.24")
    info = door.http("GET", "/v1.24/info").json
    assert info["Driver"] == "erofs"
    assert info["Images"] >= 1
    assert {"hypervisor", "accelerator", "kernel_path", "template", "pool"} <= set(door.http("GET", "/hyper/info").json)


def test_what_clients_ask_by_themselves_is_there(door: Door) -> None:
    assert door.http("GET", "/plugins").json == []
    assert door.http("GET", "/volumes").status == 200
    networks = {item["Name"]: item for item in door.http("GET", "/networks").json}
    assert "none" in networks
    for network in networks.values():
        assert door.http("GET", f"/networks/{network['Name']}").json["Id"] == network["Id"]
        assert door.http("GET", f"/networks/{network['Id'][:12]}").json["Name"] == network["Name"]
    assert door.http("GET", "/networks/nowhere").message == "network nowhere not found"
    found = door.http("GET", '/networks?filters={"name":{"none":true}}').json
    assert [item["Name"] for item in found] == ["none"]


def root_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("hello")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"hello"))
    return buffer.getvalue()


def test_images_are_imported_tagged_listed_and_removed(door: Door) -> None:
    target = "/images/create?fromSrc=-&repo=api-test&tag=1&message=why&changes=CMD%20%5B%22x%22%5D&changes=ENV%20a%3Db"
    data = root_tar()
    answer = door.http("POST", target, raw=(data[at : at + 1000] for at in range(0, len(data), 1000)))
    assert answer.status == 200, answer
    assert '"status":"sha256:' in answer.body.decode()
    inspected = door.http("GET", "/images/api-test:1/json").json
    assert inspected["Config"]["Cmd"] == ["x"]
    assert "a=b" in inspected["Config"]["Env"]
    assert inspected["RepoTags"] == ["api-test:1"]
    assert door.http("POST", "/images/api-test:1/tag?repo=api-test&tag=2").status == 201
    listed = door.http("GET", '/images/json?filters={"reference":["api-test"]}').json
    assert sorted(listed[0]["RepoTags"]) == ["api-test:1", "api-test:2"]
    assert door.http("GET", "/images/api-test:1/history").json[0]["Id"] == inspected["Id"]
    assert door.http("DELETE", "/images/api-test:2").json == [{"Untagged": "api-test:2"}]
    removed = door.http("DELETE", "/images/api-test:1").json
    assert {"Untagged": "api-test:1"} in removed
    assert {"Deleted": inspected["Id"]} in removed
    assert door.http("GET", "/images/api-test:1/json").status == 404


def test_a_broken_archive_is_refused_and_leaves_nothing(door: Door) -> None:
    before = door.http("GET", "/images/json").json
    for raw in (b"", b"nonsense", b"\0" * 10240, root_tar()[:700]):
        answer = door.http("POST", "/images/load?quiet=1", raw=raw, headers={"Content-Type": "application/x-tar"})
        assert answer.status == 400, answer
        assert answer.message
    assert door.http("GET", "/images/json").json == before


def test_events_tell_what_happened_between_two_times(door: Door) -> None:
    begin = time.time()
    created = door.http("POST", "/containers/create", {"Image": IMAGE, "Cmd": ["true"]}).json["Id"]
    door.http("POST", f"/containers/{created}/start")
    door.http("POST", f"/containers/{created}/wait")
    door.http("DELETE", f"/containers/{created}?force=1")
    end = time.time() + 0.01
    target = f'/events?since={begin:.9f}&until={end:.9f}&filters={{"container":["{created}"]}}'
    answer = door.http("GET", target)
    lines = [line for line in answer.body.splitlines() if line]
    actions = [line.split(b'"Action":"')[1].split(b'"')[0] for line in lines]
    assert actions == [b"create", b"start", b"die", b"destroy"]
