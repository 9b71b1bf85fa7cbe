"""``/volumes`` and ``/plugins`` as far as clients ask by themselves: there are none yet, and that is what the lists
say."""

from __future__ import annotations

from hyper.api.docker import filters
from hyper.api.docker.call import Call, json_response
from hyper.api.docker.router import Route
from hyper.api.http.messages import Response
from hyper.errors import NotFound

_VOLUME_FILTERS = frozenset({"dangling", "driver", "label", "name"})
_PLUGIN_FILTERS = frozenset({"capability", "enabled"})


def routes() -> tuple[Route, ...]:
    return (
        Route("GET", "/volumes", list_volumes),
        Route("GET", "/volumes/{name}", inspect_volume),
        Route("GET", "/plugins", list_plugins),
        Route("GET", "/plugins/{name:path}/json", inspect_plugin),
    )


async def list_volumes(call: Call) -> Response:
    filters.parse(call.text("filters"), _VOLUME_FILTERS)
    return json_response({"Volumes": [], "Warnings": []})


async def inspect_volume(call: Call) -> Response:
    raise NotFound(f"get {call.params['name']}: no such volume")


async def list_plugins(call: Call) -> Response:
    filters.parse(call.text("filters"), _PLUGIN_FILTERS)
    return json_response([])


async def inspect_plugin(call: Call) -> Response:
    raise NotFound(f'plugin "{call.params["name"]}" not found')
