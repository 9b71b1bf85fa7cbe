"""Subnets: reading ``--bip``, finding overlaps with what the host already reaches, proposing a free one. Pure.

Neighbours: ``bridge.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network, NetmaskValueError

from hyper.errors import InvalidArgument

SHORTEST_PREFIX, LONGEST_PREFIX = 8, 29
"""A /29 has five containers; taps are named after the address's lower 24 bits, hence /8."""


def parse_bip(text: str) -> IPv4Interface:
    """The bridge's own address with its prefix length, as in ``172.29.0.1/16``."""
    try:
        bip = IPv4Interface(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise InvalidArgument(
            f"--bip {text!r} is not an IPv4 address with a prefix length such as 172.29.0.1/16"
        ) from error
    network = bip.network
    if "/" not in text or not SHORTEST_PREFIX <= network.prefixlen <= LONGEST_PREFIX:
        raise InvalidArgument(
            f"--bip {text!r}: the prefix length must be given, from /{SHORTEST_PREFIX} to /{LONGEST_PREFIX}"
        )
    if bip.ip in (network.network_address, network.broadcast_address):
        raise InvalidArgument(
            f"--bip {text!r} is the subnet's own or its broadcast address; the bridge needs one in between, "
            f"such as {network.network_address + 1}/{network.prefixlen}"
        )
    if (
        network.is_loopback
        or network.is_multicast
        or network.is_link_local
        or network.network_address == IPv4Address(0)
    ):
        raise InvalidArgument(
            f"--bip {text!r}: containers cannot use that range; take a private one, such as 172.29.0.1/16"
        )
    return bip


def overlapping(network: IPv4Network, routes: Iterable[IPv4Network]) -> IPv4Network | None:
    """The first route that shares addresses with ``network``. The default route does not count."""
    return next((route for route in routes if route.prefixlen > 0 and route.overlaps(network)), None)


def suggest(routes: Iterable[IPv4Network]) -> IPv4Interface | None:
    """A bip that overlaps no route: a /16 of 172.16.0.0/12 from the top, else a /24 of 192.168.0.0/16 or 10.0.0.0/8."""
    taken = list(routes)
    for network in _candidates():
        if overlapping(network, taken) is None:
            return IPv4Interface((network.network_address + 1, network.prefixlen))
    return None


def mac_of(address: IPv4Address) -> str:
    """02:42 and the four bytes of the address, as Docker does: unique where addresses are, and the same after reuse, so
    that no neighbour cache is ever stale."""
    return "02:42:" + address.packed.hex(":")


def _candidates() -> Iterator[IPv4Network]:
    for second in range(31, 15, -1):
        yield IPv4Network(f"172.{second}.0.0/16")
    for third in range(255, -1, -1):
        yield IPv4Network(f"192.168.{third}.0/24")
    for second in range(255, -1, -1):
        yield IPv4Network(f"10.{second}.0.0/24")
