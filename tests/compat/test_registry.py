"""pull, push, login, search and run of an absent image with the real CLI and docker-py, against a real registry."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker.errors
import pytest
from tests.compat.test_docker_cli_images import saved_image
from tests.hyperd import KINDS, POOLED, Door, needs_docker_cli, running_host_engine, running_hyperd
from tests.netns import NetworkNamespace
from tests.registry import PASSWORD, USER, CuttingProxy, RealRegistry, certificate

HYPER = (sys.executable, "-c", "import sys; sys.argv[0] = 'hyper'; from hyper.cli.main import main; main()")
OPEN, LOCKED, SECURE, PLAIN = "127.0.0.1:5000", "127.0.0.1:5001", "192.0.2.10:5002", "192.0.2.10:5003"
"""Of the registries: anybody's; with a password; with TLS away from loopback; plain HTTP away from loopback."""


@dataclass(frozen=True)
class Place:
    """A door and the registries in its network."""

    door: Door
    namespace: NetworkNamespace


@pytest.fixture(scope="module", params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    needs_docker_cli()
    folder = tmp_path_factory.mktemp("registries")
    cert, key = certificate(folder, "192.0.2.10")
    trusted = folder / "certs.d" / SECURE
    trusted.mkdir(parents=True)
    (trusted / "ca.crt").write_bytes(cert.read_bytes())
    flags = ("--registry-certs", str(folder / "certs.d"))
    with contextlib.ExitStack() as stack:
        if request.param == "host":
            namespace = stack.enter_context(NetworkNamespace())
            door = stack.enter_context(running_host_engine(*flags, namespace=namespace))
        else:
            daemon = stack.enter_context(running_hyperd(*POOLED, *flags))
            namespace, door = daemon.namespace, daemon.door
        namespace.ip("address", "add", "192.0.2.10/32", "dev", "lo")
        stack.enter_context(RealRegistry(namespace, folder / "open", port=5000))
        stack.enter_context(RealRegistry(namespace, folder / "locked", port=5001, locked=True))
        stack.enter_context(
            RealRegistry(namespace, folder / "secure", address="192.0.2.10", port=5002, tls=(cert, key))
        )
        stack.enter_context(RealRegistry(namespace, folder / "plain", address="192.0.2.10", port=5003))
        yield Place(door, namespace)


def hyper(door: Door, *words: str, input: bytes | None = None, code: int = 0) -> subprocess.CompletedProcess[bytes]:
    """Our own command line, to its end."""
    result = subprocess.run(
        [*HYPER, "-H", door.address, *words],
        input=input,
        stdin=None if input is not None else subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        env=door.environment,
    )
    assert result.returncode == code, result
    return result


@pytest.fixture
def pushed(place: Place) -> Iterator[str]:
    """An image in the open registry that is not here any more."""
    name = f"{OPEN}/team/app:v1"
    place.door.docker("load", input=saved_image(name, b"hello"))
    place.door.docker("push", name)
    place.door.docker("rmi", name)
    yield name
    place.door.docker("rmi", "-f", name, check=False)


def test_push_and_pull_tell_what_docker_tells(place: Place, tmp_path: Path) -> None:
    door, name = place.door, f"{OPEN}/words:1"
    door.docker("load", input=saved_image(name, b"words"))
    lines = door.out("push", name).splitlines()
    assert lines[0] == f"The push refers to repository [{OPEN}/words]"
    layer = json.loads(door.out("image", "inspect", name))[0]["RootFS"]["Layers"][0][7:19]
    assert lines[1] == f"{layer}: Preparing"
    assert f"{layer}: Pushed" in lines
    assert lines[-1].startswith("1: digest: sha256:") and " size: " in lines[-1]
    digest = lines[-1].split()[2]
    assert f"{layer}: Layer already exists" in door.out("push", name).splitlines()

    door.docker("rmi", name)
    lines = door.out("pull", name).splitlines()
    assert lines[0] == "1: Pulling from words"
    assert lines[1].endswith(": Pulling fs layer")
    assert lines[-3:] == [f"Digest: {digest}", f"Status: Downloaded newer image for {name}", name]
    assert [line.partition(": ")[2] for line in lines[2:-3]] == [
        "Verifying Checksum",
        "Download complete",
        "Pull complete",
    ]
    assert door.out("pull", name).splitlines()[-2] == f"Status: Image is up to date for {name}"
    assert door.out("pull", "-q", name) == name
    shown = door.out("images", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}", f"{OPEN}/words")
    assert shown == f"{OPEN}/words 1 {digest}"
    assert json.loads(door.out("image", "inspect", name))[0]["RepoDigests"] == [f"{OPEN}/words@{digest}"]
    door.docker("rmi", name)
    by_digest = f"{OPEN}/words@{digest}"
    assert door.out("pull", by_digest).splitlines()[-1] == by_digest
    assert door.out("images", "-q", f"{OPEN}/words") == ""
    door.docker("rmi", by_digest)


def test_running_an_absent_image_pulls_it(place: Place, pushed: str) -> None:
    door = place.door
    with door.name() as name:
        result = door.docker("create", "--name", name, pushed)
        assert f"Unable to find image '{pushed}' locally".encode() in result.stderr
        assert b"Status: Downloaded newer image for" in result.stderr


def test_what_was_pulled_runs(place: Place) -> None:
    door, name = place.door, f"{OPEN}/tools/busybox:1"
    door.docker("tag", "busybox", name)
    door.docker("push", name)
    door.docker("rmi", name, "busybox")
    assert door.out("images", "-q") == ""
    try:
        assert door.out("run", "--rm", "--network", "none", name, "echo", "hello").splitlines()[-1] == "hello"
    finally:
        door.docker("tag", name, "busybox")


def test_a_line_that_is_cut_again_and_again(place: Place) -> None:
    """A proxy in front of the real registry ends each of its first connections in the middle of a blob."""
    door, noise = place.door, secrets.token_bytes(3 << 20)
    door.docker("load", input=saved_image(f"{OPEN}/big:1", noise))
    digest = door.out("push", f"{OPEN}/big:1").split()[-3]
    door.docker("rmi", f"{OPEN}/big:1")
    with CuttingProxy(place.namespace, 5009, ("127.0.0.1", 5000), after=1_500_000, times=2) as proxy:
        lines = door.out("pull", "127.0.0.1:5009/big:1").splitlines()
    assert proxy.cuts == 2
    assert any("Retrying in" in line for line in lines)
    assert f"Digest: {digest}" in lines
    door.docker("rmi", "127.0.0.1:5009/big:1")


def test_all_tags(place: Place) -> None:
    door = place.door
    for tag in ("a", "b"):
        door.docker("load", input=saved_image(f"{OPEN}/many:{tag}", tag.encode()))
    assert door.out("push", "-a", f"{OPEN}/many").count("digest: sha256:") == 2
    door.docker("rmi", f"{OPEN}/many:a", f"{OPEN}/many:b")
    door.docker("pull", "-a", f"{OPEN}/many")
    assert set(door.out("images", "--format", "{{.Tag}}", f"{OPEN}/many").split()) == {"a", "b"}
    door.docker("rmi", f"{OPEN}/many:a", f"{OPEN}/many:b")


def test_a_layer_known_elsewhere_in_the_registry_is_mounted(place: Place, pushed: str) -> None:
    door = place.door
    door.docker("pull", pushed)
    door.docker("tag", pushed, f"{OPEN}/fork:1")
    assert "Mounted from team/app" in door.out("push", f"{OPEN}/fork:1")
    door.docker("rmi", f"{OPEN}/fork:1")


def test_login_opens_a_locked_registry(place: Place) -> None:
    door, name = place.door, f"{LOCKED}/secret:1"
    door.docker("load", input=saved_image(name, b"secret"))
    refused = door.docker("push", name, check=False)
    assert (refused.returncode, refused.stderr.decode().strip()) == (1, "no basic auth credentials")
    refused = door.docker("pull", name, check=False)
    said = f'Error response from daemon: Head "http://{LOCKED}/v2/secret/manifests/1": no basic auth credentials'
    assert (refused.returncode, refused.stderr.decode().strip()) == (1, said)
    wrong = door.docker("login", "-u", USER, "--password-stdin", LOCKED, input=b"wrong", check=False)
    assert wrong.returncode == 1
    said = f"login attempt to http://{LOCKED}/v2/ failed with status: 401 Unauthorized"
    assert wrong.stderr.decode().strip().endswith(said)
    assert "Login Succeeded" in door.out("login", "-u", USER, "--password-stdin", LOCKED, input=PASSWORD.encode())
    door.docker("push", name)
    door.docker("rmi", name)
    door.docker("pull", name)
    door.docker("logout", LOCKED)
    assert door.docker("pull", name, check=False).returncode == 1
    door.docker("rmi", name)


def test_tls_with_an_authority_of_ones_own(place: Place) -> None:
    door, name = place.door, f"{SECURE}/tls:1"
    door.docker("load", input=saved_image(name, b"tls"))
    door.docker("push", name)
    door.docker("rmi", name)
    door.docker("pull", name)
    door.docker("rmi", name)


def test_plain_http_away_from_loopback_is_refused(place: Place) -> None:
    result = place.door.docker("pull", f"{PLAIN}/x:1", check=False)
    assert result.returncode == 1
    assert b"http: server gave HTTP response to HTTPS client" in result.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"{OPEN}/nosuch:1", f"manifest for {OPEN}/nosuch:1 not found: manifest unknown: manifest unknown"),
        ("127.0.0.1:1/x:1", 'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'),
    ],
)
def test_failures_have_dockers_words(place: Place, name: str, said: str) -> None:
    result = place.door.docker("pull", name, check=False)
    assert result.returncode == 1
    assert result.stderr.decode().strip() == f"Error response from daemon: {said}"


def test_pushes_that_cannot_be(place: Place) -> None:
    result = place.door.docker("push", f"{OPEN}/nothing:1", check=False)
    assert f"An image does not exist locally with the tag: {OPEN}/nothing".encode() in result.stderr
    result = place.door.docker("search", f"{OPEN}/x", check=False)
    assert b"Unexpected status code 404" in result.stderr


def test_answers_fit_the_description(place: Place, pushed: str) -> None:
    door = place.door
    pulled = door.http("POST", f"/images/create?fromImage={OPEN}/team/app&tag=v1")
    assert pulled.status == 200
    lines = [json.loads(line) for line in pulled.body.splitlines()]
    assert lines[0] == {"status": "Pulling from team/app", "id": "v1"}
    assert all(line["progressDetail"] == {} for line in lines if line["status"] == "Pulling fs layer")
    missing = door.http("POST", f"/images/create?fromImage={OPEN}/team/app&tag=v9")
    assert missing.status == 404 and missing.message.startswith("manifest for ")
    assert door.http("POST", "/images/create?fromImage=UPPER").status == 400
    found = door.http("GET", f"/distribution/{pushed}/json")
    assert found.status == 200
    assert found.json["Descriptor"]["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert found.json["Platforms"] == [{"architecture": "amd64", "os": "linux"}]
    assert door.http("GET", f"/distribution/{OPEN}/nosuch/json").status == 404
    bad = door.http("POST", f"/images/{OPEN}/team/app/push?tag=v1", headers={"X-Registry-Auth": "%%%"})
    assert bad.status == 400
    ended = door.http("POST", f"/images/{OPEN}/team/app/push?tag=v1", headers={"X-Registry-Auth": "e30="})
    assert json.loads(ended.body.splitlines()[-1])["aux"]["Tag"] == "v1"
    wrong = {"username": USER, "password": "wrong", "serveraddress": LOCKED}
    assert door.http("POST", "/auth", wrong).status == 500
    assert door.http("POST", "/auth", {**wrong, "password": PASSWORD}).json["Status"] == "Login Succeeded"
    config = door.http("GET", "/info").json["RegistryConfig"]
    assert config["InsecureRegistryCIDRs"] == ["::1/128", "127.0.0.0/8"]


def test_docker_py(place: Place, pushed: str) -> None:
    client: Any = place.door.client()
    try:
        image = client.images.pull(f"{OPEN}/team/app", tag="v1")
        assert image.tags == [pushed]
        events = client.api.push(pushed, stream=True, decode=True)
        assert next(events)["status"] == f"The push refers to repository [{OPEN}/team/app]"
        assert [event["aux"]["Tag"] for event in events if "aux" in event] == ["v1"]
        assert client.images.get_registry_data(pushed).id.startswith("sha256:")
        assert client.login(USER, PASSWORD, registry=LOCKED)["Status"] == "Login Succeeded"
        with pytest.raises(docker.errors.NotFound):
            client.images.pull(f"{OPEN}/nosuch", tag="1")
    finally:
        client.close()


def test_hyper_pulls_pushes_and_shares_dockers_logins(place: Place) -> None:
    door, name = place.door, f"{LOCKED}/ours:1"
    door.docker("load", input=saved_image(name, b"ours"))
    assert b"no basic auth credentials" in hyper(door, "push", name, code=1).stderr
    wrong = hyper(door, "login", "-u", USER, "--password-stdin", LOCKED, input=b"wrong", code=1)
    assert b"failed with status: 401 Unauthorized" in wrong.stderr
    done = hyper(door, "login", "-u", USER, "--password-stdin", LOCKED, input=PASSWORD.encode())
    assert done.stdout == b"Login Succeeded\n"
    lines = hyper(door, "push", name).stdout.decode().splitlines()
    assert lines[0] == f"The push refers to repository [{LOCKED}/ours]"
    assert lines[-1].startswith("1: digest: sha256:")
    hyper(door, "rmi", name)
    door.docker("pull", name)  # with hyper's login
    assert b"Image is up to date" in hyper(door, "pull", name).stdout
    hyper(door, "rmi", name)
    created = hyper(door, "create", name)
    assert f"Unable to find image '{name}' locally".encode() in created.stderr
    assert b"Status: Downloaded newer image for" in created.stderr
    hyper(door, "rm", created.stdout.decode().strip())
    again = hyper(door, "create", "--pull", "always", "-q", name)
    assert again.stderr == b""
    hyper(door, "rm", again.stdout.decode().strip())
    assert hyper(door, "pull", "-q", name).stdout.decode().strip() == name
    assert b"Removing login credentials" in hyper(door, "logout", LOCKED).stdout
    assert b"Not logged in" in hyper(door, "logout", LOCKED).stdout
    hyper(door, "rmi", name)
    assert b"No such image" in hyper(door, "create", "--pull", "never", name, code=1).stderr
    assert b"Unexpected status code 404" in hyper(door, "search", f"{OPEN}/x", code=1).stderr


def test_hyper_pulls_all_tags(place: Place) -> None:
    door = place.door
    for tag in ("a", "b"):
        door.docker("load", input=saved_image(f"{OPEN}/every:{tag}", tag.encode()))
    hyper(door, "push", "-a", f"{OPEN}/every")
    hyper(door, "rmi", f"{OPEN}/every:a", f"{OPEN}/every:b")
    assert hyper(door, "pull", "-a", f"{OPEN}/every").stdout.decode().splitlines()[-1] == f"{OPEN}/every"
    shown = hyper(door, "images", "--digests", "--format", "{{.Tag}} {{.Digest}}", f"{OPEN}/every").stdout.decode()
    assert sorted(line.partition(" sha256:")[0] for line in shown.splitlines()) == ["a", "b"]
    hyper(door, "rmi", f"{OPEN}/every:a", f"{OPEN}/every:b")
