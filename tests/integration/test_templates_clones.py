"""Inside of clones, as a user meets them: random numbers that nobody else has, the right time, TLS; and what they take
of the host's memory.

One daemon with a template of the default size; clones come from its pool and, when that is empty, from the template.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.debian_image import debian_tar
from tests.hyperd import Hyperd, needs_docker_cli, running_hyperd
from tests.netns import HOST_ADDRESS
from tests.templates import MIB, ran, run, rung, sandbox, settled, status, template_memory, until, vmms

pytestmark = pytest.mark.vm

DEBIAN = "debian:test"
POOL = 2
AGE_S = 3.0
"""A clone that kept the time of its template would be wrong by this much."""


@pytest.fixture(scope="module")
def hyperd() -> Iterator[Hyperd]:
    """Its template is some seconds old, its pool is full."""
    needs_docker_cli()
    with running_hyperd("--templates", "--pool-size", str(POOL)) as daemon:
        until(lambda: "MiB" in status(daemon)["Template"], lambda: str(status(daemon)))
        born = time.monotonic()
        daemon.door.docker("import", str(debian_tar()), DEBIAN, timeout_s=120)
        until(lambda: time.monotonic() - born > AGE_S, lambda: "time stands still")
        settled(daemon)
        yield daemon


# -- random numbers

PIECE = 16
STREAM_BYTES = 4096


def repeated(streams: Sequence[bytes]) -> list[tuple[int, int]]:
    """Which of them have 16 bytes in common, at whatever places; by their numbers."""
    seen: dict[bytes, int] = {}
    found: set[tuple[int, int]] = set()
    for number, stream in enumerate(streams):
        for at in range(len(stream) - PIECE + 1):
            first = seen.setdefault(stream[at : at + PIECE], number)
            if first != number:
                found.add((first, number))
    return sorted(found)


def test_a_shared_piece_would_be_found() -> None:
    one, other, third = (os.urandom(STREAM_BYTES) for _ in range(3))
    assert repeated([one, other, third]) == []
    assert repeated([one, other, third[:100] + one[-116:-100] + third[100:]]) == [(0, 2)]


def stream_of_a_clone(daemon: Hyperd, name: str) -> tuple[str, bytes]:
    """Its rung, and the first random bytes that a container in it gets."""
    command = ("head", "-c", str(STREAM_BYTES), "/dev/urandom")
    stream = daemon.door.docker("run", "--name", name, "--network", "none", "busybox", *command).stdout
    came = rung(daemon, name)
    daemon.door.docker("rm", name)
    return came, stream


@pytest.mark.parametrize("clones", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_no_two_clones_share_a_random_byte_stream(hyperd: Hyperd, clones: int) -> None:
    settled(hyperd)
    with ThreadPoolExecutor(4) as threads:
        names = [f"random-{number}" for number in range(clones)]
        found = list(threads.map(lambda name: stream_of_a_clone(hyperd, name), names))
    assert {came for came, _ in found} == {"pool", "template"}
    streams = [stream for _, stream in found]
    assert [len(stream) for stream in streams] == [STREAM_BYTES] * clones
    assert repeated(streams) == []


# -- the time, and what the kernel tells a process that is to be nobody else's

CLOCKS = r"""
import ctypes, json, time, uuid

libc = ctypes.CDLL(None)
libc.getauxval.restype = ctypes.c_ulong
AT_RANDOM, PAGE = 25, 4096

def now():
    return {"wall": time.time(), "steady": time.monotonic(), "boot": time.clock_gettime(time.CLOCK_BOOTTIME)}

first = now()
time.sleep(1)
print(json.dumps({
    "first": first, "second": now(), "uptime": float(open("/proc/uptime").read().split()[0]),
    "own": [
        ctypes.string_at(libc.getauxval(AT_RANDOM), 16).hex(),
        ctypes.cast(libc.getauxval, ctypes.c_void_p).value // PAGE,
        uuid.uuid4().hex,
    ],
}))
"""


def test_date_is_right_and_the_other_clocks_are_sane(hyperd: Hyperd) -> None:
    rungs, own = [], []
    for _ in range(POOL + 1):  # more than a pool can give in a row
        before = time.time()
        came, said = ran(hyperd, "--network", "none", DEBIAN, "python3", "-c", CLOCKS)
        after = time.time()
        rungs.append(came)
        told = json.loads(said)
        first, second = told["first"], told["second"]
        own.append(told["own"])
        assert before - 0.1 < first["wall"] and second["wall"] < after + 0.1
        for clock in first:
            assert 0.9 < second[clock] - first[clock] < after - before, clock
        assert abs((second["wall"] - second["steady"]) - (first["wall"] - first["steady"])) < 0.05, "nothing sets it"
        assert second["steady"] == pytest.approx(second["boot"], abs=0.1)
        assert 1 < told["uptime"] < 300
    assert "pool" in rungs
    for kind in zip(*own, strict=True):
        assert len(set(kind)) == len(own), kind


def test_date_is_right_whichever_way_it_came(hyperd: Hyperd) -> None:
    settled(hyperd)
    seen: dict[str, float] = {}
    with ThreadPoolExecutor(POOL + 2) as threads:

        def wrong_by_s(_: int) -> tuple[str, float]:
            before = time.time()
            came, said = ran(hyperd, "--network", "none", "busybox", "date", "+%s")
            return came, max(int(before) - int(said), int(said) - time.time(), 0)

        for came, wrong in threads.map(wrong_by_s, range(POOL + 4)):
            seen[came] = max(seen.get(came, 0), wrong)
    assert seen == {"pool": 0, "template": 0}


# -- TLS

HELLO_RANDOM = slice(11, 43)
"""Where a ClientHello has its random bytes (RFC 8446, sections 4.1.2 and 5.1)."""


@dataclass
class TlsServer:
    """Greets whoever comes. ``randoms`` are what the clients began with."""

    listener: socket.socket
    certificate: Path
    key: Path
    randoms: list[bytes] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def serve(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        while True:
            try:
                accepted, _ = self.listener.accept()
            except OSError:
                return  # closed
            with contextlib.suppress(OSError), accepted:
                accepted.settimeout(20)
                hello = accepted.recv(HELLO_RANDOM.stop, socket.MSG_PEEK | socket.MSG_WAITALL)
                self.randoms.append(hello[HELLO_RANDOM])
                with context.wrap_socket(accepted, server_side=True) as secured:
                    secured.sendall(secured.recv(100).upper())


@pytest.fixture
def tls_server(hyperd: Hyperd, tmp_path: Path) -> Iterator[TlsServer]:
    """On the host, with a certificate that is valid from now on: no time of the template's is in it."""
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    made = [
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=test",
    ]
    files = ["-addext", f"subjectAltName=IP:{HOST_ADDRESS}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", *made, *files], check=True, capture_output=True)
    listener = hyperd.namespace.listen(HOST_ADDRESS, 0)
    listener.settimeout(None)
    server = TlsServer(listener, certificate, key)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        thread.join()
        listener.close()


TLS_CLIENT = r"""
import socket, ssl, sys
host, port, certificate = sys.argv[1:]
context = ssl.create_default_context(cadata=certificate)

def greet(name):
    with context.wrap_socket(socket.create_connection((host, int(port)), 20), server_hostname=name) as secured:
        secured.sendall(b"good morning")
        return secured.recv(100).decode()

print(greet(host))
try:
    greet("203.0.113.9")
except ssl.SSLCertVerificationError as error:
    print(error.verify_message.partition(",")[0])
"""


def test_tls_works_and_checks_certificates_and_no_two_clones_begin_alike(hyperd: Hyperd, tls_server: TlsServer) -> None:
    settled(hyperd)
    arguments = (HOST_ADDRESS, str(tls_server.port), tls_server.certificate.read_text())
    rungs = []
    for _ in range(2):
        came, said = ran(hyperd, DEBIAN, "python3", "-c", TLS_CLIENT, *arguments)
        rungs.append(came)
        assert said.splitlines() == ["GOOD MORNING", "IP address mismatch"]
    assert rungs[0] == "pool"
    assert len(tls_server.randoms) == 4 == len(set(tls_server.randoms)) and all(map(len, tls_server.randoms))


# -- memory


def test_memory_that_clones_used_first_is_given_back(hyperd: Hyperd) -> None:
    """A page that is a hole in the template is made in its file as well when a clone writes to it. A slim file takes
    its place before that is more than a VM's worth."""
    assert hyperd.process is not None
    daemon = hyperd.process.pid
    settled(hyperd)
    slim_bytes = template_memory(daemon).stored_bytes()
    script = "dd if=/dev/zero of=/dev/null bs=400M count=1; echo done; exec sleep 1000"
    user = hyperd.door.out("run", "-d", "--network", "none", "busybox", "sh", "-c", script)
    until(lambda: hyperd.door.out("logs", user).endswith("done"), hyperd.tail)
    its = template_memory(vmms(hyperd)[sandbox(hyperd, user)])
    assert its.stored_bytes() > slim_bytes + 300 * MIB
    run(hyperd)  # whoever comes next has it noticed
    until(lambda: template_memory(daemon).stored_bytes() < slim_bytes + 100 * MIB, lambda: "the file stays fat")
    assert its.stored_bytes() > slim_bytes + 300 * MIB, "who uses the old one goes on with it"
    assert run(hyperd) in ("pool", "template")
    hyperd.door.docker("rm", "-f", user)
