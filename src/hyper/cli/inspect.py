"""``inspect``: everything that the engine knows of containers and images, as JSON or by a template."""

from __future__ import annotations

from collections.abc import Sequence

from hyper.cli import output
from hyper.cli.flags import Parsed, UsageError, parse, switch, value
from hyper.client.engine import path_part
from hyper.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hyper.cli.main import Session

_FORMAT = value("-f --format", "Show it by a template, or json")
_SIZE = switch("-s --size", "Show the sizes of containers as well")


def inspect(session: Session, arguments: Sequence[str]) -> int:
    kind = value("--type", "Only this kind of object: container or image")
    parsed = _parse("inspect", arguments, (_FORMAT, _SIZE, kind), "NAME")
    wanted = parsed.value("type")
    if wanted not in ("", "container", "image"):
        raise UsageError(f"--type {wanted!r} is not known: there are container and image")

    def fetch(name: str) -> dict[str, Any]:
        if wanted != "image":
            try:
                return _container(session, name, parsed.on("size"))
            except NotFound:
                if wanted:
                    raise
        try:
            return _image(session, name)
        except NotFound:
            if wanted:
                raise
            raise NotFound(f"No such object: {name}") from None

    return output.objects(parsed.arguments, fetch, parsed.value("format"))


def inspect_container(session: Session, arguments: Sequence[str]) -> int:
    parsed = _parse("container inspect", arguments, (_FORMAT, _SIZE), "CONTAINER")
    return output.objects(
        parsed.arguments, lambda name: _container(session, name, parsed.on("size")), parsed.value("format")
    )


def inspect_image(session: Session, arguments: Sequence[str]) -> int:
    parsed = _parse("image inspect", arguments, (_FORMAT,), "IMAGE")
    return output.objects(parsed.arguments, lambda name: _image(session, name), parsed.value("format"))


def _parse(verb: str, arguments: Sequence[str], flags: Sequence[Any], what: str) -> Parsed:
    return parse(
        verb,
        arguments,
        flags,
        usage=f"[FLAGS] {what} [{what}...]",
        summary="Show everything that is known of them.",
        at_least=1,
    )


def _container(session: Session, name: str, size: bool) -> dict[str, Any]:
    return session.engine.object("GET", f"/containers/{path_part(name)}/json", query={"size": size or None})


def _image(session: Session, name: str) -> dict[str, Any]:
    return session.engine.object("GET", f"/images/{path_part(name)}/json")
