"""Files of running, paused and stopped containers through plain HTTP: Docker's names, codes and words."""

from __future__ import annotations

import base64
import gzip
import io
import json
import stat
import tarfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from tests.api.client import Answer
from tests.hyperd import Door, Hyperd

pytestmark = pytest.mark.vm

_SETUP = (
    "mkdir -p /bar/root /bar/quux /bar/empty; echo hello > /bar/root/foo; echo world > /bar/quux/baz;"
    "ln -s ../quux/baz /bar/root/up; ln -s quux/baz /bar/filesymlink; ln -s quux /bar/dirsymlink;"
    "ln -s /asdf /bar/notarget; chown 1000:1001 /bar/quux/baz; chmod 4751 /bar/quux/baz;"
    "ln /bar/quux/baz /bar/quux/second; mkfifo /bar/fifo; echo ready; exec sleep 1000"
)


def create(door: Door, **config: Any) -> str:
    answer = door.http("POST", "/containers/create", {"Image": "busybox", **config})
    assert answer.status == 201, answer
    return str(answer.json["Id"])


def ready(door: Door, container: str) -> None:
    assert door.http("POST", f"/containers/{container}/start").status == 204
    while b"ready" not in door.http("GET", f"/containers/{container}/logs?stdout=1").body:
        assert door.http("GET", f"/containers/{container}/json").json["State"]["Running"]


@pytest.fixture(scope="module", params=["running", "paused", "stopped"])
def made(hyperd: Hyperd, request: pytest.FixtureRequest) -> Iterator[tuple[Door, str]]:
    """A container with files in it, in each state that it can be looked at in."""
    door = hyperd.door
    container = create(door, Cmd=["sh", "-c", _SETUP], HostConfig={"NetworkMode": "none"})
    ready(door, container)
    if request.param == "paused":
        assert door.http("POST", f"/containers/{container}/pause").status == 204
    elif request.param == "stopped":
        assert door.http("POST", f"/containers/{container}/kill").status == 204
    yield door, container
    door.http("DELETE", f"/containers/{container}?force=1")


def archive(door: Door, container: str, path: str, method: str = "GET", **more: Any) -> Answer:
    options = more.pop("options", {})
    query = urlencode({"path": path, **options})
    return door.http(method, f"/containers/{container}/archive?{query}", **more)


def entries(answer: Answer) -> dict[str, str]:
    """Name to content, folders with a slash at their end."""
    assert answer.status == 200, answer
    found = {}
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        for member in tar:
            content = tar.extractfile(member).read().decode("latin-1") if member.isreg() else ""  # type: ignore[union-attr]
            found[member.name + ("/" if member.isdir() and member.name != "/" else "")] = content
    return found


def path_stat(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer
    header = next(value for name, value in answer.headers.items() if name.lower() == "x-docker-container-path-stat")
    document = json.loads(base64.b64decode(header))
    assert isinstance(document, dict)
    return document


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def file(name: str, **attributes: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/bar/root/", {"root/": "", "root/foo": "hello\n", "root/up": ""}),
        ("/bar/root/.", {"./": "", "./foo": "hello\n", "./up": ""}),
        ("bar/quux/baz", {"baz": "world\n"}),
        ("bar/filesymlink", {"filesymlink": ""}),
        ("bar/dirsymlink", {"dirsymlink": ""}),
        ("bar/dirsymlink/baz", {"baz": "world\n"}),
        ("bar/notarget", {"notarget": ""}),
        ("bar/empty", {"empty/": ""}),
    ],
)
def test_entries_are_called_as_docker_calls_them(made: tuple[Door, str], path: str, wanted: dict[str, str]) -> None:
    assert entries(archive(*made, path)) == wanted


def test_a_folder_link_with_a_slash_is_the_folder(made: tuple[Door, str]) -> None:
    assert entries(archive(*made, "/bar/dirsymlink/"))["dirsymlink/baz"] == "world\n"
    assert entries(archive(*made, "/bar/dirsymlink/."))["./baz"] == "world\n"


def test_owner_mode_links_and_kinds_are_kept(made: tuple[Door, str]) -> None:
    answer = archive(*made, "/bar")
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        baz, second, fifo = (tar.getmember(f"bar/{name}") for name in ("quux/baz", "quux/second", "fifo"))
        assert (baz.uid, baz.gid, baz.mode) == (1000, 1001, 0o4751)
        assert (second.islnk(), second.linkname) == (True, "bar/quux/baz")
        assert fifo.isfifo()
        assert tar.getmember("bar/root/up").linkname == "../quux/baz"


def test_the_stat_header_is_gos(made: tuple[Door, str]) -> None:
    found = path_stat(archive(*made, "/bar/quux/baz", "HEAD"))
    assert (found["name"], found["size"], found["linkTarget"]) == ("baz", 6, "")
    assert found["mode"] == 0o751 | 1 << 23
    assert found["mtime"].startswith("20")
    folder = path_stat(archive(*made, "/bar/quux/", "HEAD"))
    assert (folder["name"], folder["mode"] & 1 << 31) == ("quux", 1 << 31)
    link = path_stat(archive(*made, "/bar/filesymlink"))
    assert (link["linkTarget"], link["mode"] & 1 << 27) == ("/bar/quux/baz", 1 << 27)
    assert path_stat(archive(*made, "/bar/notarget"))["linkTarget"] == "/asdf"
    assert path_stat(archive(*made, "/"))["name"] == "/"
    assert stat.S_IMODE(folder["mode"]) == 0o755


def test_what_is_not_there_is_told_in_dockers_words(made: tuple[Door, str]) -> None:
    door, container = made
    for method, more in (("GET", {}), ("PUT", {"raw": tar_of()})):
        missing = archive(door, container, "/dne", method, **more)
        assert (missing.status, missing.message) == (404, f"Could not find the file /dne in container {container}")
        no_folder = archive(door, container, "/etc/passwd/", method, **more)
        assert no_folder.status == 400
        assert "not a directory" in no_folder.message
        assert archive(door, container, "", method, **more).status == 400
    assert archive(door, container, "/etc/passwd", "PUT", raw=tar_of()).message == (
        "extraction point is not a directory"
    )
    assert archive(door, container, "/dne", "HEAD", validate=False).status == 404
    assert archive(door, "nosuch", "/etc").status == 404


def test_files_go_in_and_come_out_again(made: tuple[Door, str]) -> None:
    members = (file("in/deep/file", uid=7, gid=8, mode=0o640), b"x" * 300_000), (file("in/empty"), b"")
    assert archive(*made, "/bar", "PUT", raw=tar_of(*members)).status == 200
    answer = archive(*made, "/bar/in")
    assert entries(answer)["in/deep/file"] == "x" * 300_000
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        info = tar.getmember("in/deep/file")
        assert (info.uid, info.gid, info.mode) == (7, 8, 0o640)


def test_a_compressed_archive_is_taken(made: tuple[Door, str]) -> None:
    raw = gzip.compress(tar_of((file("zipped"), b"content" * 100_000)))
    assert archive(*made, "/bar", "PUT", raw=raw).status == 200
    assert entries(archive(*made, "/bar/zipped")) == {"zipped": "content" * 100_000}
    assert archive(*made, "/bar", "PUT", raw=raw[: len(raw) // 2]).status >= 400


def test_a_hostile_archive_changes_nothing_outside(made: tuple[Door, str]) -> None:
    for info in (
        file("../evil"),
        file("a/../../evil"),
        file("link", type=tarfile.SYMTYPE, linkname="../../etc/passwd"),
        file("hard", type=tarfile.LNKTYPE, linkname="../etc/passwd"),
    ):
        refused = archive(*made, "/bar/empty", "PUT", raw=tar_of((info, b"")))
        assert refused.status == 400, info.name
    assert archive(*made, "/bar/evil").status == 404
    assert archive(*made, "/bar/empty", "PUT", raw=b"this is no tar at all" * 100).status == 400


def test_folders_and_files_take_each_others_place_only_when_allowed(made: tuple[Door, str]) -> None:
    clash = tar_of((file("spot"), b"x"))
    assert archive(*made, "/bar", "PUT", raw=tar_of((file("spot", type=tarfile.DIRTYPE), b""))).status == 200
    refused = archive(*made, "/bar", "PUT", raw=clash, options={"noOverwriteDirNonDir": "true"})
    assert (refused.status, refused.message) == (
        400,
        'cannot overwrite directory "/bar/spot" with non-directory "/bar"',
    )
    assert archive(*made, "/bar", "PUT", raw=clash).status == 200


def test_a_file_written_to_a_stopped_container_is_there_when_it_starts(hyperd: Hyperd) -> None:
    door = hyperd.door
    container = create(door, Cmd=["cat", "/message"], HostConfig={"NetworkMode": "none"})
    assert archive(door, container, "/", "PUT", raw=tar_of((file("message"), b"from outside\n"))).status == 200
    # The sandbox that held its disk lets go of it at once.
    assert door.http("POST", f"/containers/{container}/start").status == 204
    assert door.http("POST", f"/containers/{container}/wait").json["StatusCode"] == 0
    assert b"from outside" in door.http("GET", f"/containers/{container}/logs?stdout=1").body
    assert door.http("DELETE", f"/containers/{container}").status == 204


def test_everything_can_be_made_the_containers_users(hyperd: Hyperd) -> None:
    door = hyperd.door
    container = create(door, User="nobody", HostConfig={"NetworkMode": "none"})
    raw = tar_of((file("owned", uid=5), b""))
    assert archive(door, container, "/tmp", "PUT", raw=raw, options={"copyUIDGID": "true"}).status == 200
    with tarfile.open(fileobj=io.BytesIO(archive(door, container, "/tmp/owned").body)) as tar:
        assert tar.getmember("owned").uid == 65534
    assert door.http("DELETE", f"/containers/{container}").status == 204


def test_a_read_only_root_takes_nothing(hyperd: Hyperd) -> None:
    door = hyperd.door
    container = create(door, HostConfig={"NetworkMode": "none", "ReadonlyRootfs": True})
    refused = archive(door, container, "/tmp", "PUT", raw=tar_of())
    assert (refused.status, refused.message) == (403, "container rootfs is marked read-only")
    assert door.http("DELETE", f"/containers/{container}").status == 204


def changes(door: Door, container: str) -> list[tuple[str, int]]:
    answer = door.http("GET", f"/containers/{container}/changes")
    assert answer.status == 200, answer
    return [(item["Path"], item["Kind"]) for item in answer.json]


def test_changes_are_added_changed_and_deleted(hyperd: Hyperd) -> None:
    door = hyperd.door
    script = (
        "mkdir /foo; echo xyzzy > /foo/bar; rm /etc/passwd; echo x >> /etc/group; mkdir /tmp/x; rmdir /tmp/x;"
        "echo ready; exec sleep 1000"
    )
    container = create(door, Cmd=["sh", "-c", script], HostConfig={"NetworkMode": "none"})
    assert changes(door, container) == []
    ready(door, container)
    wanted = [("/etc", 0), ("/etc/group", 0), ("/etc/passwd", 2), ("/foo", 1), ("/foo/bar", 1), ("/tmp", 0)]
    assert changes(door, container) == wanted
    door.http("POST", f"/containers/{container}/pause")
    assert changes(door, container) == wanted
    door.http("POST", f"/containers/{container}/unpause")
    door.http("POST", f"/containers/{container}/kill")
    assert changes(door, container) == wanted
    assert door.http("DELETE", f"/containers/{container}").status == 204
    assert door.http("GET", f"/containers/{container}/changes").status == 404


def test_export_is_the_root_file_system(made: tuple[Door, str]) -> None:
    door, container = made
    answer = door.http("GET", f"/containers/{container}/export")
    found = entries(answer)
    assert found["bar/root/foo"] == "hello\n"
    assert "bin/busybox" in found
    # What is mounted is not part of it; the places are.
    assert "proc/" in found
    assert not any(name.startswith("proc/") and name != "proc/" for name in found)
