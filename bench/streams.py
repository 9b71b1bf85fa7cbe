"""How fast bytes go through a container's standard streams, and what each process on the way pays for them.

    .venv/bin/python bench/streams.py --mib 64                       # as root; a hyperd of its own, in a namespace
    .venv/bin/python bench/streams.py --peer /usr/sbin/dockerd       # and Docker's, behind it, with the same commands

One container lives through a run, so that starting is not measured. MB/s are 10**6 bytes a second on the clock; the
CPU columns are seconds of CPU time for 100 MB, which says more on a busy machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.hyperd import Door, running_hyperd  # noqa: E402
from tests.netns import NetworkNamespace  # noqa: E402

from hyper.images.builtin import BUSYBOX, root_tar  # noqa: E402

MIB = 1 << 20
TEXT = "The quick brown fox jumps over the lazy dog, and then it does the same thing again 0123456789."
# What is printed is made once and kept in the container's memory: making it costs more than moving it.
PREPARE = (
    "mkdir -p /dev/shm/b; head -c 4194304 /dev/urandom > /dev/shm/b/random;"
    f"yes '{TEXT}' | head -c 4194304 > /dev/shm/b/text"
)
SERVE = (
    PREPARE + "; echo ready; while read kind n; do while [ $n -gt 0 ]; do cat /dev/shm/b/$kind; n=$((n-4)); done; done"
)


@dataclass(frozen=True)
class Engine:
    """A served engine and the processes that work for it."""

    name: str
    door: Door
    daemon_pid: int
    vm_pids: Callable[[], list[int]]


@dataclass(frozen=True)
class Row:
    engine: str
    what: str
    seconds: float
    moved_bytes: int
    daemon_s: float
    vm_s: float
    client_s: float

    @property
    def mb_per_s(self) -> float:
        return self.moved_bytes / self.seconds / 1e6

    def __str__(self) -> str:
        per = 100e6 / self.moved_bytes
        cpu = "".join(f"{value * per:9.2f}" for value in (self.daemon_s, self.vm_s, self.client_s))
        return f"{self.engine:8} {self.what:34}{self.mb_per_s:9.1f}{cpu}"


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, all threads."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def hyper_engine() -> Iterator[Engine]:
    with running_hyperd() as daemon:
        assert daemon.process is not None
        marker = f"hyper:{daemon.root_id}:".encode()
        yield Engine("hyper", daemon.door, daemon.process.pid, lambda: processes_with(marker))


@contextlib.contextmanager
def docker_engine(dockerd: Path) -> Iterator[Engine]:
    """Debian's dockerd with roots of its own, in a network namespace of its own."""
    with NetworkNamespace("d") as namespace, tempfile.TemporaryDirectory(prefix="dockerd-", dir="/var/tmp") as name:
        folder = Path(name)
        (folder / "docker-config").mkdir()
        door = Door("dockerd", folder / "docker.sock", folder / "docker-config")
        roots = [f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"]
        drivers = [
            "--exec-opt=native.cgroupdriver=cgroupfs",
            "--storage-driver=overlay2",
            "--bridge=none",
            "--iptables=false",
        ]
        path = f"{dockerd.parent}:{dockerd.parent.parent / 'bin'}:{os.environ['PATH']}"
        with (folder / "log").open("wb") as log:
            process = namespace.popen(
                [str(dockerd), "-H", door.address, *roots, *drivers],
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": path},
            )
        try:
            while door.docker("version", check=False).returncode:
                if process.poll() is not None:
                    raise RuntimeError((folder / "log").read_text())
                time.sleep(0.2)
            applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, check=True).stdout.decode().split()
            tar = root_tar(BUSYBOX.read_bytes(), applets)
            door.docker("import", "-", "busybox:latest", input=tar)
            yield Engine("dockerd", door, process.pid, lambda: processes_with(str(folder).encode(), b"shim"))
        finally:
            process.terminate()
            process.wait(30)


def processes_with(*markers: bytes) -> list[int]:
    """Processes whose command lines hold all of them."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and all(marker in (entry / "cmdline").read_bytes() for marker in markers):
                found.append(int(entry.name))
    return found


class Meter:
    """Takes the clock and CPU times around a transfer."""

    def __init__(self, engine: Engine, what: str, moved_bytes: int, client: subprocess.Popen[bytes]) -> None:
        self._engine, self._what, self._moved_bytes, self._client = engine, what, moved_bytes, client
        self._before = self._now()

    def _now(self) -> tuple[float, float, float, float]:
        vm_s = sum(cpu_s(pid) for pid in self._engine.vm_pids())
        return time.monotonic(), cpu_s(self._engine.daemon_pid), vm_s, cpu_s(self._client.pid)

    def row(self) -> Row:
        took = [after - before for after, before in zip(self._now(), self._before, strict=True)]
        return Row(self._engine.name, self._what, took[0], self._moved_bytes, *took[1:])


def read_exactly(client: subprocess.Popen[bytes], size: int) -> None:
    assert client.stdout is not None
    while size:
        data = client.stdout.read1(min(size, MIB))  # type: ignore[attr-defined]
        if not data:
            raise RuntimeError(f"the client ended {size} bytes too early")
        size -= len(data)


def attached(engine: Engine, container: str, kind: str, mib: int) -> Row:
    """guest → stdout through the log and `docker attach`."""
    size = mib * MIB
    client = engine.door.popen("attach", container, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdin is not None
    client.stdin.write(f"{kind} 4\n".encode())  # the first piece only shows that it is attached
    client.stdin.flush()
    read_exactly(client, 4 * MIB)
    meter = Meter(engine, f"attach, log, {kind}", size, client)
    client.stdin.write(f"{kind} {mib}\n".encode())
    client.stdin.flush()
    read_exactly(client, size)
    row = meter.row()
    client.kill()
    client.wait()
    return row


def executed(engine: Engine, container: str, kind: str, mib: int) -> Row:
    """guest → stdout without a log."""
    loop = f"n={mib}; read go; while [ $n -gt 0 ]; do cat /dev/shm/b/{kind}; n=$((n-4)); done"
    client = engine.door.popen(
        "exec", "-i", container, "sh", "-c", "echo ready;" + loop, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert client.stdin is not None
    read_exactly(client, len("ready\n"))
    meter = Meter(engine, f"exec, no log, {kind}", mib * MIB, client)
    client.stdin.write(b"\n")
    client.stdin.flush()
    read_exactly(client, mib * MIB)
    row = meter.row()
    client.communicate(timeout=30)
    return row


def sent(engine: Engine, container: str, mib: int) -> Row:
    """stdin → guest."""
    command = "echo ready; cat >/dev/null; echo done"
    return _written(engine, "exec -i, stdin", container, command, mib, len("done\n"))


def echoed(engine: Engine, container: str, mib: int) -> Row:
    """stdin → guest → stdout, both at once."""
    return _written(engine, "exec -i cat, both ways", container, "echo ready; exec cat", mib, mib * MIB)


def _written(engine: Engine, what: str, container: str, command: str, mib: int, answer_bytes: int) -> Row:
    client = engine.door.popen(
        "exec", "-i", container, "sh", "-c", command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    stdin = client.stdin
    assert stdin is not None
    read_exactly(client, len("ready\n"))
    meter = Meter(engine, what, mib * MIB, client)
    piece = os.urandom(MIB)

    def write() -> None:
        for _ in range(mib):
            stdin.write(piece)
        stdin.close()

    writer = threading.Thread(target=write)
    writer.start()
    read_exactly(client, answer_bytes)
    row = meter.row()
    writer.join()
    client.wait(60)
    return row


def logged(engine: Engine, container: str) -> Row:
    """Reading the log back."""
    client = engine.door.popen("logs", container, stdout=subprocess.PIPE)
    assert client.stdout is not None
    read_exactly(client, len("ready\n"))
    meter = Meter(engine, "logs", 1, client)
    size = 0
    while data := client.stdout.read1(MIB):  # type: ignore[attr-defined]
        size += len(data)
    row = meter.row()
    client.wait()
    return Row(row.engine, row.what, row.seconds, size, row.daemon_s, row.vm_s, row.client_s)


def measure(engine: Engine, mib: int, only: str) -> None:
    container = engine.door.out("run", "-d", "-i", "--network", "none", "busybox", "sh", "-c", SERVE)
    try:
        while "ready" not in engine.door.out("logs", container):
            time.sleep(0.2)
        steps: dict[str, Callable[[], Row]] = {
            "attach-text": lambda: attached(engine, container, "text", mib),
            "attach-random": lambda: attached(engine, container, "random", mib),
            "exec-text": lambda: executed(engine, container, "text", mib),
            "exec-random": lambda: executed(engine, container, "random", mib),
            "stdin": lambda: sent(engine, container, mib),
            "cat": lambda: echoed(engine, container, mib),
            "logs": lambda: logged(engine, container),
        }
        print(f"# daemon {engine.daemon_pid}, vm {engine.vm_pids()}", flush=True)  # for perf, strace and py-spy
        for name, step in steps.items():
            if name.startswith(only):
                print(step(), flush=True)
    finally:
        engine.door.docker("rm", "-f", container)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=64, help="how much each row moves; a multiple of 4")
    parser.add_argument("--only", default="", help="rows whose names begin so: attach, exec, stdin, cat, logs")
    parser.add_argument("--peer", type=Path, help="a dockerd to measure as well")
    arguments = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}; MB/s, then CPU seconds for 100 MB")
    print(f"{'engine':8} {'what':34}{'MB/s':>9}{'daemon':>9}{'vm':>9}{'client':>9}")
    with hyper_engine() as engine:
        measure(engine, arguments.mib, arguments.only)
    if arguments.peer is not None:
        with docker_engine(arguments.peer) as engine:
            measure(engine, arguments.mib, arguments.only)


if __name__ == "__main__":
    main()
