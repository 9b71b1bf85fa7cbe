"""Containers through plain HTTP, every answer validated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.hyperd import IMAGE, Door


@contextmanager
def created(door: Door, *command: str, **members: Any) -> Iterator[str]:
    answer = door.http("POST", "/containers/create", {"Image": IMAGE, "Cmd": list(command), **members})
    assert answer.status == 201, answer
    identifier = answer.json["Id"]
    assert len(identifier) == 64
    try:
        yield identifier
    finally:
        door.http("DELETE", f"/containers/{identifier}?force=1")


def test_a_container_lives_from_create_to_removal(door: Door) -> None:
    with created(door, "sleep", "60", Labels={"a": "b"}, StopSignal="SIGKILL") as id_:
        inspected = door.http("GET", f"/containers/{id_}/json").json
        assert inspected["State"]["Status"] == "created"
        assert inspected["Config"]["Labels"]["a"] == "b"
        assert inspected["Config"]["Image"] == IMAGE
        assert (inspected["Path"], inspected["Args"]) == ("sleep", ["60"])
        assert door.http("POST", f"/containers/{id_}/start").status == 204
        assert door.http("POST", f"/containers/{id_}/start").status == 304
        listed = [item for item in door.http("GET", "/containers/json").json if item["Id"] == id_]
        assert listed[0]["State"] == "running"
        assert listed[0]["Status"].startswith("Up ")
        assert listed[0]["Image"] == IMAGE
        assert door.http("DELETE", f"/containers/{id_}").status == 409
        assert door.http("POST", f"/containers/{id_}/pause").status == 204
        assert door.http("GET", f"/containers/{id_}/json").json["State"]["Paused"] is True
        assert door.http("POST", f"/containers/{id_}/unpause").status == 204
        assert door.http("POST", f"/containers/{id_}/stop?t=5").status == 204
        assert door.http("POST", f"/containers/{id_}/stop").status == 304
        state = door.http("GET", f"/containers/{id_}/json").json["State"]
        assert (state["Status"], state["ExitCode"], state["Pid"]) == ("exited", 137, 0)
        assert door.http("POST", f"/containers/{id_}/wait").json == {"StatusCode": 137}
        assert door.http("DELETE", f"/containers/{id_}").status == 204
        assert door.http("GET", f"/containers/{id_}/json").status == 404


@pytest.mark.parametrize("version", ["/v1.24", "/v1.30", "/v1.41", "/v1.44", "/v1.50", ""])
def test_every_version_inspects_and_lists(door: Door, version: str) -> None:
    with created(door, "true") as id_:
        assert door.http("GET", f"{version}/containers/{id_}/json").json["Id"] == id_
        assert id_ in [item["Id"] for item in door.http("GET", f"{version}/containers/json?all=1").json]
        assert door.http("GET", f"{version}/images/{IMAGE}/json").status == 200
        sizes = [item.get("VirtualSize") for item in door.http("GET", f"{version}/images/json").json]
        assert all(sizes) == (version in ("/v1.24", "/v1.30", "/v1.41"))


def test_logs_come_framed_with_times_and_tail(door: Door) -> None:
    with created(door, "sh", "-c", "echo one; echo two; echo bad >&2") as id_:
        door.http("POST", f"/containers/{id_}/start")
        door.http("POST", f"/containers/{id_}/wait")
        answer = door.http("GET", f"/containers/{id_}/logs?stdout=1&tail=1")
        assert answer.body == b"\x01\0\0\0\0\0\0\x04two\n"
        assert answer.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
        old = door.http("GET", f"/v1.41/containers/{id_}/logs?stderr=1")
        assert old.body == b"\x02\0\0\0\0\0\0\x04bad\n"
        assert old.headers["content-type"] == "application/vnd.docker.raw-stream"
        stamped = door.http("GET", f"/containers/{id_}/logs?stdout=1&timestamps=1&tail=1").body[8:]
        assert stamped.endswith(b"Z two\n")
        future = int(time.time()) + 1000
        assert door.http("GET", f"/containers/{id_}/logs?stdout=1&since={future}").body == b""


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", "/containers/nobody/json", None, 404, "No such container: nobody"),
        ("POST", "/containers/nobody/start", None, 404, "No such container: nobody"),
        ("POST", "/containers/nobody/wait", None, 404, "No such container: nobody"),
        ("POST", "/containers/nobody/attach", None, 404, "No such container: nobody"),
        ("POST", "/containers/nobody/exec", {"Cmd": ["true"]}, 404, "No such container: nobody"),
        ("DELETE", "/containers/nobody", None, 404, "No such container: nobody"),
        ("GET", "/containers/nobody/logs", None, 400, "Bad parameters: you must choose at least one stream"),
        ("GET", "/exec/nobody/json", None, 404, "No such exec instance: nobody"),
        ("POST", "/exec/nobody/start", {}, 404, "No such exec instance: nobody"),
        ("POST", "/containers/create", {"Image": "nosuch"}, 404, "No such image: nosuch"),
        ("POST", "/containers/create", {"Image": IMAGE, "HostConfig": {"Memory": 1}}, 400, "Minimum memory limit"),
        ("POST", "/containers/create", {"Image": IMAGE, "HostConfig": {"Binds": ["/:/x:shared"]}}, 501, "shared"),
        ("POST", "/containers/create", {"Image": IMAGE, "HostConfig": {"NetworkMode": "host"}}, 501, "host"),
        ("POST", "/containers/create?name=_x", {"Image": IMAGE}, 400, "Invalid container name (_x)"),
        ("POST", "/containers/create?platform=linux/s390x", {"Image": IMAGE}, 404, "platform"),
        ("GET", "/containers/json?filters={%22x%22:[%22y%22]}", None, 400, "invalid filter 'x'"),
        ("GET", "/containers/json?limit=many", None, 400, "limit"),
        ("GET", "/v1.23/containers/json", None, 400, "client version 1.23 is too old"),
        ("GET", "/v1.51/containers/json", None, 400, "client version 1.51 is too new"),
        ("POST", "/build", None, 501, "docker build"),
        ("GET", "/swarm", None, 501, "swarm"),
    ],
)
def test_errors_have_dockers_status_and_say_why(
    door: Door, method: str, path: str, body: object, status: int, message: str
) -> None:
    answer = door.http(method, path, body)
    assert (answer.status, message in answer.message) == (status, True), answer


def test_bad_bodies_are_refused_and_change_nothing(door: Door) -> None:
    before = door.http("GET", "/containers/json?all=1").json
    headers = {"Content-Type": "application/json"}
    for raw in (b"{", b"[1]", b'{"Image": 3}', b"\xff", b"{" * 100_000):
        assert door.http("POST", "/containers/create", raw=raw, headers=headers).status == 400
    assert door.http("POST", "/containers/create").status == 400
    wrong = door.http("POST", "/containers/create", raw=b"{}", headers={"Content-Type": "text/plain"})
    assert "unsupported Content-Type header (text/plain)" in wrong.message
    assert door.http("POST", "/containers/create", raw=b" " * (5 << 20), headers=headers, validate=False).status == 413
    assert door.http("GET", "/containers/json?all=1").json == before


def test_unknown_paths_and_wrong_methods(door: Door) -> None:
    assert door.http("GET", "/nowhere").message == "page not found"
    assert door.http("GET", "/").message == "page not found"
    wrong = door.http("PUT", "/containers/json")
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET, DELETE")


def test_a_program_that_cannot_be_started_is_told_as_docker_tells_it(door: Door) -> None:
    for program, words in (("nosuch", "executable file not found"), ("/etc/passwd", "permission denied")):
        with created(door, program) as id_:
            answer = door.http("POST", f"/containers/{id_}/start")
            assert (answer.status, words in answer.message) == (400, True), answer
            assert "OCI runtime create failed" in answer.message


def test_an_update_is_shown_by_inspect(door: Door) -> None:
    with created(door, "sleep", "60", HostConfig={"Memory": 64 << 20, "AutoRemove": True}) as id_:
        answer = door.http("POST", f"/containers/{id_}/update", {"Memory": 128 << 20, "NanoCpus": 10**9})
        assert (answer.status, answer.json) == (200, {"Warnings": []})
        host = door.http("GET", f"/containers/{id_}/json").json["HostConfig"]
        assert (host["Memory"], host["NanoCpus"], host["RestartPolicy"]["Name"]) == (128 << 20, 10**9, "no")
        for body, status, message in (
            ({"CpuQuota": 5000}, 409, "CPU Quota cannot be updated as NanoCPUs has already been set"),
            ({"RestartPolicy": {"Name": "always"}}, 409, "because AutoRemove is enabled"),
            ({"Memory": 1024}, 400, "Minimum memory limit allowed is 6MB"),
            ({"Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 1}]}, 501, "Ulimits cannot be honoured"),
        ):
            refused = door.http("POST", f"/containers/{id_}/update", body)
            assert (refused.status, message in refused.message) == (status, True), refused
        assert door.http("GET", f"/containers/{id_}/json").json["HostConfig"] == host
    assert door.http("POST", f"/containers/{id_}/update", {"Memory": 64 << 20}).status == 404


def test_a_restart_policy_is_created_updated_and_shown(door: Door) -> None:
    policy = {"Name": "on-failure", "MaximumRetryCount": 3}
    with created(door, "true", HostConfig={"RestartPolicy": policy}) as id_:
        assert door.http("GET", f"/containers/{id_}/json").json["HostConfig"]["RestartPolicy"] == policy
        answer = door.http("POST", f"/containers/{id_}/update", {"RestartPolicy": {"Name": "unless-stopped"}})
        assert answer.status == 200, answer
        found = door.http("GET", f"/containers/{id_}/json").json
        assert found["HostConfig"]["RestartPolicy"] == {"Name": "unless-stopped", "MaximumRetryCount": 0}
        assert (found["RestartCount"], found["State"]["Restarting"]) == (0, False)
        wrong = door.http("POST", f"/containers/{id_}/update", {"RestartPolicy": policy | {"Name": "always"}})
        assert (wrong.status, "maximum retry count can only be used with 'on-failure'" in wrong.message) == (400, True)


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_the_answer_to_a_start_tells_where_its_time_went(door: Door, verb: str) -> None:
    with created(door, "true", HostConfig={"AutoRemove": True}) as id_:
        answer = door.http("POST", f"/containers/{id_}/{verb}")
        assert answer.status == 204
        told = dict(metric.split(";") for metric in answer.headers["server-timing"].split(", "))
        assert float(told["total"].removeprefix("dur=")) > 0
