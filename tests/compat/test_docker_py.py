"""docker-py as its users use it."""

from __future__ import annotations

import io
import socket
import struct
import tarfile
from collections.abc import Iterator
from typing import Any

import docker
import docker.errors
import pytest
from tests.hyperd import Door

# docker-py leaves the sockets of its execs to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def client(door: Door) -> Iterator[Any]:
    opened = door.client()
    yield opened
    opened.close()


@pytest.fixture
def sleeper(client: Any) -> Iterator[Any]:
    container = client.containers.run("busybox", ["sleep", "60"], detach=True)
    yield container
    container.remove(force=True)


def test_versions_negotiate(door: Door) -> None:
    for version in ("1.24", "1.35", "1.44", "auto"):
        opened = door.client(version)
        try:
            assert opened.ping()
            assert opened.version()["ApiVersion"] == "1.50"
            assert opened.info()["OSType"] == "linux"
        finally:
            opened.close()


def test_run_gives_output(client: Any) -> None:
    assert client.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"


def test_run_raises_on_failure(client: Any) -> None:
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
    assert caught.value.exit_status == 3
    with pytest.raises(docker.errors.ImageNotFound):
        client.api.create_container("nosuchimage", ["true"])
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("nobody")


def test_the_life_of_a_container(client: Any) -> None:
    container = client.containers.create(
        "busybox", ["sh", "-c", "echo one; echo two"], labels={"k": "v"}, environment={"A": "b"}
    )
    try:
        assert container.status == "created"
        container.start()
        assert container.wait()["StatusCode"] == 0
        container.reload()
        assert container.status == "exited"
        assert container.labels["k"] == "v"
        assert container.logs() == b"one\ntwo\n"
        assert container.logs(tail=1) == b"two\n"
        assert (
            list(container.logs(stream=True)) == [b"one\n", b"two\n"]
            or b"".join(container.logs(stream=True)) == b"one\ntwo\n"
        )
        assert container.id in [item.id for item in client.containers.list(all=True, filters={"label": "k=v"})]
    finally:
        container.remove()


def test_exec(sleeper: Any) -> None:
    result = sleeper.exec_run(["sh", "-c", "echo out; echo err >&2; exit 2"], demux=True)
    assert (result.exit_code, result.output) == (2, (b"out\n", b"err\n"))
    assert sleeper.exec_run(["echo", "tty"], tty=True).output == b"tty\r\n"
    assert b"".join(sleeper.exec_run(["echo", "piece"], stream=True).output) == b"piece\n"
    assert sleeper.exec_run("nosuch").exit_code == 127


def test_pause_stop_restart_kill_rename(client: Any, sleeper: Any) -> None:
    sleeper.pause()
    sleeper.reload()
    assert sleeper.status == "paused"
    sleeper.unpause()
    sleeper.stop(timeout=0)
    sleeper.reload()
    assert sleeper.status == "exited"
    sleeper.restart(timeout=0)
    sleeper.rename(f"r{sleeper.short_id}")
    sleeper.reload()
    assert (sleeper.status, sleeper.name) == ("running", f"r{sleeper.short_id}")
    sleeper.kill()
    with pytest.raises(docker.errors.APIError) as caught:
        sleeper.kill()
    assert caught.value.status_code == 409


def frames(sock: socket.socket) -> dict[int, bytes]:
    """Everything until the end, by stream."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    streams = {1: b"", 2: b""}
    while data:
        number, size = struct.unpack(">BxxxL", data[:8])
        streams[number] += data[8 : 8 + size]
        data = data[8 + size :]
    return streams


def test_an_attached_socket_half_closes(client: Any) -> None:
    config = client.api.create_container_config("busybox", ["sh", "-c", "cat; echo done >&2"], stdin_open=True)
    config["StdinOnce"] = True  # what docker run -i sets: the end of this client's input is the end of stdin
    created = client.api.create_container_from_config(config)["Id"]
    try:
        attached = client.api.attach_socket(created, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        client.api.start(created)
        with attached._sock as sock:
            sock.sendall(b"through the socket\n")
            sock.shutdown(socket.SHUT_WR)
            assert frames(sock) == {1: b"through the socket\n", 2: b"done\n"}
        attached.close()
    finally:
        client.api.remove_container(created, force=True)


def test_images(client: Any) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("empty"))
    client.api.import_image_from_data(buffer.getvalue(), repository="from-py", tag="1")
    image = client.images.get("from-py:1")
    assert image.tags == ["from-py:1"]
    assert image.tag("from-py", "2")
    assert set(client.images.get("from-py:1").tags) == {"from-py:1", "from-py:2"}
    assert image.id in [item.id for item in client.images.list("from-py")]
    assert image.history()[0]["Id"] == image.id
    client.images.remove("from-py:1")
    client.images.remove("from-py:2")
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("from-py:2")


def test_events_are_decoded(client: Any, sleeper: Any) -> None:
    created = int(sleeper.attrs["Created"][17:19])
    assert 0 <= created < 60
    events = client.events(decode=True, since=0, until=1, filters={"container": sleeper.id})
    assert list(events) == []


def test_networks_and_volumes_can_be_asked_for(client: Any) -> None:
    assert "none" in [network.name for network in client.networks.list()]
    assert client.volumes.list() == []


def test_update(sleeper: Any) -> None:
    assert sleeper.update(mem_limit="64m", cpu_shares=512) == {"Warnings": []}
    sleeper.reload()
    assert (sleeper.attrs["HostConfig"]["Memory"], sleeper.attrs["HostConfig"]["CpuShares"]) == (64 << 20, 512)
    with pytest.raises(docker.errors.APIError, match="Minimum memory limit allowed is 6MB"):
        sleeper.update(mem_limit="1k")
