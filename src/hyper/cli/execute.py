"""``exec``: a further process in a running container."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from hyper.cli import terminal
from hyper.cli.create_flags import variables
from hyper.cli.flags import many, parse, switch, value
from hyper.cli.run import _read_file, exit_code_of
from hyper.cli.streams import Errands, Streams, watch_signals
from hyper.client.engine import Engine, path_part
from hyper.errors import HyperError, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hyper.cli.main import Session


def execute(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "exec",
        arguments,
        (
            switch("-d --detach", "Run it in the background"),
            value("--detach-keys", "The keys that detach from a terminal", metavar="keys"),
            many("-e --env", "Set an environment variable"),
            many("--env-file", "Read environment variables from a file", metavar="file"),
            switch("-i --interactive", "Keep stdin open"),
            switch("--privileged", "Give the process all capabilities"),
            switch("-t --tty", "Give the process a terminal"),
            value("-u --user", "User or UID, and group"),
            value("-w --workdir", "Working directory inside of the container"),
        ),
        usage="[FLAGS] CONTAINER COMMAND [ARGUMENT...]",
        summary="Run a command in a running container.",
        at_least=2,
        leading=True,
    )
    container, *command = parsed.arguments
    detach, tty, stdin = parsed.on("detach"), parsed.on("tty"), parsed.on("interactive") and not parsed.on("detach")
    if tty and stdin and not terminal.is_terminal(0):
        raise InvalidArgument("-t wants a terminal on stdin, and there is none here: leave -t out, or add -d")
    engine = session.engine
    size = terminal.size() if tty and not detach else (0, 0)
    body: dict[str, Any] = {
        "Cmd": command,
        "Env": variables(parsed.list("env"), parsed.list("env-file"), os.environ, _read_file),
        "Tty": tty,
        "Privileged": parsed.on("privileged"),
        "User": parsed.value("user"),
        "WorkingDir": parsed.value("workdir"),
        "AttachStdin": stdin,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "DetachKeys": parsed.value("detach-keys"),
    }
    if all(size):
        body["ConsoleSize"] = list(size)
    exec_id = str(engine.object("POST", f"/containers/{path_part(container)}/exec", body=body)["Id"])
    start: dict[str, Any] = {"Detach": detach, "Tty": tty}
    if all(size):
        start["ConsoleSize"] = list(size)
    try:
        if detach:
            engine.json("POST", f"/exec/{exec_id}/start", body=start)
            return 0
        return _foreground(engine, exec_id, start, tty=tty, stdin=stdin, detach_keys=parsed.value("detach-keys"))
    except HyperError as error:
        print(f"hyper: {error.message}", file=sys.stderr)
        code = exit_code_of(error)
        return code if code != 125 else 1


def _foreground(
    engine: Engine, exec_id: str, start: dict[str, Any], *, tty: bool, stdin: bool, detach_keys: str
) -> int:
    errands = Errands(engine)
    try:
        with (
            Streams(
                engine.hijack("POST", f"/exec/{exec_id}/start", body=start),
                tty=tty,
                stdin=stdin,
                detach_keys=detach_keys,
            ) as streams,
            watch_signals(
                errands,
                resize=(lambda other: _resize(other, exec_id)) if tty and terminal.is_terminal(1) else None,
                kill=None,
            ),
        ):
            streams.pump()
            if streams.detached:
                return 0
    finally:
        errands.close()
    code = engine.object("GET", f"/exec/{exec_id}/json")["ExitCode"]
    return int(code) if code is not None else 0


def _resize(engine: Engine, exec_id: str) -> None:
    rows, columns = terminal.size()
    if rows and columns:
        engine.json("POST", f"/exec/{exec_id}/resize", query={"h": rows, "w": columns})
