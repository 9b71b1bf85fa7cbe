"""Doors for tests: a real hyperd in a network namespace of its own, and the host engine of ``tests/api``, behind one
face.

    def test_something(door):
        door.docker("run", "--rm", "busybox", "true")          # the real docker CLI
        door.client().containers.list()                        # docker-py
        door.http("GET", "/containers/json")                   # raw, validated against the API file

``hyperd`` starts with temporary roots; at its end it is stopped and everything it could have left is looked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.api.client import Answer, request
from tests.netns import NetworkNamespace, host_and_outside

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
IMAGE = "busybox:latest"
BOOTING = ("--templates=false",)
"""What a test's daemon is told that says nothing of templates: one that is not about them should not wait for one, nor
share the processors with the making of it."""
POOLED = ("--templates", "--pool-size", "2")
"""As users have it, in small."""


@dataclass
class Door:
    """A served socket. ``kind`` is "hyperd" or "host"; ``config_dir`` keeps the docker CLI away from the user's own
    settings."""

    kind: str
    socket: Path
    config_dir: Path

    @property
    def address(self) -> str:
        return f"unix://{self.socket}"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": self.address, "DOCKER_CONFIG": str(self.config_dir)}

    def docker(
        self,
        *arguments: str,
        input: bytes | None = None,
        check: bool = True,
        timeout_s: float = 60,
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the docker CLI to its end. With ``check``, a failure shows what it printed."""
        result = subprocess.run(
            ["docker", *arguments],
            input=input,
            stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            env={**self.environment, **(environment or {})},
            check=False,
        )
        if check and result.returncode != 0:
            raise AssertionError(
                f"docker {' '.join(arguments)} exited with {result.returncode}\n"
                f"stdout: {result.stdout.decode(errors='replace')}\nstderr: {result.stderr.decode(errors='replace')}"
            )
        return result

    def out(self, *arguments: str, **options: Any) -> str:
        """What it prints, without the last newline."""
        return self.docker(*arguments, **options).stdout.decode().rstrip("\n")

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["docker", *arguments], env=self.environment, **options)

    def client(self, version: str = "auto") -> Any:
        """docker-py's client; close it."""
        import docker

        return docker.DockerClient(base_url=self.address, version=version, timeout=60)

    def http(self, method: str, path: str, body: object = None, **options: Any) -> Answer:
        """One validated request."""
        return request(self.socket, method, path, body, **options)

    @contextlib.contextmanager
    def name(self) -> Iterator[str]:
        """A container name; whatever has it at the end is removed."""
        name = f"t{secrets.token_hex(5)}"
        try:
            yield name
        finally:
            self.docker("rm", "-f", name, check=False)


class Hyperd:
    """One hyperd with its roots under ``folder``. :meth:`start` and :meth:`stop` may alternate. ``prefix``: a
    command that execs the program (benchmarks account for it, or profile it)."""

    def __init__(self, folder: Path, namespace: NetworkNamespace, *flags: str, prefix: Sequence[str] = ()) -> None:
        self.folder = folder
        self.data_root = folder / "data"
        self.exec_root = folder / "exec"
        self.namespace = namespace
        self.flags = flags if any(flag.startswith("--templates") for flag in flags) else (*flags, *BOOTING)
        self.prefix = prefix
        self.log = folder / "hyperd.log"
        self.process: subprocess.Popen[bytes] | None = None
        config_dir = folder / "docker-config"
        config_dir.mkdir()
        self.door = Door("hyperd", folder / "hyper.sock", config_dir)

    @property
    def root_id(self) -> str:
        return hashlib.sha256(os.fsencode(self.data_root.resolve())).hexdigest()[:12]

    @property
    def marker(self) -> str:
        """In the command line of each of its VMMs."""
        return f"guest=hyper:{self.root_id}:"

    def start(self) -> None:
        """Until it answers a ping."""
        program = Path(sys.executable).with_name("hyperd")
        with self.log.open("ab") as log:
            self.process = self.namespace.popen(
                [
                    *self.prefix,
                    str(program),
                    "-H",
                    self.door.address,
                    "--data-root",
                    str(self.data_root),
                    "--exec-root",
                    str(self.exec_root),
                    "--pidfile",
                    str(self.folder / "hyperd.pid"),
                    *self.flags,
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        wait_until_served(self.door.socket, self.process, self.log)

    def stop(self) -> None:
        """SIGTERM and its end."""
        process = self.process
        assert process is not None
        process.terminate()
        try:
            status = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"hyperd did not stop within {STOP_TIMEOUT_S} s\n{self.tail()}") from None
        self.process = None
        assert status == 0, f"hyperd ended with status {status}\n{self.tail()}"

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def leftovers(self) -> list[str]:
        """What a stopped hyperd must not leave: processes, taps, cgroups, files under the exec root, and what was only
        for the making of templates and pool."""
        found = [f"process {pid}: {text}" for pid, text in _processes_of(str(self.folder), self.marker)]
        links = self.namespace.exec(["ip", "-o", "link"]).stdout
        found += [f"interface: {line}" for line in links.splitlines() if f": h{self.root_id[:6]}" in line]
        for folder, names, _ in os.walk("/sys/fs/cgroup"):
            found += [f"cgroup {folder}/{name}" for name in names if self.root_id in name]
        for path in self.exec_root.rglob("*"):
            if not path.is_dir():
                found.append(f"file {path}")
        for pattern in ("writable/rehearsal-*", "templates/.new-*", "boot/*.new"):
            found += [f"file {path}" for path in self.data_root.glob(pattern)]
        return found


def wait_until_served(socket: Path, process: subprocess.Popen[bytes], log: Path | None = None) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        text = log.read_text(errors="replace") if log is not None else ""
        if process.poll() is not None:
            raise AssertionError(f"it ended with status {process.returncode} before it served\n{text}")
        if socket.exists():
            try:
                request(socket, "GET", "/_ping", timeout_s=START_TIMEOUT_S)
                return
            except OSError:
                pass
        if time.monotonic() > deadline_s:
            raise AssertionError(f"it did not serve {socket} within {START_TIMEOUT_S} s\n{text}")
        time.sleep(0.02)


def _processes_of(*markers: str) -> list[tuple[int, str]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if any(marker in text for marker in markers):
                found.append((int(entry.name), text[:200]))
    return found


@contextlib.contextmanager
def running_hyperd(
    *flags: str, seen_by: Callable[[NetworkNamespace], NetworkNamespace] | None = None
) -> Iterator[Hyperd]:
    """A started hyperd; on leaving it is stopped and must have left nothing. ``seen_by`` may put something between it
    and its host."""
    folder = Path(tempfile.mkdtemp(prefix="hyperd-", dir="/var/tmp"))
    folder.chmod(0o711)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        host, _outside = stack.enter_context(host_and_outside())
        daemon = Hyperd(folder, seen_by(host) if seen_by else host, *flags)
        stack.callback(_end, daemon)
        daemon.start()
        yield daemon
        if daemon.process is not None:
            daemon.stop()
        left = daemon.leftovers()
        assert left == [], f"left behind: {left}\n{daemon.tail()}"


def _end(daemon: Hyperd) -> None:
    """Whatever a test that failed has left."""
    for pid, _text in _processes_of(str(daemon.folder), daemon.marker):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline_s = time.monotonic() + 5
    for folder in Path("/sys/fs/cgroup").glob(f"*/hyper/{daemon.root_id}"):
        for cgroup in (*folder.glob("*/"), folder):
            while cgroup.exists() and time.monotonic() < deadline_s:
                with contextlib.suppress(OSError):  # the kernel is still taking its processes apart
                    cgroup.rmdir()
                time.sleep(0.01)


@contextlib.contextmanager
def running_host_engine(*flags: str, namespace: NetworkNamespace | None = None) -> Iterator[Door]:
    """``flags``: hyperd's about registries; ``namespace``: where it runs instead of here."""
    folder = Path(tempfile.mkdtemp(prefix="host-engine-"))
    (folder / "docker-config").mkdir()
    door = Door("host", folder / "s", folder / "docker-config")
    log = folder / "log"
    inside = ["nsenter", f"--net=/run/netns/{namespace.name}"] if namespace is not None else []
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [*inside, sys.executable, "-m", "tests.api.serve_host_engine", str(door.socket), str(folder), *flags],
            cwd=ROOT,
            stdout=sink,
            stderr=sink,
            stdin=subprocess.DEVNULL,
        )
    try:
        wait_until_served(door.socket, process, log)
        yield door
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def needs_docker_cli() -> None:
    if shutil.which("docker") is None:
        pytest.skip("the docker CLI is not on PATH")


def docker_cli_major() -> int:
    """Of the client on PATH: what it prints and exits with has changed over the years."""
    said = subprocess.run(["docker", "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.split()[2].partition(".")[0])


KINDS: Sequence[Any] = ("host", pytest.param("hyperd", marks=pytest.mark.vm))


@pytest.fixture(scope="module", params=KINDS)
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    """Both engines behind the same door, one of each for a module's tests."""
    if request.param == "host":
        with running_host_engine() as served:
            yield served
    else:
        with running_hyperd(*POOLED) as daemon:
            yield daemon.door


@pytest.fixture(scope="module")
def hyperd() -> Iterator[Hyperd]:
    """A real hyperd for a module's tests."""
    with running_hyperd() as daemon:
        yield daemon
