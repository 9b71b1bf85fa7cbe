"""Verbs that change what a container is doing: stop, restart, kill, pause, unpause, rename, rm, wait."""

from __future__ import annotations

from collections.abc import Sequence

from hyper.cli.flags import UsageError, parse, switch, value
from hyper.cli.run import for_each
from hyper.client.engine import path_part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hyper.cli.main import Session
    from hyper.client.engine import Query

_USAGE = "[FLAGS] CONTAINER [CONTAINER...]"


def stop(session: Session, arguments: Sequence[str]) -> int:
    return _stop_or_restart(session, arguments, "stop", "Stop one or more running containers.")


def restart(session: Session, arguments: Sequence[str]) -> int:
    return _stop_or_restart(session, arguments, "restart", "Restart one or more containers.")


def _stop_or_restart(session: Session, arguments: Sequence[str], verb: str, summary: str) -> int:
    parsed = parse(
        verb,
        arguments,
        (
            value("-s --signal", "The signal to send"),
            value("-t --time --timeout", "Seconds before it is killed; -1 to wait for ever", metavar="int"),
        ),
        usage=_USAGE,
        summary=summary,
        at_least=1,
    )
    query: Query = {"t": parsed.integer("timeout"), "signal": parsed.value("signal") or None}
    return _post(session, parsed.arguments, verb, query)


def kill(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "kill",
        arguments,
        (value("-s --signal", "The signal to send", default="KILL"),),
        usage=_USAGE,
        summary="Send a signal to one or more running containers.",
        at_least=1,
    )
    return _post(session, parsed.arguments, "kill", {"signal": parsed.value("signal")})


def pause(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse("pause", arguments, (), usage=_USAGE, summary="Freeze all processes of containers.", at_least=1)
    return _post(session, parsed.arguments, "pause")


def unpause(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse("unpause", arguments, (), usage=_USAGE, summary="Let frozen containers go on.", at_least=1)
    return _post(session, parsed.arguments, "unpause")


def rename(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "rename", arguments, (), usage="CONTAINER NEW_NAME", summary="Rename a container.", at_least=2, at_most=2
    )
    old, new = parsed.arguments
    session.engine.json("POST", f"/containers/{path_part(old)}/rename", query={"name": new})
    return 0


def remove(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "rm",
        arguments,
        (
            switch("-f --force", "Kill a running container first"),
            switch("-l --link", "Remove the link (there are none)"),
            switch("-v --volumes", "Remove its anonymous volumes as well"),
        ),
        usage=_USAGE,
        summary="Remove one or more containers.",
        at_least=1,
    )
    if parsed.on("link"):
        raise UsageError("there are no links between containers: use --network")
    query: Query = {"force": parsed.on("force"), "v": parsed.on("volumes")}
    engine = session.engine
    return for_each(parsed.arguments, lambda name: engine.json("DELETE", f"/containers/{path_part(name)}", query=query))


def wait(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "wait",
        arguments,
        (),
        usage="CONTAINER [CONTAINER...]",
        summary="Wait until containers stop, then print their exit codes.",
        at_least=1,
    )

    def wait_for(name: str) -> None:
        answer = session.engine.object("POST", f"/containers/{path_part(name)}/wait")
        print(answer["StatusCode"], flush=True)

    return for_each(parsed.arguments, wait_for, show=False)


def _post(session: Session, names: Sequence[str], action: str, query: Query | None = None) -> int:
    engine = session.engine
    return for_each(names, lambda name: engine.json("POST", f"/containers/{path_part(name)}/{action}", query=query))
