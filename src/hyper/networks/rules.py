"""The network's nftables rules as text: address translation, isolation, and who may send as whom. Pure.

Two tables per hyperd, named after its root, so that several daemons and other users of nftables do not meet:

``ip hyper_<root>``      masquerade for what leaves; published ports as maps (one element a port); nothing enters the
                         bridge that was neither published nor asked for
``bridge hyper_<root>``  a tap may send only with the MAC and the IPv4 address it was given, and only IPv4 and ARP

Setting up again keeps the maps and sets, so a restarted daemon interrupts no connection.

Neighbours: ``bridge.py`` runs these by ``hyper.system.nftables``; docs/networking.md explains each rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from hyper.networks.addresses import Endpoint
from hyper.networks.ports import PortBinding

_ROOT_ID = re.compile(r"[0-9a-z]{6,32}")
_BRIDGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")


@dataclass(frozen=True)
class RuleSet:
    """Writes the scripts for one bridge."""

    root_id: str
    bridge: str
    subnet: IPv4Network

    def __post_init__(self) -> None:
        # These two get into scripts as text; nothing else that comes from outside does.
        if not _ROOT_ID.fullmatch(self.root_id):
            raise ValueError(f"root id {self.root_id!r} is not 6 to 32 digits and small letters")
        if not _BRIDGE_NAME.fullmatch(self.bridge):
            raise ValueError(f"bridge name {self.bridge!r} is not 1 to 15 letters, digits, '_', '.' and '-'")

    @property
    def table(self) -> str:
        return f"hyper_{self.root_id}"

    @property
    def tap_prefix(self) -> str:
        return f"h{self.root_id[:6]}-"

    @property
    def spare_prefix(self) -> str:
        """Of taps that are in no network yet."""
        return f"h{self.root_id[:6]}s"

    def tap_name(self, address: IPv4Address) -> str:
        """Unique as long as the address is; the lower 24 bits fit into the 15 bytes that a name may have."""
        return f"{self.tap_prefix}{int(address) & 0xFFFFFF:x}"

    def set_up(self) -> str:
        """Tables, maps, chains and rules; run again, it renews the rules and leaves the elements."""
        table, bridge, subnet = self.table, self.bridge, self.subnet
        maps = "".join(
            f"add map ip {table} {protocol}_any {{ type inet_service : ipv4_addr . inet_service ; }}\n"
            f"add map ip {table} {protocol}_at {{ type ipv4_addr . inet_service : ipv4_addr . inet_service ; }}\n"
            for protocol in ("tcp", "udp")
        )
        publish = "".join(
            f"add rule ip {table} publish dnat to ip daddr . {protocol} dport map @{protocol}_at\n"
            f"add rule ip {table} publish dnat to {protocol} dport map @{protocol}_any\n"
            for protocol in ("tcp", "udp")
        )
        return f"""
add table ip {table}
{maps}
add chain ip {table} publish
add chain ip {table} guard {{ type filter hook prerouting priority -300 ; policy accept ; }}
add chain ip {table} inbound {{ type nat hook prerouting priority -100 ; policy accept ; }}
add chain ip {table} local {{ type nat hook output priority -100 ; policy accept ; }}
add chain ip {table} forward {{ type filter hook forward priority 0 ; policy accept ; }}
add chain ip {table} outbound {{ type nat hook postrouting priority 100 ; policy accept ; }}
flush table ip {table}
add rule ip {table} guard iifname "{bridge}" ip daddr 127.0.0.0/8 drop
add rule ip {table} guard iifname "{bridge}" ip saddr != {subnet} drop
{publish}
add rule ip {table} inbound fib daddr type local jump publish
add rule ip {table} local fib daddr type local jump publish
add rule ip {table} forward iifname "{bridge}" oifname "{bridge}" accept
add rule ip {table} forward oifname "{bridge}" ct state established,related accept
add rule ip {table} forward oifname "{bridge}" ct status dnat accept
add rule ip {table} forward oifname "{bridge}" drop
add rule ip {table} outbound ip saddr {subnet} oifname != "{bridge}" masquerade
add rule ip {table} outbound oifname "{bridge}" ip saddr 127.0.0.0/8 masquerade
add rule ip {table} outbound oifname "{bridge}" ip saddr {subnet} ct status dnat masquerade
add table bridge {table}
add set bridge {table} cards {{ type ifname . ether_addr . ipv4_addr ; }}
add chain bridge {table} ingress {{ type filter hook prerouting priority -300 ; policy accept ; }}
flush table bridge {table}
add rule bridge {table} ingress iifname != "{self.tap_prefix}*" accept
add rule bridge {table} ingress ether type ip iifname . ether saddr . ip saddr @cards accept
add rule bridge {table} ingress ether type arp iifname . arp saddr ether . arp saddr ip @cards accept
add rule bridge {table} ingress drop
"""

    def tear_down(self) -> str:
        """Both tables gone, whether they were there or not."""
        return "".join(
            f"add table {family} {self.table}\ndelete table {family} {self.table}\n" for family in ("ip", "bridge")
        )

    def admit(self, endpoints: Iterable[Endpoint]) -> str:
        """The taps of these endpoints may send."""
        return "".join(
            f"add element bridge {self.table} cards {{ {self._card(endpoint)} }}\n" for endpoint in endpoints
        )

    def expel(self, endpoints: Iterable[Endpoint]) -> str:
        """No longer. (Added first, because deleting what is not there would fail the whole script.)"""
        return "".join(
            f"{verb} element bridge {self.table} cards {{ {self._card(endpoint)} }}\n"
            for endpoint in endpoints
            for verb in ("add", "delete")
        )

    def publish(self, address: IPv4Address, bindings: Iterable[PortBinding]) -> str:
        return "".join(
            f"add element ip {self.table} {name} {{ {key} : {address} . {binding.container_port} }}\n"
            for binding in bindings
            for name, key in [_map_key(binding)]
        )

    def unpublish(self, address: IPv4Address, bindings: Iterable[PortBinding]) -> str:
        return "".join(
            f"delete element ip {self.table} {name} {{ {key} : {address} . {binding.container_port} }}\n"
            for binding in bindings
            for name, key in [_map_key(binding)]
        )

    def clear_elements(self) -> str:
        """Empty all maps and sets; in one script with the elements that are to be there, nobody notices."""
        names = ("tcp_any", "tcp_at", "udp_any", "udp_at")
        return (
            "".join(f"flush map ip {self.table} {name}\n" for name in names) + f"flush set bridge {self.table} cards\n"
        )

    def _card(self, endpoint: Endpoint) -> str:
        return f'"{self.tap_name(endpoint.address)}" . {endpoint.mac} . {endpoint.address}'


def _map_key(binding: PortBinding) -> tuple[str, str]:
    if binding.host_ip == "0.0.0.0":
        return f"{binding.protocol}_any", str(binding.host_port)
    return f"{binding.protocol}_at", f"{binding.host_ip} . {binding.host_port}"
