"""Raw rtnetlink, libnftables and taps against the real kernel, in a namespace of the test's own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest
from tests.netns import NetworkNamespace

from hyper.errors import FailedPrecondition
from hyper.system.netlink import Netlink, Route
from hyper.system.netlink_conntrack import Conntrack
from hyper.system.netlink_taps import open_tap
from hyper.system.nftables import Nftables


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as made, made.entered():
        yield made


def test_bridge_is_what_was_asked_for(namespace: NetworkNamespace) -> None:
    with Netlink() as netlink:
        netlink.add_bridge("br0", mac="02:42:ac:1d:00:01", mtu=1400)
        netlink.set_link("br0", up=True, alias="of a test")
        bridge = netlink.link("br0")
        assert bridge is not None
        assert (bridge.kind, bridge.mac, bridge.mtu, bridge.up) == ("bridge", "02:42:ac:1d:00:01", 1400, True)
        assert bridge.alias == "of a test"
        assert [link.name for link in netlink.links()] == ["lo", "br0"]
        netlink.add_address(bridge.index, IPv4Interface("172.29.0.1/16"))
        assert netlink.addresses(bridge.index) == [IPv4Interface("172.29.0.1/16")]
        assert netlink.routes() == [Route(IPv4Network("172.29.0.0/16"), bridge.index)]
        netlink.delete_address(bridge.index, IPv4Interface("172.29.0.1/16"))
        assert netlink.addresses(bridge.index) == []
        assert netlink.delete_link("br0") is True
        assert netlink.delete_link("br0") is False
        assert netlink.link("br0") is None


def test_errors_of_the_kernel_come_as_oserror(namespace: NetworkNamespace) -> None:
    with Netlink() as netlink:
        netlink.add_bridge("br0", mac="02:42:ac:1d:00:01", mtu=1500)
        with pytest.raises(FileExistsError):
            netlink.add_bridge("br0", mac="02:42:ac:1d:00:01", mtu=1500)
        with pytest.raises(OSError, match="No such device"):
            netlink.set_link("none", up=True)
        with pytest.raises(OSError, match="mtu greater than device maximum"):
            netlink.set_link("br0", mtu=100_000)
        with pytest.raises(ValueError, match="1 to 15 bytes"):
            netlink.link("a-name-of-16-byte")


def test_more_links_than_one_answer_holds_are_all_listed(namespace: NetworkNamespace) -> None:
    with Netlink() as netlink:
        for number in range(120):
            netlink.add_bridge(f"b{number}", mac="02:42:ac:1d:00:01", mtu=1500)
        assert len(netlink.links()) == 121


def test_tap_name_in_use_is_told(namespace: NetworkNamespace) -> None:
    descriptor = open_tap("tap7")
    with pytest.raises(FileExistsError):
        open_tap("tap7")
    os.close(descriptor)
    os.close(open_tap("tap7"))


def test_machine_without_tun_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"is missing.*modprobe tun.*--network none"):
        open_tap("tap7", device=str(tmp_path / "tun"))


def test_unprivileged_process_is_told_what_to_do(namespace: NetworkNamespace) -> None:
    def attempt() -> None:
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        open_tap("tap7", device=f"/proc/self/fd/{descriptor}")

    with pytest.raises(FailedPrecondition, match="--network none"):
        namespace.python(attempt)


def test_script_is_applied_as_a_whole_or_not_at_all(namespace: NetworkNamespace) -> None:
    nftables = Nftables()
    with pytest.raises(OSError, match="nftables refused"):
        nftables.run("add table ip one\nadd rule ip none chain accept\n")
    assert nftables.list_json("list tables") == []
    nftables.run("add table ip one\n")
    assert [entry["table"]["name"] for entry in nftables.list_json("list tables")] == ["one"]
    nftables.close()
    nftables.close()


def test_missing_library_is_told_with_the_package() -> None:
    with pytest.raises(FailedPrecondition, match="libnftables1"):
        Nftables(library="libnothing-of-the-kind.so.1")


def test_only_the_connections_named_are_forgotten(namespace: NetworkNamespace) -> None:
    nftables = Nftables()
    nftables.run(
        "add table ip t\nadd chain ip t c { type filter hook output priority 0 ; }\n"
        "add rule ip t c ct state new accept\n"
    )
    nftables.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for address, port in (("127.0.0.2", 9), ("127.0.0.2", 10), ("127.0.0.3", 9), ("127.0.0.3", 10)):
            client.sendto(b"", (address, port))
    conntrack = Conntrack()
    assert conntrack.forget_server(IPv4Address("127.0.0.2")) == 2
    assert conntrack.forget_server(IPv4Address("127.0.0.2")) == 0
    assert conntrack.forget_udp_port(9, server=IPv4Address("127.0.0.3")) == 0
    assert conntrack.forget_udp_port(9, server=IPv4Address("127.0.0.4")) == 1
    assert conntrack.forget_server(IPv4Address("127.0.0.3")) == 1
    conntrack.close()
