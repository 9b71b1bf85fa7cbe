"""``diff``, ``export``, ``commit``, ``save`` and ``image prune``: what containers have become, and images going out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from hyper.cli import human, output, terminal
from hyper.cli.containers import filters
from hyper.cli.flags import UsageError, many, parse, switch, value
from hyper.client.engine import path_part
from hyper.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hyper.cli.main import Session

_KINDS = "CAD"


def diff(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "diff",
        arguments,
        (),
        usage="CONTAINER",
        summary="Show what a container has changed (C), added (A) and deleted (D) in its file system.",
        at_least=1,
        at_most=1,
    )
    changes = session.engine.list("GET", f"/containers/{path_part(parsed.arguments[0])}/changes")
    output.write("".join(f"{_KINDS[item['Kind']]} {item['Path']}\n" for item in changes))
    return 0


def export(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "export",
        arguments,
        (value("-o --output", "Write to this file instead of stdout", metavar="file"),),
        usage="[FLAGS] CONTAINER",
        summary="Write a container's file system as a tar archive.",
        at_least=1,
        at_most=1,
    )
    return _write(session, f"/containers/{path_part(parsed.arguments[0])}/export", (), parsed.value("output"))


def save(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "save",
        arguments,
        (value("-o --output", "Write to this file instead of stdout", metavar="file"),),
        usage="[FLAGS] IMAGE [IMAGE...]",
        summary="Write images as an archive that docker load and tools for OCI layouts read.",
        at_least=1,
    )
    query = [("names", name) for name in parsed.arguments]
    return _write(session, "/images/get", query, parsed.value("output"))


def _write(session: Session, path: str, query: Sequence[tuple[str, str | None]], target: str) -> int:
    """An archive into a file that is there only when it is whole, or to stdout."""
    if not target and terminal.is_terminal(1):
        raise UsageError("an archive is not written to a terminal: use -o FILE or redirect the output")
    response = session.engine.request("GET", path, query=list(query))
    try:
        if not target:
            for piece in response.pieces():
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return 0
        unfinished = f"{target}.part-{os.getpid()}"
        try:
            with open(unfinished, "xb") as file:
                for piece in response.pieces():
                    file.write(piece)
            os.replace(unfinished, target)
        except OSError as error:
            raise InvalidArgument(f"cannot write {target}: {error.strerror}") from error
        finally:
            if os.path.exists(unfinished):
                os.unlink(unfinished)
    finally:
        response.connection.close()
    return 0


def commit(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "commit",
        arguments,
        (
            value("-a --author", "Who made the image"),
            many("-c --change", "Apply a Dockerfile instruction to the image (CMD, ENV, …)"),
            value("-m --message", "The message in the image's history"),
            switch("-p --pause", "Freeze the container meanwhile (default true)", default=True),
        ),
        usage="[FLAGS] CONTAINER [REPOSITORY[:TAG]]",
        summary="Make an image of what a container has become.",
        at_least=1,
        at_most=2,
    )
    container, *name = parsed.arguments
    head, slash, last = (name[0] if name else "").rpartition("/")
    repository, _, tag = last.partition(":")
    query: list[tuple[str, str | None]] = [
        ("container", container),
        ("repo", head + slash + repository or None),
        ("tag", tag or None),
        ("author", parsed.value("author") or None),
        ("comment", parsed.value("message") or None),
        ("pause", "1" if parsed.on("pause") else "0"),
        *(("changes", change) for change in parsed.list("change")),
    ]
    output.write(f"{session.engine.object('POST', '/commit', query=query)['Id']}\n")
    return 0


def prune(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "image prune",
        arguments,
        (
            switch("-a --all", "All images that no container has, not only those without a name"),
            many("--filter", "Only those that fit (label=…, label!=…, until=…)"),
            switch("-f --force", "Do not ask"),
        ),
        usage="[FLAGS]",
        summary="Remove images that are not used.",
        at_most=0,
    )
    if not parsed.on("force"):
        what = (
            "all images without at least one container associated to them"
            if parsed.on("all")
            else ("all dangling images")
        )
        output.write(f"WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] ")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 0
    wanted = [*parsed.list("filter"), f"dangling={'false' if parsed.on('all') else 'true'}"]
    answer = session.engine.object("POST", "/images/prune", query={"filters": filters(wanted)})
    removed = answer["ImagesDeleted"] or ()
    if removed:
        lines = (f"{'untagged' if 'Untagged' in one else 'deleted'}: {next(iter(one.values()))}" for one in removed)
        output.write("Deleted Images:\n" + "".join(f"{line}\n" for line in lines) + "\n")
    output.write(f"Total reclaimed space: {human.size(answer['SpaceReclaimed'])}\n")
    return 0
