"""``/networks``: the ones that are always there, read only."""

from __future__ import annotations

from typing import Any

from hyper.api.docker import filters
from hyper.api.docker.call import Call, json_response
from hyper.api.docker.router import Route
from hyper.api.docker.times import rfc3339_nano
from hyper.api.http.messages import Response
from hyper.engine.model import Container, NetworkInfo
from hyper.errors import InvalidArgument, NotFound

_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})


def routes() -> tuple[Route, ...]:
    return (
        Route("GET", "/networks", list_),
        Route("GET", "/networks/{id}", inspect),
    )


async def list_(call: Call) -> Response:
    wanted = filters.parse(call.text("filters"), _FILTERS)
    return json_response([network_json(item, None) for item in call.engine.networks() if _accept(item, wanted)])


def _accept(network: NetworkInfo, wanted: filters.Filters) -> bool:
    if types := wanted.get("type"):
        for value in types:
            if value not in ("builtin", "custom"):
                raise InvalidArgument(f"invalid filter: 'type'='{value}'")
        if "builtin" not in types:
            return False
    if filters.boolean(wanted, "dangling"):
        return False  # built-in networks never are
    return (
        ("driver" not in wanted or network.driver in wanted["driver"])
        and ("scope" not in wanted or "local" in wanted["scope"])
        and ("name" not in wanted or any(value in network.name for value in wanted["name"]))
        and ("id" not in wanted or any(network.id.startswith(value) for value in wanted["id"]))
        and ("label" not in wanted)
    )


async def inspect(call: Call) -> Response:
    reference = call.params["id"]
    networks = call.engine.networks()
    found = [item for item in networks if reference in (item.name, item.id)] or [
        item for item in networks if item.id.startswith(reference)
    ]
    if not found:
        raise NotFound(f"network {reference} not found")
    if len(found) > 1:
        raise InvalidArgument(f"network {reference} is ambiguous ({len(found)} matches found based on ID prefix)")
    return json_response(network_json(found[0], call.engine.containers.list()))


def network_json(network: NetworkInfo, containers: Any) -> dict[str, Any]:
    """``containers`` None: a list's entry, which does not name them."""
    ipam: list[dict[str, str]] = []
    if network.subnet:
        ipam.append({"Subnet": network.subnet, "Gateway": network.gateway})
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339_nano(network.created_ns),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": {}, "Config": ipam},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {} if containers is None else _members(network, containers),
        "Options": network.options,
        "Labels": {},
    }


def _members(network: NetworkInfo, containers: list[Container]) -> dict[str, Any]:
    members = {}
    for container in containers:
        for attached in container.networks:
            if attached.network == network.name and container.state.live:
                address = f"{attached.address}/{attached.prefix_length}" if attached.address else ""
                members[container.id] = {
                    "Name": container.name,
                    "EndpointID": attached.endpoint_id,
                    "MacAddress": attached.mac_address,
                    "IPv4Address": address,
                    "IPv6Address": "",
                }
    return members
