"""Requests that can never be published; holding real ports is tests/integration/test_networks_bridge.py's."""

from __future__ import annotations

import pytest

from hyper.errors import Conflict, HyperError, InvalidArgument, Unsupported
from hyper.networks.ports import HeldPorts, PortRequest, check


@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        (PortRequest(0), InvalidArgument, "1 to 65535"),
        (PortRequest(80, host_port=65536), InvalidArgument, "1 to 65535"),
        (PortRequest(80, host_port=90, host_port_end=80), InvalidArgument, "range"),
        (PortRequest(80, host_port_end=80), InvalidArgument, "range"),
        (PortRequest(80, "sctp"), Unsupported, "sctp"),
        (PortRequest(80, host_ip="localhost"), InvalidArgument, "IPv4 address"),
        (PortRequest(80, host_ip="[::]"), Unsupported, "IPv6"),
        (PortRequest(80, host_ip="::1"), Unsupported, "IPv6"),
        (PortRequest(80, host_ip="1.2.3.4 ; flush"), InvalidArgument, "host address"),
    ],
)
def test_impossible_requests_are_refused(request_: PortRequest, kind: type[HyperError], words: str) -> None:
    with pytest.raises(kind, match=words):
        check(request_)


def test_open_port_is_chosen_and_then_ours_alone() -> None:
    ports = HeldPorts()
    try:
        held = ports.hold(PortRequest(80, host_ip="127.0.0.1"))
        assert held.binding.host_port > 0
        with pytest.raises(
            Conflict, match=f"^Bind for 127.0.0.1:{held.binding.host_port} failed: port is already allocated$"
        ):
            ports.hold(PortRequest(80, host_ip="127.0.0.1", host_port=held.binding.host_port))
        with pytest.raises(Conflict, match="already allocated"):
            ports.hold(PortRequest(80, host_port=held.binding.host_port))
        ports.hold(PortRequest(80, "udp", host_ip="127.0.0.1", host_port=held.binding.host_port))
        ports.release(held)
        ports.release(held)
        ports.hold(PortRequest(80, host_ip="127.0.0.1", host_port=held.binding.host_port))
    finally:
        ports.close()


def test_range_gives_the_first_free_port() -> None:
    ports = HeldPorts()
    try:
        first = ports.hold(PortRequest(80, host_ip="127.0.0.1")).binding.host_port
        request = PortRequest(80, host_ip="127.0.0.1", host_port=first, host_port_end=min(first + 50, 65535))
        assert first < ports.hold(request).binding.host_port <= first + 50
    finally:
        ports.close()


def test_address_that_is_not_the_hosts_is_refused_in_dockers_words() -> None:
    with pytest.raises(
        InvalidArgument, match=r"listen tcp4 203\.0\.113\.9:8080: bind: cannot assign requested address"
    ):
        HeldPorts().hold(PortRequest(80, host_ip="203.0.113.9", host_port=8080))
