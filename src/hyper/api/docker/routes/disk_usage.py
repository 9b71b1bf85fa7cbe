"""``/system/df``: what images, containers and volumes take."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from hyper.api.docker import image_json, listing
from hyper.api.docker.call import Call, json_response
from hyper.api.docker.router import Route
from hyper.api.docker.routes.containers import named_image, sizes
from hyper.api.docker.routes.volumes import volume_json
from hyper.api.http.messages import Response
from hyper.errors import InvalidArgument

_TYPES = ("container", "image", "volume", "build-cache")


def routes() -> tuple[Route, ...]:
    return (Route("GET", "/system/df", disk_usage),)


async def disk_usage(call: Call) -> Response:
    wanted = call.texts("type") if call.at_least(1, 42) else []
    if unknown := [name for name in wanted if name not in _TYPES]:
        raise InvalidArgument(f"unknown object type: {unknown[0]}")
    chosen = wanted or list(_TYPES)
    document: dict[str, Any] = {}
    if "image" in chosen:
        document |= {"LayersSize": call.engine.images.layers_bytes(), "Images": _images(call)}
    if "container" in chosen:
        document["Containers"] = _containers(call)
    if "volume" in chosen:
        document["Volumes"] = [await _volume(call, volume.name) for volume in call.engine.volumes.list()]
    if "build-cache" in chosen:
        document |= {"BuildCache": []} | ({} if call.at_least(1, 49) else {"BuilderSize": 0})
    return json_response(document)


def _images(call: Call) -> list[dict[str, Any]]:
    """A layer that several images have is shared: it is in the size of each."""
    images = call.engine.images.list()
    users = Counter(container.image_id for container in call.engine.containers.list())
    holders = Counter(diff_id for image in images for diff_id in {layer.diff_id for layer in image.layers})
    entries = []
    for image in images:
        shared = sum(layer.size_bytes for layer in image.layers if holders[layer.diff_id] > 1)
        entries.append(image_json.summary_json(image, call.version, users[image.id]) | {"SharedSize": shared})
    return entries


def _containers(call: Call) -> list[dict[str, Any]]:
    now_ns = time.time_ns()
    return [
        listing.summary_json(container, named_image(call, container), now_ns) | sizes(call, container.id)
        for container in call.engine.containers.list()
    ]


async def _volume(call: Call, name: str) -> dict[str, Any]:
    volumes = call.engine.volumes
    usage = {"Size": await volumes.used_bytes(name), "RefCount": len(volumes.users(name))}
    return volume_json(volumes.get(name)) | {"UsageData": usage}
