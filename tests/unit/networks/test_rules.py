from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from hyper.networks.addresses import Endpoint
from hyper.networks.ports import PortBinding
from hyper.networks.rules import RuleSet

RULES = RuleSet("abc123def456", "hyper0", IPv4Network("172.29.0.0/16"))


@pytest.mark.parametrize("root_id", ["", "short", "UPPER123", "abc123 ; flush ruleset", "a" * 33])
def test_root_ids_that_could_break_a_script_are_refused(root_id: str) -> None:
    with pytest.raises(ValueError, match="root id"):
        RuleSet(root_id, "hyper0", IPv4Network("172.29.0.0/16"))


@pytest.mark.parametrize("bridge", ["", "a" * 16, 'x" drop', "-x", "a/b"])
def test_bridge_names_that_could_break_a_script_are_refused(bridge: str) -> None:
    with pytest.raises(ValueError, match="bridge name"):
        RuleSet("abc123def456", bridge, IPv4Network("172.29.0.0/16"))


@pytest.mark.parametrize("address", ["172.29.0.2", "10.255.255.254", "192.168.255.14"])
def test_tap_names_fit_an_interface_name(address: str) -> None:
    assert len(RULES.tap_name(IPv4Address(address))) <= 15


def test_wildcard_and_single_addresses_go_to_their_own_maps() -> None:
    bindings = [PortBinding(80, "tcp", "0.0.0.0", 8080), PortBinding(53, "udp", "127.0.0.1", 5353)]
    assert RULES.publish(IPv4Address("172.29.0.2"), bindings) == (
        "add element ip hyper_abc123def456 tcp_any { 8080 : 172.29.0.2 . 80 }\n"
        "add element ip hyper_abc123def456 udp_at { 127.0.0.1 . 5353 : 172.29.0.2 . 53 }\n"
    )


def test_card_is_bound_to_its_tap_mac_and_address() -> None:
    endpoint = Endpoint("c1", "02:42:ac:1d:00:02", IPv4Address("172.29.0.2"), 16, IPv4Address("172.29.0.1"))
    assert RULES.admit([endpoint]) == (
        'add element bridge hyper_abc123def456 cards { "habc123-1d0002" . 02:42:ac:1d:00:02 . 172.29.0.2 }\n'
    )
