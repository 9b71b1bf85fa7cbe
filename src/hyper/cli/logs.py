"""``logs``: what a container has printed, stdout and stderr where they belong."""

from __future__ import annotations

import time
from collections.abc import Sequence

from hyper.cli.flags import UsageError, parse, switch, value
from hyper.cli.human import timestamp
from hyper.cli.streams import write_all
from hyper.client.engine import path_part
from hyper.client.frames import STDERR, split_frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hyper.cli.main import Session


def logs(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "logs",
        arguments,
        (
            switch("--details", "Show the extra attributes of the log as well"),
            switch("-f --follow", "Go on with what is printed from now on"),
            value("--since", "Only from this time on (10m, 2026-11-23T08:00:00)", metavar="time"),
            value("--until", "Only up to this time", metavar="time"),
            value("-n --tail", "Only the last lines", metavar="int", default="all"),
            switch("-t --timestamps", "Show when each line was printed"),
        ),
        usage="[FLAGS] CONTAINER",
        summary="Show the output of a container.",
        at_least=1,
        at_most=1,
    )
    tail = parsed.value("tail")
    if tail != "all" and not tail.lstrip("-").isdecimal():
        raise UsageError(f"--tail wants a number of lines or all, not {tail!r}")
    engine, now = session.engine, time.time()
    path = f"/containers/{path_part(parsed.arguments[0])}"
    tty = bool(engine.object("GET", f"{path}/json")["Config"]["Tty"])
    since, until = parsed.value("since"), parsed.value("until")
    response = engine.request(
        "GET",
        f"{path}/logs",
        query={
            "stdout": True,
            "stderr": True,
            "follow": parsed.on("follow") or None,
            "timestamps": parsed.on("timestamps") or None,
            "details": parsed.on("details") or None,
            "since": timestamp(since, now, "--since") if since else None,
            "until": timestamp(until, now, "--until") if until else None,
            "tail": tail,
        },
    )
    if tty:
        for piece in response.pieces():
            write_all(1, memoryview(piece))
    else:
        for stream, part in split_frames(response.pieces()):
            write_all(2 if stream >= STDERR else 1, part)
    return 0
