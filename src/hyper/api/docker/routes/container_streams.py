"""``/containers/{id}/attach`` and ``/logs``."""

from __future__ import annotations

import time

from hyper.api.docker import detach_keys, framing, log_stream, streams
from hyper.api.docker.call import Call
from hyper.api.docker.router import Route
from hyper.api.docker.times import parse_timestamp_ns
from hyper.api.http.messages import HijackResponse, StreamResponse
from hyper.errors import InvalidArgument


def routes() -> tuple[Route, ...]:
    return (
        Route("POST", "/containers/{id}/attach", attach),
        Route("GET", "/containers/{id}/logs", logs),
    )


async def attach(call: Call) -> HijackResponse:
    keys = detach_keys.parse(call.text("detachKeys"))
    await call.request.read()  # clients send {} or nothing
    container = call.engine.containers.get(call.params["id"])
    stdin = call.flag("stdin")
    stdout, stderr = call.flag("stdout"), call.flag("stderr")
    tty = container.config.tty
    attachment = await call.engine.containers.attach(
        container.id, stdin=stdin, stdout=stdout, stderr=stderr, stream=call.flag("stream"), logs=call.flag("logs")
    )
    return streams.hijack(
        attachment, version=call.version, multiplexed=not tty, stdin=stdin, detach_keys=keys if tty else None
    )


async def logs(call: Call) -> StreamResponse:
    stdout, stderr = call.flag("stdout"), call.flag("stderr")
    if not (stdout or stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    container = call.engine.containers.get(call.params["id"])
    now_ns = time.time_ns()
    multiplexed = not container.config.tty
    entries = call.engine.containers.logs(
        container.id,
        stdout=stdout,
        stderr=stderr,
        follow=call.flag("follow"),
        since_ns=parse_timestamp_ns(call.text("since"), now_ns),
        until_ns=parse_timestamp_ns(call.text("until"), now_ns),
        tail=log_stream.tail_of(call.text("tail", "all")),
    )
    body = log_stream.encode(
        entries, multiplexed=multiplexed, timestamps=call.flag("timestamps"), details=call.flag("details")
    )
    return StreamResponse(body, content_type=framing.media_type(multiplexed=multiplexed, version=call.version))
