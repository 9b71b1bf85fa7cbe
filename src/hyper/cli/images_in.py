"""``load`` and ``import``: images from archives, with progress."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from hyper.cli import terminal
from hyper.cli.flags import UsageError, many, parse, switch, value
from hyper.cli.progress import Progress, read_pieces
from hyper.errors import InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hyper.cli.main import Session


def load(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "load",
        arguments,
        (
            value("-i --input", "Read this file instead of stdin", metavar="file"),
            value("--platform", "Load only this platform"),
            switch("-q --quiet", "No progress"),
        ),
        usage="[FLAGS]",
        summary="Load images from an archive made by docker save: docker or OCI layout, also gzip, zstd or xz.",
        at_most=0,
    )
    path = parsed.value("input")
    if not path and terminal.is_terminal(0):
        raise UsageError("load reads an archive from stdin or from -i FILE, and stdin is a terminal")
    quiet = parsed.on("quiet")
    with _open(path or "-") as (file, total):
        progress = Progress("loading", total, shown=False if quiet else None)
        query = {"quiet": quiet, "platform": parsed.value("platform") or None}
        try:
            for message in session.engine.messages(
                "POST", "/images/load", query=query, content=read_pieces(file, progress)
            ):
                if text := message.get("stream"):
                    progress.clear()
                    print(str(text).rstrip("\n"), flush=True)
                elif status := message.get("status"):
                    progress.note(str(status))
        finally:
            progress.clear()
    return 0


def import_root(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "import",
        arguments,
        (
            many("-c --change", "Apply a Dockerfile instruction to the image (CMD, ENV, …)"),
            value("-m --message", "The message in the image's history"),
            value("--platform", "The image's platform"),
        ),
        usage="[FLAGS] FILE|- [REPOSITORY[:TAG]]",
        summary="Make an image from a tar of a root filesystem.",
        at_least=1,
        at_most=2,
    )
    source, *name = parsed.arguments
    if "://" in source:
        raise Unsupported(f"import from {source} is not there: download the file and name it")
    head, slash, last = (name[0] if name else "").rpartition("/")
    repository, _, tag = last.partition(":")
    query: list[tuple[str, str | None]] = [
        ("fromSrc", "-"),
        ("repo", head + slash + repository or None),
        ("tag", tag or None),
        ("message", parsed.value("message") or None),
        ("platform", parsed.value("platform") or None),
    ]
    with _open(source) as (file, total):
        progress = Progress("importing", total)
        try:
            for message in session.engine.messages(
                "POST",
                "/images/create",
                query=[*query, *(("changes", change) for change in parsed.list("change"))],
                content=read_pieces(file, progress),
            ):
                if (status := message.get("status")) and not message.get("progressDetail"):
                    progress.clear()
                    print(status, flush=True)
        finally:
            progress.clear()
    return 0


@contextmanager
def _open(path: str) -> Iterator[tuple[BinaryIO, int]]:
    """The file and its size, 0 when that is not known. "-" is stdin."""
    if path == "-":
        yield sys.stdin.buffer, 0
        return
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}") from error
    with file:
        yield file, os.fstat(file.fileno()).st_size
