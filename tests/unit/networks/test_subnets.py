from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from hyper.errors import InvalidArgument
from hyper.networks.subnets import mac_of, overlapping, parse_bip, suggest


@pytest.mark.parametrize("text", ["172.29.0.1/16", "10.0.0.1/8", "192.168.4.249/29"])
def test_usable_bips_are_accepted(text: str) -> None:
    assert parse_bip(text) == IPv4Interface(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not an IPv4 address"),
        ("172.29.0.1", "prefix length must be given"),
        ("172.29.0.1/33", "not an IPv4 address"),
        ("172.29.0.1/30", "from /8 to /29"),
        ("10.0.0.1/7", "from /8 to /29"),
        ("172.29.0.0/16", "such as 172.29.0.1/16"),
        ("172.29.255.255/16", "such as 172.29.0.1/16"),
        ("127.0.0.2/8", "cannot use that range"),
        ("224.0.0.1/24", "cannot use that range"),
        ("fd00::1/64", "not an IPv4 address"),
        ("172.29.0.1/16; flush ruleset", "not an IPv4 address"),
    ],
)
def test_unusable_bips_are_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        parse_bip(text)


def test_default_route_overlaps_nothing_but_a_wider_or_narrower_one_does() -> None:
    ours = IPv4Network("172.29.0.0/16")
    assert overlapping(ours, [IPv4Network("0.0.0.0/0"), IPv4Network("172.28.0.0/16")]) is None
    assert overlapping(ours, [IPv4Network("172.16.0.0/12")]) == IPv4Network("172.16.0.0/12")
    assert overlapping(ours, [IPv4Network("172.29.9.0/24")]) == IPv4Network("172.29.9.0/24")


def test_suggestion_is_the_first_free_candidate() -> None:
    assert suggest([]) == IPv4Interface("172.31.0.1/16")
    assert suggest([IPv4Network("172.31.4.0/24")]) == IPv4Interface("172.30.0.1/16")
    assert suggest([IPv4Network("172.16.0.0/12")]) == IPv4Interface("192.168.255.1/24")
    everything = [IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16"), IPv4Network("10.0.0.0/8")]
    assert suggest(everything) is None


def test_mac_follows_from_the_address() -> None:
    assert mac_of(IPv4Address("172.29.0.2")) == "02:42:ac:1d:00:02"
