"""``/containers``: create, list, inspect and the life cycle. The streams are in ``container_streams``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from typing import Literal, cast

import msgspec

from hyper.api.docker import filters, listing, process_table
from hyper.api.docker import stats as container_stats
from hyper.api.docker.call import NO_CONTENT, Call, json_response
from hyper.api.docker.create import container_config
from hyper.api.docker.create_body import CreateBody
from hyper.api.docker.inspect import container_json
from hyper.api.docker.launch_errors import launch_error
from hyper.api.docker.router import Route
from hyper.api.docker.routes.system import go_architecture
from hyper.api.docker.timeline import timeline_headers
from hyper.api.docker.times import parse_timestamp_ns
from hyper.api.docker.update import UpdateBody, container_update
from hyper.api.http.messages import AnyResponse, Response, StreamResponse
from hyper.engine.model import Container, WaitResult
from hyper.errors import HyperError, InvalidArgument, NotFound, Unsupported

_PRUNE_FILTERS = frozenset({"label", "label!", "until"})
_WAIT_CONDITIONS = ("not-running", "next-exit", "removed")


def routes() -> tuple[Route, ...]:
    return (
        Route("GET", "/containers/json", list_),
        Route("POST", "/containers/create", create),
        Route("POST", "/containers/prune", prune),
        Route("GET", "/containers/{id}/json", inspect),
        Route("GET", "/containers/{id}/stats", stats),
        Route("GET", "/containers/{id}/top", top),
        Route("POST", "/containers/{id}/start", start),
        Route("POST", "/containers/{id}/stop", stop),
        Route("POST", "/containers/{id}/restart", restart),
        Route("POST", "/containers/{id}/kill", kill),
        Route("POST", "/containers/{id}/pause", pause),
        Route("POST", "/containers/{id}/unpause", unpause),
        Route("POST", "/containers/{id}/rename", rename),
        Route("POST", "/containers/{id}/update", update),
        Route("POST", "/containers/{id}/resize", resize),
        Route("POST", "/containers/{id}/wait", wait),
        Route("DELETE", "/containers/{id}", remove),
    )


async def list_(call: Call) -> Response:
    images = call.engine.images

    def image_ids_of(name: str) -> frozenset[str]:
        try:
            return frozenset({images.resolve(name).id})
        except (NotFound, InvalidArgument):
            return frozenset()

    selection = listing.Selection(
        filters=filters.parse(call.text("filters"), listing.ACCEPTED),
        all=call.flag("all"),
        limit=call.integer("limit") or 0,
        image_ids_of=image_ids_of,
    )
    now_ns = time.time_ns()
    entries = []
    for container in listing.select(call.engine.containers.list(), selection):
        entry = listing.summary_json(container, named_image(call, container), now_ns)
        entries.append(entry | sizes(call, container.id) if call.flag("size") else entry)
    return json_response(entries)


async def create(call: Call) -> Response:
    body = await call.json(CreateBody)
    config = container_config(body, call.version)
    _check_platform(call.text("platform"), config.image)
    container, warnings = await call.engine.containers.create(config, name=call.text("name") or None)
    return json_response({"Id": container.id, "Warnings": list(warnings)}, 201)


def _check_platform(platform: str, image: str) -> None:
    """Images here are of the machine's own architecture: another one cannot be found."""
    if not platform:
        return
    system, _, rest = platform.lower().partition("/")
    if not rest and system != "linux":
        system, rest = "linux", system
    architecture = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}.get(rest, rest).partition("/")[0]
    if system != "linux" or architecture not in ("", go_architecture()):
        raise NotFound(
            f"image with reference {image} was found but its platform (linux/{go_architecture()}) "
            f"does not match the specified platform ({platform[:64]})"
        )


async def inspect(call: Call) -> Response:
    container = call.engine.containers.get(call.params["id"])
    document = container_json(container, call.version)
    return json_response(document | sizes(call, container.id) if call.flag("size") else document)


def named_image(call: Call, container: Container) -> str:
    """The image as the user named it, or its ID once that name means another one."""
    named = container.config.image
    try:
        return named if call.engine.images.resolve(named).id == container.image_id else container.image_id
    except (NotFound, InvalidArgument):
        return container.image_id


def sizes(call: Call, container_id: str) -> dict[str, int]:
    """A container that goes away in between has none."""
    try:
        used_bytes, all_bytes = call.engine.containers.sizes(container_id)
    except NotFound:
        return {}
    return {"SizeRw": used_bytes, "SizeRootFs": all_bytes}


async def start(call: Call) -> Response:
    container = call.engine.containers.get(call.params["id"])
    if call.text("checkpoint"):
        raise Unsupported("checkpoint is not there yet: starting from a checkpoint")
    try:
        started = await call.engine.containers.start(container.id)
    except HyperError as error:
        if (refused := launch_error(error, container.path)) is not None:
            raise refused from error
        raise
    return Response(204, headers=timeline_headers(started))


async def stop(call: Call) -> Response:
    await call.engine.containers.stop(
        call.params["id"], timeout_s=call.integer("t"), signal=call.text("signal") or None
    )
    return NO_CONTENT


async def restart(call: Call) -> Response:
    container = call.engine.containers.get(call.params["id"])
    try:
        started = await call.engine.containers.restart(
            container.id, timeout_s=call.integer("t"), signal=call.text("signal") or None
        )
    except HyperError as error:
        if (refused := launch_error(error, container.path)) is not None:
            raise refused from error
        raise
    return Response(204, headers=timeline_headers(started))


async def kill(call: Call) -> Response:
    await call.engine.containers.kill(call.params["id"], call.text("signal") or "SIGKILL")
    return NO_CONTENT


async def pause(call: Call) -> Response:
    await call.engine.containers.pause(call.params["id"])
    return NO_CONTENT


async def unpause(call: Call) -> Response:
    await call.engine.containers.unpause(call.params["id"])
    return NO_CONTENT


async def rename(call: Call) -> Response:
    name = call.text("name")
    if not name.removeprefix("/"):
        raise InvalidArgument("Neither old nor new names may be empty")
    await call.engine.containers.rename(call.params["id"], name)
    return NO_CONTENT


async def update(call: Call) -> Response:
    changes = container_update(await call.json(UpdateBody), call.version)
    warnings = await call.engine.containers.update(call.params["id"], changes)
    return json_response({"Warnings": list(warnings)})


def window_size(call: Call) -> tuple[int, int]:
    """Rows and columns of ``?h=&w=``."""
    rows, columns = call.integer("h"), call.integer("w")
    if rows is None or columns is None:
        raise InvalidArgument("the terminal's size is needed: query parameters h and w")
    if not (0 <= rows <= 65535 and 0 <= columns <= 65535):
        raise InvalidArgument(f"a terminal of {rows} rows and {columns} columns is not possible")
    return rows, columns


async def resize(call: Call) -> Response:
    rows, columns = window_size(call)
    await call.engine.containers.resize(call.params["id"], rows=rows, columns=columns)
    return Response(200)


async def wait(call: Call) -> StreamResponse:
    """The head goes out when the wait is registered: clients start the container only then."""
    condition = call.text("condition") or "not-running"
    if call.version < (1, 30):
        condition = "not-running"
    if condition not in _WAIT_CONDITIONS:
        raise InvalidArgument(f'invalid condition: "{condition[:64]}"')
    literal = cast(Literal["not-running", "next-exit", "removed"], condition)
    result = call.engine.containers.wait(call.params["id"], literal)
    return StreamResponse(_wait_body(result))


async def _wait_body(result: Awaitable[WaitResult]) -> AsyncGenerator[bytes, None]:
    ended = await asyncio.ensure_future(result)
    body: dict[str, object] = {"StatusCode": ended.exit_code}
    if ended.error:
        body["Error"] = {"Message": ended.error}
    yield msgspec.json.encode(body) + b"\n"


async def stats(call: Call) -> AnyResponse:
    containers = call.engine.containers
    container = containers.get(call.params["id"])
    if call.flag("stream", True):
        return StreamResponse(container_stats.stream(containers, container))
    return json_response(await container_stats.once(containers, container, one_shot=call.flag("one-shot")))


async def top(call: Call) -> Response:
    arguments = call.text("ps_args") or "-ef"
    process_table.columns(arguments)  # what is wrong with them is said whether it runs or not
    found = await call.engine.containers.processes(call.params["id"])
    titles, rows = process_table.table(
        arguments, found.processes, now_ns=time.time_ns(), memory_bytes=found.memory_bytes
    )
    return json_response({"Titles": titles, "Processes": rows})


async def prune(call: Call) -> Response:
    wanted = filters.parse(call.text("filters"), _PRUNE_FILTERS)
    now_ns = time.time_ns()
    if len(wanted.get("until", ())) > 1:
        raise InvalidArgument("more than one until filter specified")
    until_ns = parse_timestamp_ns(wanted["until"][0], now_ns) if "until" in wanted else 0

    def accept(container: Container) -> bool:
        labels = container.config.labels
        return (
            (not until_ns or container.created_ns < until_ns)
            and ("label" not in wanted or filters.labels_match(wanted["label"], labels))
            and not any(filters.labels_match((value,), labels) for value in wanted.get("label!", ()))
        )

    ids, freed_bytes = await call.engine.containers.prune(accept)
    return json_response({"ContainersDeleted": list(ids), "SpaceReclaimed": freed_bytes})


async def remove(call: Call) -> Response:
    if call.flag("link"):
        raise Unsupported("link is not there: container links are a legacy of the default bridge")
    await call.engine.containers.remove(call.params["id"], force=call.flag("force"), volumes=call.flag("v"))
    return NO_CONTENT
