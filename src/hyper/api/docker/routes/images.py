"""``/images``: what works without a registry. Neighbour: ``registries.py``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import suppress

import msgspec

from hyper.api.docker import filters, image_json
from hyper.api.docker.call import Call, json_response
from hyper.api.docker.router import Route
from hyper.api.docker.routes import registries
from hyper.api.http.messages import Response, StreamResponse
from hyper.engine.api import Images, LoadedImage, ProgressView
from hyper.errors import HyperError, InvalidArgument, Unsupported
from hyper.oci import reference as references

_QUEUED_PROGRESS = 256


def routes() -> tuple[Route, ...]:
    return (
        Route("GET", "/images/json", list_),
        Route("POST", "/images/load", load),
        Route("POST", "/images/create", create),
        Route("POST", "/images/prune", prune),
        Route("GET", "/images/get", save_several),
        Route("GET", "/images/{name:path}/get", save),
        Route("GET", "/images/{name:path}/json", inspect),
        Route("GET", "/images/{name:path}/history", history),
        Route("POST", "/images/{name:path}/tag", tag),
        Route("DELETE", "/images/{name:path}", remove),
    )


async def list_(call: Call) -> Response:
    images = call.engine.images
    wanted = filters.parse(call.text("filters"), image_json.LIST_FILTERS)
    if call.has("filter"):  # before 1.28
        wanted = {**wanted, "reference": (call.text("filter"),)}
    if call.flag("manifests"):
        raise Unsupported("manifests are not there yet: images of several platforms")
    used: dict[str, int] = {}
    for container in call.engine.containers.list():
        used[container.image_id] = used.get(container.image_id, 0) + 1
    chosen = image_json.select(images.list(), wanted, images.resolve)
    patterns = tuple(wanted.get("reference", ()))
    return json_response(
        [image_json.summary_json(item, call.version, used.get(item.id, 0), patterns) for item in chosen]
    )


async def inspect(call: Call) -> Response:
    if call.flag("manifests"):
        raise Unsupported("manifests are not there yet: images of several platforms")
    return json_response(image_json.image_json(call.engine.images.resolve(call.params["name"]), call.version))


async def history(call: Call) -> Response:
    return json_response(
        [
            {
                "Id": entry.id,
                "Created": entry.created_ns // 1_000_000_000,
                "CreatedBy": entry.created_by,
                "Tags": [references.familiar(name) for name in entry.references],
                "Size": entry.size_bytes,
                "Comment": entry.comment,
            }
            for entry in call.engine.images.history(call.params["name"])
        ]
    )


async def tag(call: Call) -> Response:
    repository, name = call.text("repo"), call.text("tag")
    if not repository:
        raise InvalidArgument("invalid reference format: query parameter repo is empty")
    call.engine.images.tag(call.params["name"], f"{repository}:{name}" if name else repository)
    return Response(201)


async def remove(call: Call) -> Response:
    if call.has("platforms"):
        raise Unsupported("platforms is not there yet: images of several platforms")
    removals = call.engine.images.remove(call.params["name"], force=call.flag("force"))
    return json_response(
        [{"Untagged": item.untagged} if item.untagged else {"Deleted": item.deleted} for item in removals]
    )


async def save(call: Call) -> StreamResponse:
    return _save(call, [call.params["name"]])


async def save_several(call: Call) -> StreamResponse:
    names = call.texts("names")
    if not names:
        raise InvalidArgument("at least one image is needed: query parameter names")
    return _save(call, names)


def _save(call: Call, names: Sequence[str]) -> StreamResponse:
    if call.text("platform"):
        raise Unsupported("platform is not there yet: images of several platforms")
    # The head waits for the first bytes, so that a refusal has its own status.
    return StreamResponse(call.engine.images.save(names), content_type="application/x-tar", eager_head=False)


async def prune(call: Call) -> Response:
    wanted = filters.parse(call.text("filters"), image_json.PRUNE_FILTERS)
    removals, bytes_freed = call.engine.images.prune(image_json.prunable(wanted))
    deleted = [{"Untagged": item.untagged} if item.untagged else {"Deleted": item.deleted} for item in removals]
    return json_response({"ImagesDeleted": deleted, "SpaceReclaimed": bytes_freed})


async def create(call: Call) -> StreamResponse:
    """Import (``fromSrc``) of the request's body, or pull (``fromImage``)."""
    if call.text("fromImage"):
        return await registries.pull(call)
    source = call.text("fromSrc")
    if source != "-":
        raise Unsupported(
            "importing from an address is not there yet: send the archive as the request's body (fromSrc=-)"
        )
    repository, name = call.text("repo"), call.text("tag")
    reference = (f"{repository}:{name}" if name else repository) or None
    # The work is done before the head goes out, so that a refusal has its own status.
    return StreamResponse(_import(call, reference), eager_head=False)


async def _import(call: Call, reference: str | None) -> AsyncGenerator[bytes, None]:
    image = await call.engine.images.import_root(
        aiter(call.request.body),
        reference=reference,
        changes=call.texts("changes"),
        message=call.text("message"),
        platform=call.text("platform") or None,
    )
    yield _line({"status": image.id})


async def load(call: Call) -> StreamResponse:
    if call.text("platform"):
        raise Unsupported("platform is not there yet: choosing one platform of an archive")
    body = _load(call.engine.images, aiter(call.request.body), quiet=call.flag("quiet", default=True))
    return StreamResponse(body, eager_head=False)


async def _load(images: Images, stream: AsyncIterator[bytes], *, quiet: bool) -> AsyncGenerator[bytes, None]:
    """Progress lines while it loads, then what was loaded. An error before the first line gets its own status."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUED_PROGRESS)

    def progress(item: ProgressView) -> None:
        if not quiet:
            with suppress(asyncio.QueueFull):  # a slow client misses some steps of a bar
                queue.put_nowait(_line(image_json.progress_json(item.step, item.item, item.done_bytes)))

    task = asyncio.create_task(_load_and_end(images, stream, progress, queue))
    begun = False
    try:
        while (line := await queue.get()) is not None:
            begun = True
            yield line
        try:
            loaded = task.result() if task.done() else await task
        except HyperError as error:
            if not begun:
                raise
            yield _line(image_json.error_json(error.message))
            return
        for image in loaded:
            for message in image.messages:
                yield _line({"stream": f"{message}\n"})
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _load_and_end(
    images: Images,
    stream: AsyncIterator[bytes],
    progress: Callable[[ProgressView], None],
    queue: asyncio.Queue[bytes | None],
) -> Sequence[LoadedImage]:
    try:
        return await images.load(stream, progress=progress)
    finally:
        await queue.put(None)


def _line(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\r\n"
