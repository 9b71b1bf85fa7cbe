"""Daemons with templates and a pool, looked at from outside, for tests.

with running_hyperd("--pool-size", "1", *SMALL) as daemon:
    settled(daemon)                       # there is a template, and the pool is full
    daemon.door.out("run", …)
    assert rung(daemon, container) == "pool"
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.hyperd import Hyperd

from hyper.hypervisors.qemu.command_line import sandbox_of
from hyper.sandboxes.template import MEMORY
from hyper.system import memory_files, processes

MIB = 1 << 20
SETTLED_S = 60.0
SMALL = ("--templates", "--default-memory", "96m")
"""Small templates are quickly made."""


def until(condition: Callable[[], object], what: Callable[[], str], timeout_s: float = SETTLED_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"after {timeout_s} s: {what()}"
        time.sleep(0.05)


def status(daemon: Hyperd) -> dict[str, str]:
    """What `docker info` has to say, by its words for it."""
    return dict(daemon.door.http("GET", "/info").json["DriverStatus"])


def settled(daemon: Hyperd) -> str:
    """Wait for a template and a full pool; what is said of the template."""

    def done() -> bool:
        now = status(daemon)
        pool = now["Pool"].split()
        return "MiB" in now["Template"] and (pool[0] == "switched" or pool[0] == pool[2])

    until(done, lambda: f"{status(daemon)}\n{daemon.tail()}")
    return status(daemon)["Template"]


def rung(daemon: Hyperd, container: str) -> str:
    """The way in which its sandbox was had: "pool", "template" or "cold"."""
    return daemon.door.out("inspect", "-f", "{{.Hyper.Rung}}", container)


def ran(daemon: Hyperd, *arguments: str) -> tuple[str, str]:
    """`docker run` with these arguments, to its end: the rung, and what it printed."""
    name = f"run-{os.urandom(4).hex()}"
    said = daemon.door.out("run", "--name", name, *arguments)
    came = rung(daemon, name)
    daemon.door.docker("rm", name)
    return came, said


def run(daemon: Hyperd) -> str:
    """The rung of a container that ran."""
    came, said = ran(daemon, "--network", "none", "busybox", "echo", "fine")
    assert said == "fine"
    return came


def vmms(daemon: Hyperd) -> dict[str, int]:
    """The daemon's VMMs that run, but for one by which it tries KVM: sandbox ids and process ids."""
    found: dict[str, int] = {}
    for pid in processes.all_pids():
        sandbox_id = sandbox_of(processes.command_line(pid), daemon.root_id)
        if sandbox_id is not None and not sandbox_id.startswith("probe-") and processes.start_time(pid) is not None:
            found[sandbox_id] = pid
    return found


def sandbox(daemon: Hyperd, container: str) -> str:
    return daemon.door.out("inspect", "-f", "{{.Hyper.SandboxId}}", container)


def kept(daemon: Hyperd) -> list[str]:
    """The templates on disk, once none is just being written."""
    folder = daemon.data_root / "templates"

    def names() -> list[str]:
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    until(lambda: not any(name.startswith(".") for name in names()), lambda: str(names()))
    return names()


@dataclass(frozen=True)
class Memory:
    """A template's memory file as a process has it open; another clone's copy of it looks the same but is not
    sealed."""

    pid: int
    number: int

    @property
    def path(self) -> Path:
        return Path(f"/proc/{self.pid}/fd/{self.number}")

    def open(self) -> int:
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def digest(self) -> str:
        """Of all of it, holes too."""
        fd = self.open()
        try:
            return memory_files.digest(fd, [(0, os.fstat(fd).st_size)])
        finally:
            os.close(fd)

    def stored_bytes(self) -> int:
        return self.path.stat().st_blocks * 512


def template_memory(pid: int) -> Memory:
    """The one that this process (a daemon, a VMM) has."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue  # closed meanwhile
        if target.startswith(f"/memfd:{MEMORY}"):
            found.append(Memory(pid, int(entry.name)))
    assert found, f"process {pid} has no template's memory open"
    return found[0]
