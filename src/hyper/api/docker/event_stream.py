"""Events as ``GET /events`` shows and filters them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import msgspec

from hyper.api.docker import filters as filter_parsing
from hyper.api.docker.filters import Filters
from hyper.engine.model import Event

ACCEPTED = frozenset(
    {
        "config",
        "container",
        "daemon",
        "event",
        "image",
        "label",
        "network",
        "node",
        "plugin",
        "scope",
        "secret",
        "service",
        "type",
        "volume",
    }
)

_BY_ACTOR = ("config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume")


def predicate(filters: Filters) -> Callable[[Event], bool]:
    """Different filters must all match; of one filter's values any (of labels: all)."""

    def accept(event: Event) -> bool:
        if (types := filters.get("type")) and event.type not in types:
            return False
        if (actions := filters.get("event")) and not (
            event.action in actions or event.action.partition(":")[0] in actions
        ):
            return False
        if (labels := filters.get("label")) and not filter_parsing.labels_match(labels, event.attributes):
            return False
        if (scopes := filters.get("scope")) and "local" not in scopes:
            return False
        if (images := filters.get("image")) and not _about_image(event, images):
            return False
        for kind in _BY_ACTOR:
            if (wanted := filters.get(kind)) and not (
                event.type == kind
                and any(
                    event.actor_id.startswith(value) or event.attributes.get("name") == value.removeprefix("/")
                    for value in wanted
                )
            ):
                return False
        return True

    return accept


def _about_image(event: Event, images: tuple[str, ...]) -> bool:
    if event.type == "image":
        candidates = {event.actor_id, event.attributes.get("name", "")}
    elif event.type == "container":
        candidates = {event.attributes.get("image", "")}
    else:
        return False
    candidates |= {name.rpartition(":")[0] for name in candidates if ":" in name.rpartition("/")[2]}
    return bool(candidates & set(images))


def event_json(event: Event) -> dict[str, Any]:
    """Lower-case members beside the new ones are from before 1.22; clients still read them."""
    result: dict[str, Any] = {}
    if event.type in ("container", "image"):
        result["status"] = event.action
        result["id"] = event.actor_id
        if event.type == "container" and (image := event.attributes.get("image")):
            result["from"] = image
    result |= {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.actor_id, "Attributes": event.attributes},
        "scope": "local",
        "time": event.time_ns // 1_000_000_000,
        "timeNano": event.time_ns,
    }
    return result


async def encode(events: AsyncIterator[Event]) -> AsyncGenerator[bytes, None]:
    """One JSON object a line."""
    try:
        async for event in events:
            yield msgspec.json.encode(event_json(event)) + b"\n"
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()
