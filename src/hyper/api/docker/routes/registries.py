"""Images from and to registries: pull (``POST /images/create?fromImage=``), push, ``/distribution``,
``/images/search``, ``/auth``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec

from hyper.api.docker import filters, image_json, transfer_json
from hyper.api.docker.call import Call, json_response
from hyper.api.docker.router import Route
from hyper.api.http.messages import Response, StreamResponse
from hyper.engine.api import TransferProgress
from hyper.errors import HyperError, InvalidArgument, Unsupported
from hyper.oci import platform
from hyper.oci import reference as references
from hyper.oci.distribution import Credentials

_QUEUED_BARS = 128
_BAR_EVERY_S = 0.1
_SEARCH_DEFAULT, _SEARCH_MOST = 25, 100
_Tell = Callable[[TransferProgress], None]


def routes() -> tuple[Route, ...]:
    return (
        Route("POST", "/auth", sign_in),
        Route("GET", "/images/search", search),
        Route("POST", "/images/{name:path}/push", push),
        Route("GET", "/distribution/{name:path}/json", distribution),
    )


async def pull(call: Call) -> StreamResponse:
    """``changes``, ``repo`` and ``message`` belong to imports: with ``fromImage`` they are refused."""
    for member in ("repo", "message"):
        if call.text(member):
            raise InvalidArgument(f"{member} is for imports (fromSrc), and fromImage was given")
    if any(call.texts("changes")):
        raise InvalidArgument("changes are for imports (fromSrc), and fromImage was given")
    name = transfer_json.name_of(call.text("fromImage"), call.text("tag"))
    wanted = platform.parse(call.text("platform")) if call.text("platform") else None
    known = _credentials(call)
    registries = call.engine.registries
    return told(lambda tell: registries.pull(name, platform=wanted, credentials=known, tell=tell))


async def push(call: Call) -> StreamResponse:
    """Without ``tag``, all tags of the repository, as Docker does it."""
    if call.text("platform"):
        raise Unsupported("platform is not there yet: images of several platforms")
    name = transfer_json.name_of(call.params["name"], call.text("tag"))
    known = _credentials(call)
    registries = call.engine.registries
    return told(lambda tell: registries.push(name, credentials=known, tell=tell))


async def distribution(call: Call) -> Response:
    name = references.parse(call.params["name"]).with_default_tag()
    found = await call.engine.registries.inspect(name, _credentials(call))
    described = found.descriptor
    return json_response(
        {
            "Descriptor": {
                "mediaType": described.media_type,
                "digest": described.digest,
                "size": described.size,
            },
            "Platforms": [
                {
                    "architecture": one.architecture,
                    "os": one.os,
                    **({"variant": one.variant} if one.variant else {}),
                }
                for one in found.platforms
            ],
        }
    )


def told(work: Callable[[_Tell], Awaitable[None]]) -> StreamResponse:
    """A response of the lines that ``work`` tells. Its error has its own status when it comes before the first line;
    the client's going ends it."""
    return StreamResponse(_lines(work), eager_head=False)


async def _lines(work: Callable[[_Tell], Awaitable[None]]) -> AsyncGenerator[bytes, None]:
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    drawn_s: dict[str, float] = {}

    def tell(item: TransferProgress) -> None:
        if item.total and item.current < item.total:
            # Bars are many, and may be left out; what happened to a layer is told in any case.
            now_s = time.monotonic()
            if queue.qsize() >= _QUEUED_BARS or now_s - drawn_s.get(item.id, 0.0) < _BAR_EVERY_S:
                return
            drawn_s[item.id] = now_s
        queue.put_nowait(_line(transfer_json.progress_json(item)))

    async def run() -> None:
        try:
            await work(tell)
        finally:
            queue.put_nowait(None)

    task = asyncio.create_task(run(), name="transfer")
    begun = False
    try:
        while (line := await queue.get()) is not None:
            begun = True
            yield line
        try:
            await task
        except HyperError as error:
            if not begun:
                raise
            yield _line(image_json.error_json(error.message))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def sign_in(call: Call) -> Response:
    body = await call.json(transfer_json.AuthBody)
    signed_in = await call.engine.registries.sign_in(body.credentials())
    return json_response({"IdentityToken": signed_in.identity_token, "Status": signed_in.status})


async def search(call: Call) -> Response:
    term = call.text("term")
    if not term:
        raise InvalidArgument("search wants a term")
    limit = call.integer("limit") or _SEARCH_DEFAULT
    if not 1 <= limit <= _SEARCH_MOST:
        raise InvalidArgument(f"limit {limit} is outside the range of [1, {_SEARCH_MOST}]")
    wanted = filters.parse(call.text("filters"), frozenset({"is-automated", "is-official", "stars"}))
    official = filters.boolean(wanted, "is-official")
    automated = filters.boolean(wanted, "is-automated")
    stars = max((_stars(text) for text in wanted.get("stars", ())), default=0)
    found = await call.engine.registries.search(term, limit=limit, credentials=_credentials(call))
    return json_response(
        [
            {
                "star_count": item.star_count,
                "is_official": item.is_official,
                "name": item.name,
                "is_automated": item.is_automated,
                "description": item.description,
            }
            for item in found
            if (official is None or item.is_official == official)
            and (automated is None or item.is_automated == automated)
            and item.star_count >= stars
        ][:limit]
    )


def _stars(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise InvalidArgument(f"invalid filter 'stars={text[:64]}'")
    return int(text)


def _credentials(call: Call) -> Credentials:
    return transfer_json.credentials(call.request.headers.get("x-registry-auth", ""))


def _line(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\r\n"
