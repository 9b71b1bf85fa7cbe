"""The networks that are always there, as the doors show them. Networks of users' own come with their issue."""

from __future__ import annotations

import hashlib

from hyper.engine.model import NetworkInfo
from hyper.networks.bridge import BridgeNetwork


def builtin_networks(root_id: str, network: BridgeNetwork | None) -> tuple[NetworkInfo, ...]:
    """IDs are made of the root's: the same after a restart, and different for two daemons on one host."""
    none = NetworkInfo(name="none", id=_id(root_id, "none"), driver="null")
    if network is None:
        return (none,)
    bridge = NetworkInfo(
        name="bridge",
        id=_id(root_id, "bridge"),
        driver="bridge",
        subnet=str(network.bip.network),
        gateway=str(network.bip.ip),
        options={
            "com.docker.network.bridge.default_bridge": "true",
            "com.docker.network.bridge.name": network.settings.name,
            "com.docker.network.driver.mtu": str(network.settings.mtu),
        },
    )
    return (bridge, none)


def _id(root_id: str, name: str) -> str:
    return hashlib.sha256(f"hyper network {root_id} {name}".encode()).hexdigest()
