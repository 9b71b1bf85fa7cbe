"""Where a registry's content may be had, in the order to try: mirrors, HTTPS, and plain HTTP where that is allowed.

Docker's rules: loopback and what is configured as insecure may be reached without a valid certificate and, when there
is no TLS at all, over plain HTTP; mirrors are for Docker Hub only. Neighbours: ``settings.py``, ``client.py``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from hyper.images.registry.settings import RegistrySettings
from hyper.oci.distribution import HUB_DOMAIN, HUB_HOST

LOOPBACK = ("::1/128", "127.0.0.0/8")


@dataclass(frozen=True)
class Endpoint:
    """``url`` has no slash at its end. ``host``: with its port, as certs.d names it. ``verify``: certificates must be
    right."""

    url: str
    host: str
    verify: bool
    mirror: bool = False

    @property
    def secure(self) -> bool:
        return self.url.startswith("https://")


async def endpoints(domain: str, settings: RegistrySettings, *, mirrors: bool) -> list[Endpoint]:
    """For the registry that references call ``domain``. ``mirrors``: for reading."""
    found = []
    host = domain
    if domain == HUB_DOMAIN:
        host = HUB_HOST
        if mirrors:
            for url in settings.mirrors:
                parts = urlsplit(url)
                insecure = await _is_insecure(parts.netloc.rpartition("@")[2], settings)
                found.append(Endpoint(url.rstrip("/"), parts.netloc.rpartition("@")[2], not insecure, mirror=True))
    insecure = await _is_insecure(host, settings)
    found.append(Endpoint(f"https://{host}", host, not insecure))
    if insecure:
        found.append(Endpoint(f"http://{host}", host, verify=False))
    return found


async def _is_insecure(host: str, settings: RegistrySettings) -> bool:
    if host == HUB_HOST:
        return False
    name = urlsplit(f"//{host}").hostname or ""
    if host in settings.insecure or name in settings.insecure:
        return True
    networks = [ipaddress.ip_network(text) for text in LOOPBACK]
    for text in settings.insecure:
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            continue  # a name
    return any(address in network for address in await _addresses(name) for network in networks)


async def _addresses(name: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        return [ipaddress.ip_address(name)]
    except ValueError:
        pass
    if name == "localhost":
        return [ipaddress.ip_address("127.0.0.1")]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
