"""Bad input to a real hyperd: each gets a clear error with Docker's status and changes nothing.

One daemon serves the whole module; :func:`unchanged` compares what it holds before and after each test. What a daemon
does when it is started wrongly is in ``test_bad_start.py``, a full disk in ``test_full_disk.py``.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import socket
import string
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests.api import schema
from tests.api.client import request
from tests.hyperd import Hyperd, docker_cli_major, needs_docker_cli
from tests.unit.images.store_tools import docker_archive, image

from hyper.images import builtin

pytestmark = pytest.mark.vm

NO_NETWORK = {"NetworkMode": "none"}


def snapshot(hyperd: Hyperd) -> dict[str, Any]:
    """What must not change: containers, images, files, VMs. (Not: log lines, the database's pages.)"""
    door = hyperd.door
    pid = hyperd.process.pid if hyperd.process else 0
    return {
        "containers": sorted((item["Id"], item["State"]) for item in door.http("GET", "/containers/json?all=1").json),
        "images": sorted((item["Id"], *item["RepoTags"]) for item in door.http("GET", "/images/json?all=1").json),
        "files": sorted(
            os.path.join(folder, name)
            for root in (hyperd.data_root, hyperd.exec_root)
            for folder, folders, files in os.walk(root)
            for name in (*folders, *files)
        ),
        "children": Path(f"/proc/{pid}/task/{pid}/children").read_text().split(),
    }


@pytest.fixture(autouse=True)
def unchanged(hyperd: Hyperd, idle: str, foreign: None) -> Iterator[None]:
    before = snapshot(hyperd)
    log_bytes = hyperd.log.stat().st_size
    yield
    deadline_s = time.monotonic() + 10
    while (after := snapshot(hyperd)) != before:  # VMs of failed starts go behind the answer
        if time.monotonic() > deadline_s:
            assert after == before
        time.sleep(0.05)
    with hyperd.log.open("rb") as log:
        log.seek(log_bytes)
        assert b"trace=" not in log.read()


@pytest.fixture(scope="module")
def idle(hyperd: Hyperd) -> Iterator[str]:
    """A container that is there, and ran once."""
    hyperd.door.docker("run", "--name", "idle", "--network", "none", "busybox", "true")
    deadline_s = time.monotonic() + 20
    while any((hyperd.exec_root / "vm").iterdir()):  # its VM goes behind the answer
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    yield "idle"
    hyperd.door.docker("rm", "-f", "idle")


def talk(hyperd: Hyperd, data: bytes, timeout_s: float = 20) -> bytes:
    """Send bytes, and read until the end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(hyperd.door.socket))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while block := connection.recv(65536):
                answer += block
        return answer


# -- bodies that are not what they should be


def create_with(**members: object) -> bytes:
    return json.dumps({"Image": "busybox", "HostConfig": NO_NETWORK} | members).encode()


BODIES = {
    "nothing": b"",
    "spaces": b"  \n",
    "truncated": create_with()[:-5],
    "a list": b"[]",
    "a string": b'"x"',
    "not JSON": b"Image=busybox",
    "NaN": b'{"Image":"busybox","StopTimeout":NaN}',
    "infinity": b'{"Image":"busybox","StopTimeout":1e999}',
    "a huge integer": b'{"Image":"busybox","StopTimeout":' + b"9" * 400 + b"}",
    "an integer of 65 bits": b'{"Image":"busybox","HostConfig":{"Memory":18446744073709551616}}',
    "a fraction": b'{"Image":"busybox","HostConfig":{"Memory":1.5}}',
    "half a character": b'{"Image":"busybox","Hostname":"\\ud800"}',
    "bad UTF-8": b'{"Image":"busybox","Hostname":"\xff"}',
    "deep lists": b'{"Image":"busybox","Labels":' + b"[" * 100_000,
    "deep objects": b'{"Image":"busybox","x":' + b'{"a":' * 100_000,
    "no image": b"{}",
    "an image of nothing": create_with(Image=""),
    "an image that is a number": create_with(Image=7),
    "an image with a zero byte": create_with(Image="busy\0box"),
    "a name from elsewhere": create_with(Image="../../etc/passwd"),
    "a command that is a number": create_with(Cmd=7),
    "a zero byte in an argument": create_with(Cmd=["a\0b"]),
    "a zero byte in the environment": create_with(Env=["A=\0"]),
    "a variable without a name": create_with(Env=["=x"]),
    "a zero byte in the directory": create_with(WorkingDir="/\0"),
    "a zero byte in the user": create_with(User="r\0oot"),
    "a zero byte in a sysctl": create_with(HostConfig=NO_NETWORK | {"Sysctls": {"net.core.somaxconn": "\0"}}),
    "a zero byte in a tmpfs": create_with(HostConfig=NO_NETWORK | {"Tmpfs": {"/a\0b": ""}}),
    "a zero byte in a domain": create_with(Domainname="a\0b"),
    "a line end in an extra host": create_with(HostConfig=NO_NETWORK | {"ExtraHosts": ["a:1.2.3.4\n0.0.0.0 b"]}),
    "a line end in a name server": create_with(HostConfig=NO_NETWORK | {"Dns": ["1.2.3.4\nsearch evil"]}),
    "a line end in a search domain": create_with(HostConfig=NO_NETWORK | {"DnsSearch": ["a\nnameserver 6.6.6.6"]}),
    "a line end in a resolver option": create_with(HostConfig=NO_NETWORK | {"DnsOptions": ["a\nnameserver 6.6.6.6"]}),
    "a relative directory": create_with(WorkingDir="here"),
    "an odd host name": create_with(Hostname="a b"),
    "a long host name": create_with(Hostname="a" * 64),
    "5 MB of environment": create_with(Env=["A=" + "x" * 5_000_000]),
    "little memory": create_with(HostConfig=NO_NETWORK | {"Memory": 1 << 20}),
    "negative memory": create_with(HostConfig=NO_NETWORK | {"Memory": -5}),
    "negative processors": create_with(HostConfig=NO_NETWORK | {"NanoCpus": -1}),
    "a thousand processors": create_with(HostConfig=NO_NETWORK | {"NanoCpus": 10**12}),
    "a port too high": create_with(HostConfig={"PortBindings": {"80/tcp": [{"HostPort": "65536"}]}}),
    "a port of nothing": create_with(HostConfig={"PortBindings": {"/": []}}),
    "an unknown protocol": create_with(HostConfig={"PortBindings": {"80/icmp": []}}),
    "a port range backwards": create_with(HostConfig={"PortBindings": {"80/tcp": [{"HostPort": "9-8"}]}}),
    "a port on no address": create_with(HostConfig={"PortBindings": {"80/tcp": [{"HostIp": "here"}]}}),
    "an unknown capability": create_with(HostConfig=NO_NETWORK | {"CapAdd": ["FLY"]}),
    "an unknown limit": create_with(HostConfig=NO_NETWORK | {"Ulimits": [{"Name": "x", "Soft": 1, "Hard": 1}]}),
    "limits upside down": create_with(HostConfig=NO_NETWORK | {"Ulimits": [{"Name": "nofile", "Soft": 2, "Hard": 1}]}),
    "a sysctl that is none": create_with(HostConfig=NO_NETWORK | {"Sysctls": {"no.such": "1"}}),
    "a sysctl out of its tree": create_with(HostConfig=NO_NETWORK | {"Sysctls": {"net.../../kernel/panic": "1"}}),
    "a tmpfs on the root": create_with(HostConfig=NO_NETWORK | {"Tmpfs": {"/": ""}}),
    "a tmpfs nowhere": create_with(HostConfig=NO_NETWORK | {"Tmpfs": {"here": ""}}),
    "a tmpfs in /proc": create_with(HostConfig=NO_NETWORK | {"Tmpfs": {"/proc/../proc/sys": ""}}),
    "bad tmpfs options": create_with(HostConfig=NO_NETWORK | {"Tmpfs": {"/x": "size=many"}}),
    "a bad restart policy": create_with(HostConfig=NO_NETWORK | {"RestartPolicy": {"Name": "sometimes"}}),
    "a bad stop signal": create_with(StopSignal="SIGNOTHING"),
    "a bad option": create_with(HostConfig=NO_NETWORK | {"SecurityOpt": ["fast=yes"]}),
    "bad processors": create_with(HostConfig=NO_NETWORK | {"CpusetCpus": "many"}),
}  # fmt: skip
EXPECTED_STATUS = {
    "5 MB of environment": (413,),
    "a name from elsewhere": (400, 404),
    "an image with a zero byte": (400, 404),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_bad_create_body_is_refused(hyperd: Hyperd, body: bytes, request_id: str) -> None:
    answer = hyperd.door.http("POST", "/containers/create", raw=body, headers={"Content-Type": "application/json"})
    if answer.status == 201:
        hyperd.door.http("DELETE", f"/containers/{answer.json['Id']}")
    assert answer.status in EXPECTED_STATUS.get(request_id, (400,)), answer.body
    assert 5 < len(answer.message) < 1000


@pytest.fixture
def request_id(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.id)


UNSUPPORTED = {
    "shared binds": {"Binds": ["/tmp:/x:rshared"]},
    "host network": {"NetworkMode": "host"},
}


@pytest.mark.parametrize("host_config", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_is_not_there_is_501_and_says_so(hyperd: Hyperd, host_config: dict[str, Any]) -> None:
    answer = hyperd.door.http(
        "POST", "/containers/create", {"Image": "busybox", "HostConfig": NO_NETWORK | host_config}
    )
    assert answer.status == 501, answer.body
    assert "not there" in answer.message or "cannot" in answer.message


@pytest.mark.parametrize("name", ["a/b", "-x", "a b", "a\0b", "ä", "..", "idle", "\ud800"])
def test_a_bad_or_taken_name_is_refused(hyperd: Hyperd, idle: str, name: str) -> None:
    target = f"/containers/create?name={quote(name, errors='surrogatepass')}"
    answer = hyperd.door.http("POST", target, {"Image": "busybox", "HostConfig": NO_NETWORK})
    assert answer.status == (409 if name == idle else 400), answer.body
    renamed = hyperd.door.http("POST", f"/containers/{idle}/rename?name={quote(name, errors='surrogatepass')}")
    assert renamed.status == 400, renamed.body


BAD_CALLS = [
    ("POST", "/containers/idle/kill?signal=NOTHING", 400),
    ("POST", "/containers/idle/kill?signal=999", 400),
    ("POST", "/containers/idle/kill?signal=" + "9" * 5000, 400),
    ("POST", "/containers/idle/kill", 409),
    ("POST", "/containers/idle/stop?t=soon", 400),
    ("POST", "/containers/idle/stop?t=" + "9" * 30, 400),
    ("POST", "/containers/idle/resize?h=x&w=1", 400),
    ("POST", "/containers/idle/resize?h=-1&w=1", 400),
    ("POST", "/containers/idle/pause", 409),
    ("POST", "/containers/idle/wait?condition=never", 400),
    ("GET", "/containers/idle/logs", 400),
    ("GET", "/containers/idle/logs?stdout=1&since=yesterday", 400),
    ("GET", "/containers/json?filters={", 400),
    ("GET", "/containers/json?filters=%7B%22status%22%3A%5B%22asleep%22%5D%7D", 400),
    ("GET", "/containers/json?limit=many", 400),
    ("GET", "/containers/..%2f..%2fetc/json", 404),
    ("GET", "/containers/" + "a" * 20_000 + "/json", 404),
    ("GET", "/containers/%00/json", 404),
    ("GET", "/containers/nobody/json", 404),
    ("POST", "/containers/nobody/start", 404),
    ("DELETE", "/containers/nobody", 404),
    ("POST", "/containers/idle/exec", 400),
    ("POST", "/exec/nobody/start", 404),
    ("GET", "/exec/nobody/json", 404),
    ("GET", "/images/nobody/json", 404),
    ("DELETE", "/images/nobody", 404),
    ("DELETE", "/images/%00", 400),
    ("POST", "/images/busybox/tag?repo=UPPER", 400),
    ("POST", "/images/busybox/tag", 400),
    ("GET", "/v9.99/info", 400),
    ("GET", "/v1.1/info", 400),
    ("GET", "/nothing/here", 404),
    ("GET", "/v1.50/", 404),
    ("BREW", "/containers/json", 501),
    ("PATCH", "/containers/json", 405),
]  # fmt: skip


@pytest.mark.parametrize(("method", "target", "status"), BAD_CALLS, ids=[f"{m} {t[:50]}" for m, t, _ in BAD_CALLS])
def test_a_bad_call_is_refused(hyperd: Hyperd, idle: str, method: str, target: str, status: int) -> None:
    answer = request(hyperd.door.socket, method, target, validate=False)
    assert answer.status == status, answer.body
    assert answer.message
    assert len(answer.body) < 40_000


# -- HTTP itself


def test_a_body_of_100_mb_is_refused_before_it_is_read(hyperd: Hyperd) -> None:
    head = b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    assert b" 413 " in talk(hyperd, head + b"Content-Length: 100000000\r\n\r\n")
    chunks = b"".join(b"10000\r\n" + b" " * 0x10000 + b"\r\n" for _ in range(100))
    assert b" 413 " in talk(hyperd, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)


HEADS = {
    "oversized": (b"GET /_ping HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", 431),
    "many": (b"GET /_ping HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", 431),
    "without end": (b"x" * 100_000, 431),
    "garbage": (bytes(range(256)) + b"\r\n\r\n", 0),
    "two framings": (b"POST /auth HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx", 400),
    "two lengths": (b"POST /auth HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400),
    "a negative length": (b"POST /auth HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
    "a bad chunk": (
        b"POST /containers/create HTTP/1.1\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", 400),
    "an old HTTP": (b"GET /_ping HTTP/0.9\r\n\r\n", 505),
    "a new HTTP": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0),
    "TLS": (bytes.fromhex("1603010200010001fc0303") + b"\0" * 500 + b"\r\n\r\n", 0),
}  # fmt: skip


@pytest.mark.parametrize(("head", "status"), HEADS.values(), ids=HEADS)
def test_bad_http_is_refused(hyperd: Hyperd, head: bytes, status: int) -> None:
    answer = talk(hyperd, head)
    first, _, body = answer.partition(b"\r\n\r\n")
    code = int(first.split(b" ")[1])
    assert code == status if status else 400 <= code <= 505, answer
    assert json.loads(body)["message"]


def test_slow_clients_are_hung_up_on_and_hold_nobody_up(hyperd: Hyperd) -> None:
    slow = [socket.socket(socket.AF_UNIX) for _ in range(50)]
    try:
        for connection in slow:
            connection.settimeout(0)
            connection.connect(str(hyperd.door.socket))
            connection.send(b"GET /_ping HTTP/1.1\r\nX-Slow: ")
        waiting = set(slow)
        deadline_s = time.monotonic() + 25
        slowest_s = 0.0
        while waiting:
            began_s = time.monotonic()
            assert hyperd.door.http("GET", "/_ping").status == 200
            slowest_s = max(slowest_s, time.monotonic() - began_s)
            assert began_s < deadline_s, f"{len(waiting)} slow clients are still served"
            for connection in tuple(waiting):
                try:
                    connection.send(b"x")
                    assert b" 408 " in connection.recv(4096)
                    waiting.remove(connection)
                except BlockingIOError:
                    pass
                except (BrokenPipeError, ConnectionResetError):
                    waiting.remove(connection)
            time.sleep(0.2)
        assert slowest_s < 2
    finally:
        for connection in slow:
            connection.close()


# -- archives


def root() -> bytes:
    return builtin.root_tar(os.urandom(200_000), ["true"])


def load_error(hyperd: Hyperd, data: bytes) -> str:
    """docker load's; the status may have gone out already, as with Docker."""
    answer = hyperd.door.http("POST", "/images/load?quiet=1", raw=data, headers={"Content-Type": "application/x-tar"})
    if answer.status != 200:
        return answer.message
    errors = [json.loads(line).get("error", "") for line in answer.body.splitlines()]
    return "".join(errors)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_truncated_archive_is_refused_wherever_it_ends(hyperd: Hyperd, pack: Any) -> None:
    whole = docker_archive({"cut:latest": image(root())})
    data = pack(whole)
    payload_end = len(data.rstrip(b"\0"))  # tar's own padding behind it may be missing
    cuts = [0, 1, 100, 511, 512, 513, *(payload_end * part // 12 for part in range(1, 12)), payload_end - 20]
    for cut in cuts:
        assert load_error(hyperd, data[:cut]), f"cut at {cut} of {len(data)}"


def test_damaged_archives_are_refused(hyperd: Hyperd) -> None:
    whole = bytearray(docker_archive({"damaged:latest": image(root())}))
    choice = random.Random(3)
    for _ in range(12):
        at = choice.randrange(len(whole) - 3000)
        damaged = bytearray(whole)
        for position in range(at, at + 64):
            damaged[position] ^= 0x5A
        load_error(hyperd, bytes(damaged))  # a changed time or padding may pass; a changed layer may not:
        assert not [
            image
            for image in hyperd.door.http("GET", "/images/json").json
            if "damaged:latest" in image["RepoTags"] and image["Size"] == 0
        ]
        hyperd.door.http("DELETE", "/images/damaged:latest")
    assert load_error(hyperd, b"\x1f\x8b" + os.urandom(5000))
    assert load_error(hyperd, os.urandom(5000))
    assert load_error(hyperd, b"\0" * 10240)


def test_a_truncated_root_is_not_imported(hyperd: Hyperd) -> None:
    data = root()
    length = 200_000  # of the program in it
    for cut in (1, 300, length // 3, length // 2, length):
        answer = hyperd.door.http(
            "POST", "/images/create?fromSrc=-&repo=cut", raw=data[:cut], headers={"Content-Type": "application/x-tar"}
        )
        lines = answer.body.splitlines()
        assert answer.status >= 400 or b'"error"' in lines[-1], f"cut at {cut}: {answer.body!r}"


def test_a_load_that_stops_halfway_leaves_nothing(hyperd: Hyperd) -> None:
    data = docker_archive({"half:latest": image(root())})
    head = f"POST /images/load HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(hyperd.door.socket))
        connection.sendall(head + data[: len(data) // 2])


# -- what only the guest can find out


VM_CASES: dict[str, tuple[list[str], int, str]] = {
    "unknown user": (["-u", "somebody", "busybox", "true"], 125, "somebody"),
    "a directory as program": (["busybox", "/etc"], 126, "is a directory"),
    "a file as directory": (["-w", "/etc/passwd", "busybox", "true"], 125, "/etc/passwd"),
    "no such program": (["busybox", "no-such-program"], 127, "executable file not found"),
    "a bad sysctl value": (["--sysctl", "net.ipv4.ip_forward=abc", "busybox", "true"], 125, "ip_forward"),
    "another machine's program": (["foreign", "/program"], 126, "exec format error"),
}


def foreign_root() -> bytes:
    """An image whose program is an ELF of another machine (EM_S390)."""
    header = b"\x7fELF\x02\x02\x01" + bytes(9) + b"\x00\x02\x00\x16" + bytes(44)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("program")
        member.mode, member.size = 0o755, len(header)
        tar.addfile(member, io.BytesIO(header))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def foreign(hyperd: Hyperd) -> Iterator[None]:
    hyperd.door.docker("import", "-", "foreign", input=foreign_root())
    yield
    hyperd.door.docker("rmi", "foreign")


@pytest.mark.parametrize(("arguments", "status", "words"), VM_CASES.values(), ids=VM_CASES)
def test_what_the_guest_refuses_is_said_as_docker_says_it(
    hyperd: Hyperd, arguments: list[str], status: int, words: str
) -> None:
    needs_docker_cli()
    result = hyperd.door.docker("run", "--rm", "--network", "none", *arguments, check=False)
    if words == "is a directory" and docker_cli_major() < 23:
        status = 125  # the client makes the status of the words, and does not know these
    assert result.returncode == status, result.stderr
    assert words.encode() in result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith(b"docker: ")]
    assert len(line) < 1000


def test_a_long_command_line_and_a_large_environment_arrive_whole(hyperd: Hyperd) -> None:
    words = ["x" * 1000] * 190
    environment = [item for number in range(10) for item in ("-e", f"V{number}=" + "y" * 100_000)]
    out = hyperd.door.out(
        "run", "--rm", "--network", "none", *environment, "busybox", "sh", "-c", 'echo $# "${#V9}"', "sh", *words
    )
    assert out == "190 100000"


def test_more_memory_than_the_host_has_is_no_reason_not_to_run(hyperd: Hyperd) -> None:
    """As with Docker, for which it is only a limit that cannot be reached."""
    assert hyperd.door.out("run", "--rm", "--network", "none", "-m", "1t", "busybox", "echo", "ran") == "ran"


def test_an_argument_that_no_kernel_takes_is_refused(hyperd: Hyperd) -> None:
    body = {"Image": "busybox", "Cmd": ["true", "x" * 200_000], "HostConfig": NO_NETWORK}
    made = hyperd.door.http("POST", "/containers/create", body).json["Id"]
    answer = hyperd.door.http("POST", f"/containers/{made}/start")
    hyperd.door.http("DELETE", f"/containers/{made}")
    assert answer.status == 400, answer.body
    assert "argument list too long" in answer.message
    assert len(answer.message) < 1000


def test_a_port_in_use_is_refused(hyperd: Hyperd) -> None:
    with hyperd.namespace.entered():
        taken = socket.create_server(("0.0.0.0", 81))
    with taken:
        result = hyperd.door.docker("run", "--rm", "-p", "81:80", "busybox", "true", check=False)
    assert result.returncode == 125
    assert b"81" in result.stderr
    assert b"in use" in result.stderr or b"allocated" in result.stderr


# -- anything at all


def odd_value(choice: random.Random) -> str:
    return choice.choice(
        [
            "", "0", "1", "-1", "true", "maybe", "idle", "busybox", "busybox:latest", "nobody", "%00", "%ff", "../..",
            "{", "[]", '{"a":["b"]}', '{"label":{"x":true}}', "9" * 40, "1e9", "NaN", "\u00e4\u20ac", "a" * 3000, " ",
            "".join(choice.choices(string.printable, k=12)),
        ]
    )  # fmt: skip


def odd_body(choice: random.Random, depth: int = 0) -> Any:
    kind = choice.randrange(9 if depth < 3 else 6)
    if kind == 6:
        return [odd_body(choice, depth + 1) for _ in range(choice.randrange(3))]
    if kind > 6:
        names = ["Image", "Cmd", "HostConfig", "Env", "Labels", "Tty", "Detach", "AttachStdout", "Memory", "x", ""]
        return {choice.choice(names): odd_body(choice, depth + 1) for _ in range(choice.randrange(5))}
    return choice.choice([None, True, 0, -1, 10**20, 1.5, "", "busybox", "true", "\0", "\ud800", "x" * 500])


def fuzz(hyperd: Hyperd, requests: int, seed: int) -> None:
    """Requests of the API's own shape with odd contents. Whatever is answered, it is no 500 and no hang."""
    choice = random.Random(seed)
    operations = schema.operations()
    for _ in range(requests):
        method, path = choice.choice(operations)
        if choice.random() < 0.1:
            method = choice.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
        for part in ("{id}", "{name}", "{path}"):
            path = path.replace(part, quote(odd_value(choice), safe="/:") or "x")
        if ("idle" in path or "busybox" in path) and (method == "DELETE" or path.endswith("/rename")):
            continue  # nothing odd about these
        if path == "/containers/prune":
            continue  # it would remove the idle one
        names = "all limit filters follow stdout stderr tail since until signal t h w name repo tag force v platform"
        query = "&".join(
            f"{choice.choice(names.split())}={quote(odd_value(choice))}" for _ in range(choice.randrange(4))
        )
        if path in ("/events", "/images/create") or path.endswith(("/wait", "/prune")):
            query += "&until=1"
        version = choice.choice(["", "", "/v1.24", "/v1.40", "/v1.50"])
        body = None if choice.random() < 0.3 else json.dumps(odd_body(choice)).encode()
        if body and choice.random() < 0.2:
            body = body[: choice.randrange(len(body))]
        head = f"{method} {version}{path}?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        if choice.random() < 0.1:
            head += "Upgrade: tcp\r\nConnection: Upgrade\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        data = head.encode() + b"\r\n" + (body or b"") + (os.urandom(20) if choice.random() < 0.1 else b"")
        waits = path.endswith(("/wait", "/attach")) or path == "/events"  # these go on as long as they are asked to
        try:
            answer = talk(hyperd, data, timeout_s=0.3 if waits else 15)
        except TimeoutError:
            assert waits, f"no answer to {data[:400]!r}"
            continue
        assert answer[:9] in (b"HTTP/1.1 ", b""), data
        # As Docker tells of a registry that is out of reach, which they all are from here.
        unreachable = b'{"message":"Get \\"https://registry-1.docker.io/v2/\\": dial tcp: lookup' in answer
        assert unreachable or not answer.startswith(b"HTTP/1.1 500"), f"{data[:2000]!r}\n{answer!r}"


def held(hyperd: Hyperd) -> tuple[int, int]:
    """Open descriptors and threads."""
    assert hyperd.process is not None
    folder = Path(f"/proc/{hyperd.process.pid}")
    return len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))


def check_fuzz(hyperd: Hyperd, requests: int, seed: int) -> None:
    fuzz(hyperd, 20, seed)  # lets the thread pool and the like come up
    descriptors, threads = held(hyperd)
    fuzz(hyperd, requests, seed + 1)
    deadline_s = time.monotonic() + 10
    while held(hyperd)[0] > descriptors + 2 and time.monotonic() < deadline_s:
        time.sleep(0.1)
    after = held(hyperd)
    assert after[0] <= descriptors + 2
    assert after[1] <= threads + 8
    for item in hyperd.door.http("GET", "/containers/json?all=1").json:
        if item["Names"] != ["/idle"]:
            hyperd.door.http("DELETE", f"/containers/{item['Id']}?force=1")
    for volume in hyperd.door.http("GET", "/volumes").json["Volumes"]:
        hyperd.door.http("DELETE", f"/volumes/{volume['Name']}")


def test_odd_requests_get_answers(hyperd: Hyperd, idle: str) -> None:
    check_fuzz(hyperd, 300, seed=11)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_odd_requests_get_answers(hyperd: Hyperd, idle: str) -> None:
    for seed in range(20, 40):
        check_fuzz(hyperd, 500, seed=seed)


def test_garbage_on_a_hijacked_connection(hyperd: Hyperd, idle: str) -> None:
    for headers in (b"", b"Connection: Upgrade\r\nUpgrade: tcp\r\n", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"):
        for target in (b"attach?stream=1&stdin=1&stdout=1", b"attach?stream=x", b"attach"):
            head = b"POST /containers/idle/" + target + b" HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n"
            with contextlib.suppress(TimeoutError):
                talk(hyperd, head + os.urandom(300_000), timeout_s=1)
    assert hyperd.door.http("GET", "/_ping").status == 200
