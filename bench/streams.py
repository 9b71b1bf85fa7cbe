"""How fast bytes go through a container's standard streams, and what each process on the way pays for them.

    .venv/bin/python -m bench streams --mib 64 --only exec

One container lives through a run, so that starting is not measured. MB/s are 10**6 bytes a second on the clock; the
CPU columns are seconds of CPU time for 100 MB, which says more on a busy machine.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.engine import Engine, Usage
from bench.figures import number, ratio
from bench.fleet import Fleet
from bench.plan import Plan
from bench.processes import cpu_s
from bench.report import Section

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
class Row:
    engine: str
    what: str
    seconds: float
    moved_bytes: int
    daemon_s: float
    workers_s: float
    client_s: float

    @property
    def mb_per_s(self) -> float:
        return self.moved_bytes / self.seconds / 1e6

    def per_100_mb(self) -> tuple[float, float, float]:
        """CPU seconds of daemon, workers and client."""
        per = 100e6 / self.moved_bytes
        return self.daemon_s * per, self.workers_s * per, self.client_s * per


class Meter:
    """Takes the clock and CPU times around a transfer."""

    def __init__(self, engine: Engine, what: str, moved_bytes: int, client: subprocess.Popen[bytes]) -> None:
        self._engine, self._what, self._moved_bytes, self._client = engine, what, moved_bytes, client
        self._before = self._now()

    def _now(self) -> tuple[float, Usage, float]:
        return time.monotonic(), self._engine.usage(), cpu_s(self._client.pid)

    def row(self) -> Row:
        (began, used, client), (now, use, client_now) = self._before, self._now()
        cpu = (use.daemon - used.daemon, use.workers - used.workers, client_now - client)
        return Row(self._engine.name, self._what, now - began, self._moved_bytes, *cpu)


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
    client = popen(engine, "attach", container, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
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
    client = popen(
        engine, "exec", "-i", container, "sh", "-c", "echo ready;" + loop, stdin=subprocess.PIPE, stdout=subprocess.PIPE
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
    client = popen(engine, "exec", "-i", container, "sh", "-c", command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
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
    client = popen(engine, "logs", container, stdout=subprocess.PIPE)
    assert client.stdout is not None
    read_exactly(client, len("ready\n"))
    meter = Meter(engine, "logs", 1, client)
    size = 0
    while data := client.stdout.read1(MIB):  # type: ignore[attr-defined]
        size += len(data)
    row = meter.row()
    client.wait()
    return Row(row.engine, row.what, row.seconds, size, row.daemon_s, row.workers_s, row.client_s)


def popen(engine: Engine, *arguments: str, **streams: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["docker", *arguments], env=dict(engine.environment), **streams)  # type: ignore[call-overload,no-any-return]


def rows_of(engine: Engine, mib: int, only: str) -> list[Row]:
    container = engine.out("run", "-d", "-i", "--network", "none", "busybox", "sh", "-c", SERVE)
    try:
        while "ready" not in engine.out("logs", container):
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
        return [step() for name, step in steps.items() if name.startswith(only)]
    finally:
        engine.timed("rm", "-f", container)


def measure(fleet: Fleet, plan: Plan, mib: int, only: str) -> Section:
    """``mib``: how much each row moves, a multiple of 4. ``only``: rows whose names begin so: attach, exec, stdin,
    cat, logs. Without Podman, whose clients live in a room of their own."""
    openers = [*fleet.hypers(("template",), plan.kernels[:1]), fleet.docker]
    found = [row for rows in fleet.each(openers, lambda engine: rows_of(engine, mib, only)) for row in rows]
    docker = {row.what: row.mb_per_s for row in found if row.engine == "docker"}
    rows = [
        [row.what, row.engine, number(row.mb_per_s, 1)]
        + [number(value, 2) for value in row.per_100_mb()]
        + [ratio(row.mb_per_s, docker.get(row.what))]
        for row in sorted(found, key=lambda row: row.what)
    ]
    header = ("what", "engine", "MB/s", "daemon", "VMM or shim", "client", "÷ docker")
    title = f"Streams: {mib} MiB a row; CPU seconds for 100 MB"
    return Section("streams", title, header, rows, ["A ratio above 1 is faster than Docker here."])
