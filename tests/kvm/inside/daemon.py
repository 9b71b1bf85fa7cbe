"""hyperd on the emulated host, with default roots, and the clients that talk to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

EXEC_ROOT = Path("/run/hyper")
DATA_ROOT = Path("/var/lib/hyper")
SOCKET = EXEC_ROOT / "hyper.sock"
ADDRESS = f"unix://{SOCKET}"
LOG = Path("/run/hyperd.log")
PROBED = DATA_ROOT / "hypervisor/accelerator.json"
"""Where hyperd remembers whether KVM works."""
TEMPLATES = DATA_ROOT / "templates"

_SUITED = ("--default-memory", "256m", "--default-cpus", "1", "--kvm-timeout", "60")
"""The host is small, and slow; and there is something to grow by."""
_WAIT_S = 60.0
_POLL_S = 0.05


class Failed(AssertionError):
    """Something that should have worked; the message has the output of what did not."""


class Daemon:
    """One hyperd process after another, and the commands that are run against it."""

    def __init__(self) -> None:
        self._flags: tuple[str, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None

    # -- the daemon

    def running(self, *flags: str) -> None:
        """Make sure that it runs with these flags, and has no container."""
        if self._process is not None and self._flags != flags:
            self.forget_containers()
            self.stop()
        if self._process is None:
            self.start(*flags)
        self.forget_containers()

    def start(self, *flags: str) -> None:
        """Until it serves."""
        with LOG.open("ab") as log:
            self._process = subprocess.Popen(
                [str(Path(sys.prefix, "bin/hyperd")), "-D", *_SUITED, *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._flags = flags
        # It binds its socket early and answers when it is ready.
        until(lambda: self._ended() or self._get("/_ping"), "hyperd serves")
        if self._ended():
            raise Failed(f"hyperd ended with status {self._process.returncode} before it served")

    def stop(self) -> None:
        """SIGTERM, and its end with status 0."""
        if self._process is None:
            return
        self._process.terminate()
        status = self._process.wait(_WAIT_S)
        self._process = None
        if status != 0:
            raise Failed(f"hyperd ended with status {status}")

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def abandon(self) -> None:
        """After a failure: end it and its VMs; the next one begins with what they leave."""
        if self._process is not None:
            self.kill()
        for pid in vmms().values():
            os.kill(pid, signal.SIGKILL)

    def status(self) -> dict[str, str]:
        """What ``docker info`` has to say, by its words for it."""
        return dict(json.loads(self._get("/info"))["DriverStatus"])

    def settled(self) -> str:
        """Wait for a template, and a full pool where one is wanted; what is said of the template."""

        def done() -> bool:
            now = self.status()
            pool = now["Pool"].split()
            return "MiB" in now["Template"] and (pool[0] == "switched" or pool[0] == pool[2])

        until(done, "there is a template, and a full pool")
        return self.status()["Template"]

    def _ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def _get(self, path: str) -> bytes:
        """The body of the answer; nothing while there is none."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_WAIT_S)
            try:
                connection.connect(str(SOCKET))
                connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
            except (FileNotFoundError, ConnectionError):
                return b""
        head, _, body = answer.partition(b"\r\n\r\n")
        return body if b" 200 " in head.partition(b"\r\n")[0] else b""

    # -- its clients

    def docker(self, *arguments: str, expected: int = 0, stdin: str = "") -> str:
        """What the docker CLI prints on its standard output, without the last newline."""
        return self._command(["docker", "-H", ADDRESS, *arguments], expected, stdin)

    def hyper(self, *arguments: str) -> str:
        """The same with our own command line."""
        return self._command([str(Path(sys.prefix, "bin/hyper")), *arguments], 0, "")

    def forget_containers(self) -> None:
        if json.loads(self._get("/containers/json?all=1")):
            self.docker("rm", "-f", *self.docker("ps", "-aq").split())

    def inspect(self, container: str, member: str) -> object:
        """A member of the container's description: ``.State.Running``."""
        return json.loads(self.docker("inspect", "-f", f"{{{{json {member}}}}}", container))

    def rung(self, container: str) -> object:
        """Where its VM came from."""
        return self.inspect(container, ".Hyper.Rung")

    def _command(self, argv: list[str], expected: int, stdin: str) -> str:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=_WAIT_S)
        if done.returncode != expected:
            raise Failed(
                f"{' '.join(argv)} exited with {done.returncode}, not {expected}\n"
                f"stdout: {done.stdout}\nstderr: {done.stderr}"
            )
        return done.stdout.removesuffix("\n")


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + _WAIT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"it did not come to be that {what}")
        time.sleep(_POLL_S)


def vmms() -> dict[str, int]:
    """The QEMUs that run: sandbox ids and process ids."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            arguments = Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        for argument in arguments:
            if argument.startswith(b"guest=hyper:"):
                found[argument.rpartition(b":")[2].decode()] = int(entry)
    return found
