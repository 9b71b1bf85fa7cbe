"""Debian's Podman with crun, in a room of its own. There is no daemon: each command is the engine, so it runs
inside the room."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

from bench.command import CommandFailed, Timed
from bench.cpu_group import CpuGroup, hierarchies
from bench.engine import Engine, NotAvailable, Usage
from bench.leftovers import own_folder
from bench.peers import Peers
from bench.processes import processes_with, wait_until
from bench.room import Room, room

END_TIMEOUT_S = 30.0
_CONFIGURATION = """
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]

[engine]
cgroup_manager = "cgroupfs"
runtime = "crun"
events_logger = "file"
"""
"""The limits because Podman would raise its own, which not every root may (CAP_SYS_RESOURCE); the rest because
there is no systemd in the room."""


class PodmanEngine(Engine):
    kind = name = "podman"
    daemon_pids = ()
    counts_clients = True

    def __init__(self, inside: Room, group: CpuGroup) -> None:
        folder = inside.folder
        command = ["podman", f"--root={folder}/root", f"--runroot={folder}/runroot", f"--tmpdir={folder}/tmp"]
        command += [f"--network-config-dir={folder}/networks", "--storage-driver=overlay"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
        environment["CONTAINERS_CONF"] = str(folder / "containers.conf")
        environment["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self.folder, self.group, self.host, self.outside = folder, group, inside.host, inside.outside

        def enter() -> None:
            group.add_this_thread()
            inside.enter()

        super().__init__({"podman": command}, environment, enter)

    def open(self) -> None:
        self.version = (
            self.out("--version") + ", " + self.out("info", "-f", "{{.Host.OCIRuntime.Version}}").split("\n")[0]
        )
        self.version += f", {self.out('info', '-f', '{{.Host.NetworkBackend}}')}"

    def submit(self, *arguments: str, client: str = "", check: bool = True, timeout_s: float = 120) -> Future[Timed]:
        """Containers are told to stay in the group that they are accounted in."""
        if arguments[0] in ("run", "create"):
            arguments = (arguments[0], f"--cgroup-parent=/{self.group.name}/containers", "--pull=never", *arguments[1:])
        return super().submit(*arguments, client=client, check=check, timeout_s=timeout_s)

    def workers(self) -> list[int]:
        """Monitors of running containers; of ended ones the monitors, and then what cleans up, until that has ended."""
        return processes_with(os.fsencode(self.folder))

    def usage(self) -> Usage:
        return Usage(0.0, self.group.usage_s)

    def leftovers(self) -> list[str]:
        return [f"process {pid} of podman" for pid in processes_with(os.fsencode(self.folder))]


@contextlib.contextmanager
def podman_engine(peers: Peers, leftovers: list[str]) -> Iterator[PodmanEngine]:
    """What it leaves behind at its end is added to ``leftovers``. NotAvailable when it is not on this machine."""
    laid_over = peers.laid_over("podman")
    with contextlib.ExitStack() as stack:
        top = stack.enter_context(own_folder())
        group = CpuGroup.open(top.name)
        stack.callback(group.close)
        inside = stack.enter_context(room(top / "room", laid_over))
        _hide_second_hierarchy(inside)
        limits = {"files": 20000, "processes": 10000}
        (inside.folder / "containers.conf").write_text(_CONFIGURATION.format(**limits))
        stack.callback(_end, inside.folder, leftovers)
        with PodmanEngine(inside, group) as engine:
            try:
                engine.open()
            except (CommandFailed, OSError) as error:
                raise NotAvailable(f"podman: it does not work here: {error}") from error
            yield engine
            engine.timed("rm", "--all", "--force", "--time=0", check=False)


def _hide_second_hierarchy(inside: Room) -> None:
    """A version 2 hierarchy beside version 1's makes Podman take the host for a version 2 one, and fail."""
    places = [path for path in hierarchies() if path != Path("/sys/fs/cgroup")]
    if len(places) > 1 and (unified := Path("/sys/fs/cgroup/unified")) in places:
        inside.run(["umount", str(unified)])


def _end(folder: Path, leftovers: list[str]) -> None:
    try:
        wait_until("podman's end", lambda: not processes_with(os.fsencode(folder)), timeout_s=END_TIMEOUT_S)
    except TimeoutError:
        for pid in processes_with(os.fsencode(folder)):
            leftovers.append(f"process {pid} of podman")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
