"""``run``, ``create``, ``start`` and ``attach``: containers in the foreground and their exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from hyper.cli import terminal
from hyper.cli.create_flags import CREATE_FLAGS, create_body
from hyper.cli.flags import Parsed, parse, switch, value
from hyper.cli.streams import Errands, Streams, watch_signals
from hyper.client.engine import Engine, decode, path_part
from hyper.client.http import Connection
from hyper.errors import FailedPrecondition, HyperError, InvalidArgument, NotFound, Unavailable, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hyper.cli.main import Session
    from hyper.cli.timings import Timings

FAILED = 125
CANNOT_EXECUTE = 126
NOT_FOUND = 127

_DETACH_KEYS = value("--detach-keys", "The keys that detach from a terminal", metavar="keys")
_SIG_PROXY = switch("--sig-proxy", "Pass signals on to the process", default=True)
_TIMINGS = switch("--timings", "Show at the end where the start's time went, phase by phase")


def run(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "run",
        arguments,
        (
            *CREATE_FLAGS,
            switch("-d --detach", "Run in the background and print the ID"),
            _DETACH_KEYS,
            _SIG_PROXY,
            _TIMINGS,
        ),
        usage="[FLAGS] IMAGE [COMMAND] [ARGUMENT...]",
        summary="Create and run a new container from an image.",
        at_least=1,
        leading=True,
    )
    detach = parsed.on("detach")
    if detach and parsed.list("attach"):
        raise InvalidArgument("--detach and --attach contradict each other")
    tty, stdin = parsed.on("tty"), parsed.on("interactive")
    if tty and stdin and not detach and not terminal.is_terminal(0):
        raise InvalidArgument("-t wants a terminal on stdin, and there is none here: leave -t out, or add -d")
    try:
        container_id = _create(session.engine, parsed, attach=not detach)
    except HyperError as error:
        return _failed(error)
    engine, path = session.engine, f"/containers/{container_id}"
    timings = _timings(parsed)
    if detach:
        try:
            _start(engine, path, timings)
        except HyperError as error:
            return _failed(error)
        print(container_id, flush=True)
        if timings is not None:
            timings.show()
        return 0
    return _foreground(
        engine,
        container_id,
        tty=tty,
        stdin=stdin and (not parsed.list("attach") or "stdin" in parsed.list("attach")),
        detach_keys=parsed.value("detach-keys"),
        sig_proxy=parsed.on("sig-proxy"),
        removed=parsed.on("rm"),
        start=True,
        timings=timings,
    )


def create(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "create",
        arguments,
        CREATE_FLAGS,
        usage="[FLAGS] IMAGE [COMMAND] [ARGUMENT...]",
        summary="Create a new container.",
        at_least=1,
        leading=True,
    )
    print(_create(session.engine, parsed, attach=True))
    return 0


def start(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "start",
        arguments,
        (
            switch("-a --attach", "Show the output, pass signals on, and end with the container's exit code"),
            switch("-i --interactive", "Pass stdin on"),
            _DETACH_KEYS,
            _SIG_PROXY,
            _TIMINGS,
        ),
        usage="[FLAGS] CONTAINER [CONTAINER...]",
        summary="Start one or more stopped containers.",
        at_least=1,
    )
    engine = session.engine
    if parsed.on("attach") or parsed.on("interactive"):
        if len(parsed.arguments) > 1:
            raise InvalidArgument("only one container can be started and attached to at a time")
        found = engine.object("GET", f"/containers/{path_part(parsed.arguments[0])}/json")
        return _foreground(
            engine,
            str(found["Id"]),
            tty=bool(found["Config"]["Tty"]),
            stdin=parsed.on("interactive") and bool(found["Config"]["OpenStdin"]),
            detach_keys=parsed.value("detach-keys"),
            sig_proxy=parsed.on("sig-proxy"),
            removed=bool(found["HostConfig"].get("AutoRemove")),
            start=not found["State"]["Running"],
            timings=_timings(parsed),
        )

    def begin(name: str) -> None:
        timings = _timings(parsed)
        _start(engine, f"/containers/{path_part(name)}", timings)
        print(name, flush=True)
        if timings is not None:
            timings.show()

    return for_each(parsed.arguments, begin, show=False)


def attach(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "attach",
        arguments,
        (_DETACH_KEYS, switch("--no-stdin", "Do not pass stdin on"), _SIG_PROXY),
        usage="[FLAGS] CONTAINER",
        summary="Attach to a running container. The detach keys (ctrl-p ctrl-q) leave it running.",
        at_least=1,
        at_most=1,
    )
    engine = session.engine
    found = engine.object("GET", f"/containers/{path_part(parsed.arguments[0])}/json")
    if not found["State"]["Running"]:
        raise FailedPrecondition(f"{parsed.arguments[0]} is not running: `hyper start -a` starts and attaches to it")
    if found["State"].get("Paused"):
        raise FailedPrecondition(f"{parsed.arguments[0]} is paused: `hyper unpause` it first")
    return _foreground(
        engine,
        str(found["Id"]),
        tty=bool(found["Config"]["Tty"]),
        stdin=bool(found["Config"]["OpenStdin"]) and not parsed.on("no-stdin"),
        detach_keys=parsed.value("detach-keys"),
        sig_proxy=parsed.on("sig-proxy"),
        removed=False,
        start=False,
        timings=None,
    )


def for_each(names: Sequence[str], act: Callable[[str], object], *, show: bool = True) -> int:
    """``act`` on every name, printing those that went well; the others' errors do not stop the rest. Returns the
    exit code."""
    failed = False
    for name in names:
        try:
            act(name)
        except (NotFound, InvalidArgument, FailedPrecondition, Unsupported, HyperError) as error:
            if isinstance(error, Unavailable):
                raise
            print(f"hyper: {error.message}", file=sys.stderr)
            failed = True
        else:
            if show:
                print(name, flush=True)
    return 1 if failed else 0


# ------------------------------------------------------------------------------------------------------------- in parts


def _create(engine: Engine, parsed: Parsed, *, attach: bool) -> str:
    image = parsed.arguments[0]
    when = parsed.value("pull")
    if when not in ("always", "missing", "never"):
        raise InvalidArgument(f'invalid pull option: \'{when}\': must be one of "always", "missing" or "never"')
    size = terminal.size() if parsed.on("tty") and attach else (0, 0)
    body = create_body(parsed, environment=os.environ, read_file=_read_file, attach=attach, console_size=size)
    cidfile = parsed.value("cidfile")
    if cidfile and os.path.exists(cidfile):
        raise InvalidArgument(f"--cidfile {cidfile} exists already: remove it, or name another file")
    query = {"name": parsed.value("name") or None, "platform": parsed.value("platform") or None}
    if when == "always":
        _pull(engine, parsed)
    try:
        answer = engine.object("POST", "/containers/create", query=query, body=body)
    except NotFound as error:
        if when != "missing" or "no such image" not in error.message.lower():
            raise
        print(f"Unable to find image '{_familiar(image)}' locally", file=sys.stderr, flush=True)
        _pull(engine, parsed)
        answer = engine.object("POST", "/containers/create", query=query, body=body)
    for warning in answer.get("Warnings") or ():
        print(f"hyper: warning: {warning}", file=sys.stderr)
    container_id = str(answer["Id"])
    if cidfile:
        with open(cidfile, "x", encoding="utf-8") as file:
            file.write(container_id)
    return container_id


def _pull(engine: Engine, parsed: Parsed) -> None:
    from hyper.cli.registry import fetch
    from hyper.oci import reference

    name = reference.parse(parsed.arguments[0]).with_default_tag()
    fetch(engine, name, platform=parsed.value("platform"), stream=None if parsed.on("quiet") else sys.stderr)


def _familiar(image: str) -> str:
    from hyper.oci import reference

    return reference.parse(image).with_default_tag().familiar


def _read_file(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"cannot read {path}: {error}") from error


def _foreground(
    engine: Engine,
    container_id: str,
    *,
    tty: bool,
    stdin: bool,
    detach_keys: str,
    sig_proxy: bool,
    removed: bool,
    start: bool,
    timings: Timings | None,
) -> int:
    """Attach, wait, start (in this order, so that nothing is missed), carry the streams, and return the exit code.
    ``timings`` are shown when the terminal is the user's again."""
    path = f"/containers/{container_id}"
    query: dict[str, str | int | bool | None] = {"stream": 1, "stdin": stdin, "stdout": 1, "stderr": 1}
    if detach_keys:
        terminal.parse_detach_keys(detach_keys)
        query["detachKeys"] = detach_keys
    condition = "removed" if removed else "next-exit" if start else "not-running"
    wait: Connection | None = None
    errands = Errands(engine)
    try:
        with Streams(
            engine.hijack("POST", f"{path}/attach", query=query), tty=tty, stdin=stdin, detach_keys=detach_keys
        ) as streams:
            waiting = Engine(engine.address).send("POST", f"{path}/wait", query={"condition": condition})
            wait = waiting
            response = engine.receive(waiting)
            with watch_signals(
                errands,
                resize=(lambda other: _resize(other, path)) if tty and terminal.is_terminal(1) else None,
                kill=(lambda other, number: other.json("POST", f"{path}/kill", query={"signal": number}))
                if sig_proxy
                else None,
            ):
                if start:
                    _start(engine, path, timings)
                if tty and terminal.is_terminal(1):
                    # Also after a start that was told the size: not every engine heeds it.
                    errands.add(lambda other: _resize(other, path))
                streams.pump()
                if timings is not None:
                    timings.first_output_s = streams.first_output_s
                if streams.detached:
                    return 0
                answer = decode(response.read(1024 * 1024))
        if error := (answer.get("Error") or {}).get("Message"):
            print(f"hyper: {error}", file=sys.stderr)
        return int(answer["StatusCode"])
    except HyperError as error:
        return _failed(error)
    finally:
        errands.close()
        if wait is not None:
            wait.close()
        if timings is not None:
            timings.show()


def _timings(parsed: Parsed) -> Timings | None:
    if not parsed.on("timings"):
        return None
    from hyper.cli.timings import Timings

    return Timings()


def _start(engine: Engine, path: str, timings: Timings | None) -> None:
    headers = engine.act("POST", f"{path}/start")
    if timings is not None:
        timings.started(headers)


def _resize(engine: Engine, path: str) -> None:
    rows, columns = terminal.size()
    if rows and columns:
        engine.json("POST", f"{path}/resize", query={"h": rows, "w": columns})


def _failed(error: HyperError) -> int:
    print(f"hyper: {error.message}", file=sys.stderr)
    return exit_code_of(error)


def exit_code_of(error: HyperError) -> int:
    """Docker's: 127 when the program does not exist, 126 when it cannot be executed, 125 for everything else."""
    message = error.message.lower()
    if isinstance(error, Unavailable) or "no such image" in message or "no such container" in message:
        return FAILED
    if "executable file not found" in message or "no such file or directory" in message:
        return NOT_FOUND
    if "permission denied" in message or "is a directory" in message or "exec format error" in message:
        return CANNOT_EXECUTE
    return FAILED
