"""``/events``."""

from __future__ import annotations

import time

from hyper.api.docker import event_stream, filters
from hyper.api.docker.call import Call
from hyper.api.docker.router import Route
from hyper.api.docker.times import parse_timestamp_ns
from hyper.api.http.messages import StreamResponse
from hyper.errors import InvalidArgument


def routes() -> tuple[Route, ...]:
    return (Route("GET", "/events", events),)


async def events(call: Call) -> StreamResponse:
    now_ns = time.time_ns()
    since_ns = parse_timestamp_ns(call.text("since"), now_ns)
    until_ns = parse_timestamp_ns(call.text("until"), now_ns)
    if since_ns and until_ns and until_ns < since_ns:
        raise InvalidArgument(
            f"`since` time ({call.text('since')}) cannot be after `until` time ({call.text('until')})"
        )
    wanted = filters.parse(call.text("filters"), event_stream.ACCEPTED)
    subscription = call.engine.events.subscribe(
        since_ns=since_ns, until_ns=until_ns, accept=event_stream.predicate(wanted)
    )
    return StreamResponse(event_stream.encode(subscription))
