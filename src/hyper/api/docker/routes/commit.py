"""``/commit``: an image of what a container has become."""

from __future__ import annotations

from hyper.api.docker.call import Call, json_response
from hyper.api.docker.go_json import decode
from hyper.api.docker.router import Route
from hyper.api.http.messages import Response
from hyper.errors import InvalidArgument, NotFound
from hyper.oci import reference as references
from hyper.oci.image_config import ContainerConfig


def routes() -> tuple[Route, ...]:
    return (Route("POST", "/commit", commit),)


async def commit(call: Call) -> Response:
    container = call.text("container")
    if not container:
        raise NotFound("No such container: ")
    body = await call.request.read()
    config = None if body.strip() in (b"", b"null") else decode(body, ContainerConfig)
    image = await call.engine.commits.commit(
        container,
        name=_name(call.text("repo"), call.text("tag")),
        comment=call.text("comment"),
        author=call.text("author"),
        changes=call.texts("changes"),
        config=config,
        pause=call.flag("pause", default=True) if call.text("pause") else True,
    )
    return json_response({"Id": image.id}, 201)


def _name(repository: str, tag: str) -> str | None:
    if not repository:
        return None
    parsed = references.parse(repository)
    if parsed.digest:
        raise InvalidArgument("cannot commit to digest reference")
    return f"{repository}:{tag}" if tag else repository
