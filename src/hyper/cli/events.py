"""``events``: what happens in the engine, as it happens."""

from __future__ import annotations

import time
from collections.abc import Sequence

from hyper.cli.containers import filters
from hyper.cli.flags import many, parse, value
from hyper.cli.human import timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hyper.cli.main import Session


def events(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "events",
        arguments,
        (
            many("-f --filter", "Only those that fit (type=container, event=die, container=web, …)"),
            value("--format", "Show them by a template, or json"),
            value("--since", "Kept events from this time on as well", metavar="time"),
            value("--until", "End at this time", metavar="time"),
        ),
        usage="[FLAGS]",
        summary="Show what happens, as it happens.",
        at_most=0,
    )
    now = time.time()
    since, until, template = parsed.value("since"), parsed.value("until"), parsed.value("format")
    query = {
        "since": timestamp(since, now, "--since") if since else None,
        "until": timestamp(until, now, "--until") if until else None,
        "filters": filters(parsed.list("filter")),
    }
    if template:
        from hyper.cli.template import Template

        compiled = Template("{{json .}}" if template == "json" else template)
        for event in session.engine.messages("GET", "/events", query=query):
            print(compiled.render(event), flush=True)
    else:
        for event in session.engine.messages("GET", "/events", query=query):
            print(describe(event), flush=True)
    return 0


def describe(event: dict[str, Any]) -> str:
    """ "2026-11-23T08:32:00.000000000+00:00 container die 4f… (exitCode=0, name=web)"."""
    nanoseconds = int(event.get("timeNano") or int(event.get("time") or 0) * 1_000_000_000)
    moment = time.localtime(nanoseconds // 1_000_000_000)
    zone = time.strftime("%z", moment)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", moment) + f".{nanoseconds % 1_000_000_000:09d}{zone[:3]}:{zone[3:]}"
    actor = event.get("Actor") or {}
    attributes = ", ".join(f"{key}={setting}" for key, setting in sorted((actor.get("Attributes") or {}).items()))
    text += f" {event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    return f"{text} ({attributes})" if attributes else text
