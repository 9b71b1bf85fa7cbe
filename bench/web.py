"""From the command line to a Python server's first answer: an image with all of Debian's Python, a published port,
a request from another machine."""

from __future__ import annotations

import contextlib
import time

from bench.engine import Engine
from bench.figures import COMPARED, compared
from bench.fleet import Fleet
from bench.plan import Plan
from bench.report import Section
from bench.rungs import RUNGS
from tests.debian_image import debian_tar
from tests.netns import HOST_ADDRESS, NetworkNamespace

IMAGE = "bench-python"
PORT = 8000
TIMEOUT_S = 60.0
_TRY_S = 5.0
_BETWEEN_TRIES_S = 0.01


def measure(fleet: Fleet, plan: Plan) -> Section:
    tar = debian_tar()
    samples: dict[str, list[float]] = {}
    with fleet.started(fleet.all(RUNGS, plan.kernels[:1])) as engines:
        for engine in engines:
            engine.timed("import", str(tar), IMAGE, timeout_s=600)
            first_answer_s(engine)  # warms up
        for _ in range(plan.web_runs):
            for engine in engines:
                samples.setdefault(engine.name, []).append(first_answer_s(engine) * 1e3)
    rows = [[engine, *cells] for engine, cells in compared(samples).items()]
    title = f"First HTTP answer of `python3 -m http.server`, ms from the command: {plan.web_runs} rounds"
    return Section("web", title, ("engine", *COMPARED), rows, (), {"first answer": samples})


def first_answer_s(engine: Engine) -> float:
    """Of a container that is gone again afterwards. Asked only once the command has ended, as a user does: what asks
    for an address that nobody has yet makes the kernel wait a second before it looks for it again."""
    engine.quiet()
    began = time.monotonic()
    command = ("run", "-d", "-p", f"{PORT}:{PORT}", IMAGE, "python3", "-m", "http.server", str(PORT))
    container = engine.out(*command)
    while not _answers(engine.outside):
        if time.monotonic() - began > TIMEOUT_S:
            raise TimeoutError(f"{engine.name}: no answer within {TIMEOUT_S:.0f} s")
        time.sleep(_BETWEEN_TRIES_S)
    took_s = time.monotonic() - began
    engine.timed("rm", "-f", container)
    engine.quiet()
    return took_s


def _answers(outside: NetworkNamespace) -> bool:
    """A port may be open before there is a server behind it: then the connection ends without an answer."""
    with contextlib.suppress(OSError), contextlib.closing(outside.open_socket()) as client:
        client.settimeout(_TRY_S)
        client.connect((HOST_ADDRESS, PORT))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return client.recv(5) == b"HTTP/"
    return False
