"""Which proxy a request goes through: HTTP_PROXY, HTTPS_PROXY and NO_PROXY as Go's programs read them.

Not urllib's reading, which knows no subnets in NO_PROXY and sends loopback to the proxy. Neighbour: ``transport.py``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit


class Proxies:
    """The proxies of one environment. Lower-case names count when the upper-case ones are not there."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        def setting(name: str) -> str:
            return environment.get(name) or environment.get(name.lower()) or ""

        self.http = setting("HTTP_PROXY")
        self.https = setting("HTTPS_PROXY")
        self.none = setting("NO_PROXY")

    def for_url(self, scheme: str, host: str, port: int) -> str | None:
        """The proxy's URL, or None to connect directly. Loopback is never asked of a proxy."""
        proxy = self.https if scheme == "https" else self.http
        if not proxy or self._excluded(host.strip("[]").lower(), port):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"

    def _excluded(self, host: str, port: int) -> bool:
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        return any(_matches(entry, host, address, port) for entry in self.none.lower().replace(",", " ").split())


def shown(proxy: str) -> str:
    """A proxy's URL without its password, for ``docker info``."""
    parts = urlsplit(proxy)
    if "@" not in parts.netloc:
        return proxy
    return urlunsplit(parts._replace(netloc="xxxxx:xxxxx@" + parts.netloc.rpartition("@")[2]))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _matches(entry: str, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, port: int) -> bool:
    if entry == "*":
        return True
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        pass
    else:
        return address is not None and address in network
    name, colon, wanted_port = entry.rpartition(":")
    if colon and wanted_port.isdigit():
        if int(wanted_port) != port:
            return False
        entry = name.strip("[]")
    if _address(entry) is not None:
        return address == _address(entry)
    # ".example.com" is for what is below only, "example.com" for itself too.
    bare = entry.removeprefix("*")
    return host.endswith(bare) if bare.startswith(".") else host == bare or host.endswith(f".{bare}")
