"""``/volumes``: named volumes; and ``/plugins`` as far as clients ask by themselves: there are none, and that is what
the lists say."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from hyper.api.docker import filters
from hyper.api.docker.call import NO_CONTENT, Call, json_response
from hyper.api.docker.router import Route
from hyper.api.docker.times import rfc3339_nano
from hyper.api.http.messages import Response
from hyper.engine.model import VolumeInfo
from hyper.errors import InvalidArgument, NotFound, Unsupported

_VOLUME_FILTERS = frozenset({"dangling", "driver", "label", "name"})
_PRUNE_FILTERS = frozenset({"all", "label", "label!"})
_PLUGIN_FILTERS = frozenset({"capability", "enabled"})
_NS = 1_000_000_000
ANONYMOUS_LABEL = "com.docker.volume.anonymous"


class CreateVolume(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """The body of ``POST /volumes/create``."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] = {}
    labels: dict[str, str] = {}
    cluster_volume_spec: dict[str, Any] | None = None


def routes() -> tuple[Route, ...]:
    return (
        Route("GET", "/volumes", list_volumes),
        Route("POST", "/volumes/create", create_volume),
        Route("POST", "/volumes/prune", prune_volumes),
        Route("GET", "/volumes/{name}", inspect_volume),
        Route("DELETE", "/volumes/{name}", remove_volume),
        Route("GET", "/plugins", list_plugins),
        Route("GET", "/plugins/{name:path}/json", inspect_plugin),
    )


def volume_json(volume: VolumeInfo) -> dict[str, Any]:
    return {
        "CreatedAt": rfc3339_nano(volume.created_ns // _NS * _NS),
        "Driver": volume.driver,
        "Labels": volume.labels,
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": volume.options,
        "Scope": "local",
    }


async def list_volumes(call: Call) -> Response:
    wanted = filters.parse(call.text("filters"), _VOLUME_FILTERS)
    dangling = filters.boolean(wanted, "dangling")
    chosen = [
        volume
        for volume in call.engine.volumes.list()
        if ("name" not in wanted or any(_name_matches(value, volume.name) for value in wanted["name"]))
        and ("driver" not in wanted or volume.driver in wanted["driver"])
        and ("label" not in wanted or filters.labels_match(wanted["label"], volume.labels))
        and (dangling is None or dangling is not bool(call.engine.volumes.users(volume.name)))
    ]
    return json_response({"Volumes": [volume_json(volume) for volume in chosen], "Warnings": []})


def _name_matches(pattern: str, name: str) -> bool:
    """A part of the name, which may be anchored; Docker takes any regular expression."""
    anchored = re.fullmatch(r"(\^?)(.*?)(\$?)", pattern, re.DOTALL)
    assert anchored is not None
    start, text, end = anchored.groups()
    if start and end:
        return name == text
    return name.startswith(text) if start else name.endswith(text) if end else text in name


async def create_volume(call: Call) -> Response:
    body = await call.json(CreateVolume)
    if body.cluster_volume_spec is not None:
        raise Unsupported("ClusterVolumeSpec cannot be honoured: cluster volumes belong to swarm mode")
    volume = call.engine.volumes.create(body.name, driver=body.driver, labels=body.labels, options=body.driver_opts)
    return json_response(volume_json(volume), 201)


async def inspect_volume(call: Call) -> Response:
    return json_response(volume_json(call.engine.volumes.get(call.params["name"])))


async def remove_volume(call: Call) -> Response:
    await call.engine.volumes.remove(call.params["name"], force=call.flag("force"))
    return NO_CONTENT


async def prune_volumes(call: Call) -> Response:
    """From API 1.42 on only anonymous ones, unless ``all`` is asked for; before, all."""
    wanted = filters.parse(call.text("filters"), _PRUNE_FILTERS)
    if not call.at_least(1, 42) and "all" in wanted:
        raise InvalidArgument("invalid filter 'all'")
    everything = filters.boolean(wanted, "all") or not call.at_least(1, 42)

    def accept(volume: VolumeInfo) -> bool:
        return (
            (everything or ANONYMOUS_LABEL in volume.labels)
            and ("label" not in wanted or filters.labels_match(wanted["label"], volume.labels))
            and not any(filters.labels_match((value,), volume.labels) for value in wanted.get("label!", ()))
        )

    names, freed_bytes = await call.engine.volumes.prune(accept)
    return json_response({"VolumesDeleted": list(names), "SpaceReclaimed": freed_bytes})


async def list_plugins(call: Call) -> Response:
    filters.parse(call.text("filters"), _PLUGIN_FILTERS)
    return json_response([])


async def inspect_plugin(call: Call) -> Response:
    raise NotFound(f'plugin "{call.params["name"]}" not found')
