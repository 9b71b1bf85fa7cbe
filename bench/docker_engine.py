"""Debian's dockerd, with containerd and runc, in a room of its own; the docker CLI is the same that talks to hyperd."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.command import CommandFailed
from bench.cpu_group import CpuGroup
from bench.engine import Engine, NotAvailable
from bench.leftovers import own_folder
from bench.peers import Peers
from bench.processes import processes_with, wait_until
from bench.room import Room, room

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0


class DockerEngine(Engine):
    kind = name = "docker"

    def __init__(self, inside: Room, socket: Path, config: Path, group: CpuGroup) -> None:
        environment = {**os.environ, "DOCKER_HOST": f"unix://{socket}", "DOCKER_CONFIG": str(config)}
        super().__init__({"docker": ("docker",)}, environment)
        self.folder, self.group = inside.folder, group
        self.host, self.outside = inside.host, inside.outside

    def open(self, daemon: subprocess.Popen[bytes], log: Path) -> None:
        """Until it answers."""

        def answers() -> bool:
            if daemon.poll() is not None:
                raise NotAvailable(f"docker: dockerd ended with status {daemon.returncode}:\n{_tail(log)}")
            return self.timed("version", check=False).status == 0

        wait_until("dockerd's answer", answers, timeout_s=START_TIMEOUT_S, every_s=0.1)
        self.daemon_pids = (daemon.pid, *processes_with(b"containerd\0--config", os.fsencode(self.folder)))
        parts = '{{range .Server.Components}}{{if ne .Name "Engine"}}, {{.Name}} {{.Version}}{{end}}{{end}}'
        self.version = "dockerd " + self.out("version", "-f", "{{.Server.Version}}" + parts)
        self.version += f"; client {self.out('version', '-f', '{{.Client.Version}}')}"

    def workers(self) -> list[int]:
        return processes_with(b"containerd-shim", os.fsencode(self.folder))

    def leftovers(self) -> list[str]:
        return [f"process {pid} of dockerd" for pid in processes_with(os.fsencode(self.folder))]


@contextlib.contextmanager
def docker_engine(peers: Peers, leftovers: list[str]) -> Iterator[DockerEngine]:
    """A served dockerd. What it leaves behind at its end is added to ``leftovers``. NotAvailable when it is not on
    this machine."""
    laid_over = peers.laid_over("docker")
    with contextlib.ExitStack() as stack:
        top = stack.enter_context(own_folder())
        group = CpuGroup.open(top.name)
        stack.callback(group.close)
        inside = stack.enter_context(room(top / "room", laid_over))
        socket, config, log = top / "docker.sock", top / "docker-config", top / "log"
        config.mkdir()
        roots = [f"--data-root={inside.folder}/data", f"--exec-root={inside.folder}/exec"]
        # There is no systemd in the room that could make groups.
        drivers = ["--exec-opt=native.cgroupdriver=cgroupfs", f"--cgroup-parent=/{group.name}/containers"]
        drivers.append("--storage-driver=overlay2")
        daemon = inside.popen(
            ["dockerd", "-H", f"unix://{socket}", *roots, *drivers, f"--pidfile={inside.folder}/pid"],
            log=log,
            environment=os.environ,
            prefix=group.prefix,
        )
        stack.callback(_end, daemon, inside.folder, leftovers)
        with DockerEngine(inside, socket, config, group) as engine:
            try:
                engine.open(daemon, log)
            except (CommandFailed, TimeoutError) as error:
                raise NotAvailable(f"docker: dockerd does not serve here: {error}\n{_tail(log)}") from error
            yield engine


def _end(daemon: subprocess.Popen[bytes], folder: Path, leftovers: list[str]) -> None:
    daemon.terminate()
    try:
        daemon.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        leftovers.append(f"dockerd did not stop within {STOP_TIMEOUT_S:.0f} s")
        daemon.kill()
        daemon.wait()
    for pid in processes_with(os.fsencode(folder)):
        leftovers.append(f"process {pid} of dockerd")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
