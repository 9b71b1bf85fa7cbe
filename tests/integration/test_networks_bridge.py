"""The default network among real hosts: network namespaces for the host, a host outside, and containers.

A "container" is a namespace whose veth end stands in the bridge where a tap would, with the tap's name, so that every
rule sees it as it would see a VM's card.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from tests.netns import HOST_ADDRESS, OUTSIDE_ADDRESS, NetworkNamespace, connect_by_veth, host_and_outside

from hyper.errors import Conflict, FailedPrecondition
from hyper.networks.addresses import Endpoint
from hyper.networks.bridge import BridgeNetwork, BridgeSettings
from hyper.networks.ports import PortBinding, PortRequest
from hyper.system.database import Database

ROOT_ID = "abc123def456"
TABLE = f"hyper_{ROOT_ID}"
SETTINGS = BridgeSettings()
UNREACHABLE = (ConnectionRefusedError, TimeoutError, OSError)


@pytest.fixture
def hosts() -> Iterator[tuple[NetworkNamespace, NetworkNamespace]]:
    with host_and_outside() as pair:
        yield pair


@pytest.fixture
def host(hosts: tuple[NetworkNamespace, NetworkNamespace]) -> NetworkNamespace:
    return hosts[0]


@pytest.fixture
def outside(hosts: tuple[NetworkNamespace, NetworkNamespace]) -> NetworkNamespace:
    return hosts[1]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "state.db")
    yield opened
    opened.close()


@pytest.fixture
async def network(host: NetworkNamespace, database: Database) -> AsyncIterator[BridgeNetwork]:
    with host.entered():
        opened = await BridgeNetwork.open(database, SETTINGS, ROOT_ID)
    yield opened
    await opened.close()


@pytest.fixture
def containers(host: NetworkNamespace) -> Iterator[Containers]:
    with Containers(host) as made:
        yield made


class Containers(contextlib.ExitStack):
    def __init__(self, host: NetworkNamespace) -> None:
        super().__init__()
        self._host = host

    def start(self, endpoint: Endpoint, bridge: str = SETTINGS.name, root_id: str = ROOT_ID) -> NetworkNamespace:
        inside = self.enter_context(NetworkNamespace("c"))
        tap = f"h{root_id[:6]}-{int(endpoint.address) & 0xFFFFFF:x}"
        connect_by_veth(self._host, tap, inside, "eth0")
        self._host.ip("link", "set", tap, "master", bridge)
        self._host.ip("link", "set", tap, "type", "bridge_slave", "hairpin", "on")
        inside.ip("link", "set", "eth0", "address", endpoint.mac)
        inside.ip("address", "add", f"{endpoint.address}/{endpoint.prefix_length}", "dev", "eth0")
        inside.ip("route", "add", "default", "via", str(endpoint.gateway))
        return inside


def reaches(client: NetworkNamespace, address: str, port: int, server: socket.socket, *, timeout_s: float = 5) -> str:
    """The client's address as the server sees it; a byte goes each way."""
    with client.connect(address, port, timeout_s=timeout_s) as near:
        far, (peer, _) = server.accept()
        with far:
            far.settimeout(5)
            near.sendall(b"?")
            assert far.recv(1) == b"?"
            far.sendall(b"!")
            assert near.recv(1) == b"!"
    return str(peer)


def joined_tap(network: BridgeNetwork, endpoint: Endpoint) -> int:
    """A tap in the bridge, as an open descriptor."""
    name, descriptor = network.spare_tap()
    network.connect(endpoint, name)
    return descriptor


async def admitted(network: BridgeNetwork, owner_id: str) -> Endpoint:
    """An endpoint whose card may send. The tap itself is closed at once, so that a veth can take its name."""
    endpoint = network.allocate(owner_id)
    os.close(joined_tap(network, endpoint))
    return endpoint


def arp_reply(mac: str, address: str, to: Endpoint) -> bytes:
    """A frame that says: this address is at this MAC."""
    sender, receiver = bytes.fromhex(mac.replace(":", "")), bytes.fromhex(to.mac.replace(":", ""))
    head = receiver + sender + b"\x08\x06" + b"\0\1\x08\0\6\4\0\2"
    return head + sender + IPv4Address(address).packed + receiver + to.address.packed


# -- out of the container


async def test_container_reaches_other_hosts_with_the_hosts_address(
    host: NetworkNamespace, outside: NetworkNamespace, network: BridgeNetwork, containers: Containers
) -> None:
    with host.entered():
        endpoint = await admitted(network, "c1")
    container = containers.start(endpoint)
    with outside.listen(OUTSIDE_ADDRESS, 7000) as server:
        assert reaches(container, OUTSIDE_ADDRESS, 7000, server) == HOST_ADDRESS


async def test_containers_reach_each_other_directly(
    host: NetworkNamespace, network: BridgeNetwork, containers: Containers
) -> None:
    with host.entered():
        first, second = await admitted(network, "c1"), await admitted(network, "c2")
    client, peer = containers.start(first), containers.start(second)
    with peer.listen("0.0.0.0", 80) as server:
        assert reaches(client, str(second.address), 80, server) == str(first.address)


async def test_container_cannot_send_with_anothers_address(
    host: NetworkNamespace, network: BridgeNetwork, containers: Containers
) -> None:
    with host.entered():
        first, second = await admitted(network, "c1"), await admitted(network, "c2")
    liar, peer = containers.start(first), containers.start(second)
    liar.ip("address", "add", "172.29.77.77/16", "dev", "eth0")
    with peer.open_socket(socket.SOCK_DGRAM) as server, liar.open_socket(socket.SOCK_DGRAM) as client:
        server.bind(("0.0.0.0", 9))
        client.bind(("172.29.77.77", 9))
        # Found without ARP, which the rules would stop already.
        liar.ip("neighbour", "replace", str(second.address), "lladdr", second.mac, "dev", "eth0")
        client.sendto(b"lie", (str(second.address), 9))
        with liar.open_socket(socket.SOCK_DGRAM) as honest:
            honest.bind((str(first.address), 9))
            honest.sendto(b"truth", (str(second.address), 9))
        assert server.recvfrom(10) == (b"truth", (str(first.address), 9))


async def test_nothing_leaves_the_bridge_with_an_address_from_elsewhere(
    host: NetworkNamespace, outside: NetworkNamespace, network: BridgeNetwork, containers: Containers
) -> None:
    """Whatever stands in the bridge, a tap or not (this port is not named as one)."""
    with NetworkNamespace("c") as stranger:
        connect_by_veth(host, "port0", stranger, "eth0")
        host.ip("link", "set", "port0", "master", SETTINGS.name)
        stranger.ip("address", "add", "172.29.3.3/16", "dev", "eth0")
        stranger.ip("address", "add", "203.0.113.7/32", "dev", "eth0")
        stranger.ip("route", "add", "default", "via", "172.29.0.1")
        with outside.open_socket(socket.SOCK_DGRAM) as server, stranger.open_socket(socket.SOCK_DGRAM) as client:
            server.bind((OUTSIDE_ADDRESS, 9))
            client.bind(("203.0.113.7", 9))
            client.sendto(b"lie", (OUTSIDE_ADDRESS, 9))
            with stranger.open_socket(socket.SOCK_DGRAM) as honest:
                honest.sendto(b"truth", (OUTSIDE_ADDRESS, 9))
            assert server.recvfrom(10)[0] == b"truth"


async def test_container_cannot_take_over_the_gateways_address_by_arp(
    host: NetworkNamespace, network: BridgeNetwork, containers: Containers
) -> None:
    with host.entered():
        first, second = await admitted(network, "c1"), await admitted(network, "c2")
    liar, victim = containers.start(first), containers.start(second)
    with liar.packets("eth0") as sender, victim.packets("eth0") as receiver:
        sender.send(arp_reply(first.mac, str(first.gateway), second))
        sender.send(arp_reply(second.mac, str(first.address), second))
        lie = arp_reply(first.mac, str(first.gateway), second)
        sender.send(lie[:12] + b"\x81\0\0\0" + lie[12:])  # VLAN 0, which receivers take for no VLAN
        sender.send(arp_reply(first.mac, str(first.address), second))
        received = receiver.recv(100)
    assert received == arp_reply(first.mac, str(first.address), second)


async def test_container_cannot_reach_what_the_host_has_on_its_loopback(
    host: NetworkNamespace, network: BridgeNetwork, containers: Containers
) -> None:
    with host.entered():
        endpoint = await admitted(network, "c1")
    container = containers.start(endpoint)
    container.ip("address", "flush", "dev", "lo")
    container.ip("route", "flush", "table", "local", "dev", "lo")
    container.ip("route", "add", "127.0.0.9/32", "via", str(endpoint.gateway), "dev", "eth0")
    container.exec(["sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1"])
    with host.listen("127.0.0.9", 6000), pytest.raises(UNREACHABLE):
        container.connect("127.0.0.9", 6000, timeout_s=1)


# -- into the container


async def test_published_port_is_reachable_from_everywhere(
    host: NetworkNamespace, outside: NetworkNamespace, network: BridgeNetwork, containers: Containers
) -> None:
    with host.entered():
        first, second = await admitted(network, "c1"), await admitted(network, "c2")
        bindings = await network.publish("c1", [PortRequest(80, host_port=8080)])
    assert bindings == [PortBinding(80, "tcp", "0.0.0.0", 8080)]
    container, other = containers.start(first), containers.start(second)
    with container.listen("0.0.0.0", 80) as server:
        assert reaches(outside, HOST_ADDRESS, 8080, server) == OUTSIDE_ADDRESS  # clients keep their address
        reaches(host, "127.0.0.1", 8080, server)
        reaches(host, HOST_ADDRESS, 8080, server)
        reaches(host, str(first.gateway), 8080, server)
        reaches(other, HOST_ADDRESS, 8080, server)
        reaches(other, str(first.gateway), 8080, server)
        reaches(container, HOST_ADDRESS, 8080, server)  # hairpin
        reaches(container, str(first.gateway), 8080, server)


async def test_hairpin_works_whether_bridged_packets_pass_the_ip_rules_or_not(
    host: NetworkNamespace, network: BridgeNetwork, containers: Containers
) -> None:
    switch = "net.bridge.bridge-nf-call-iptables"
    if host.exec(["sysctl", "-n", switch], check=False).returncode != 0:
        pytest.skip("needs the kernel module br_netfilter")
    with host.entered():
        endpoint = await admitted(network, "c1")
        await network.publish("c1", [PortRequest(80, host_port=8080)])
    container = containers.start(endpoint)
    with container.listen("0.0.0.0", 80) as server:
        for value in ("0", "1"):
            host.exec(["sysctl", "-qw", f"{switch}={value}"])
            reaches(container, HOST_ADDRESS, 8080, server)


async def test_published_udp_port_answers(
    host: NetworkNamespace, outside: NetworkNamespace, network: BridgeNetwork, containers: Containers
) -> None:
    with host.entered():
        endpoint = await admitted(network, "c1")
        await network.publish("c1", [PortRequest(53, "udp", host_port=5353)])
    container = containers.start(endpoint)
    with container.open_socket(socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 53))
        for client_host, address in ((outside, HOST_ADDRESS), (host, "127.0.0.1"), (container, HOST_ADDRESS)):
            with client_host.open_socket(socket.SOCK_DGRAM) as client:
                client.connect((address, 5353))
                client.send(b"query")
                query, peer = server.recvfrom(100)
                server.sendto(query + b" answered", peer)
                assert client.recv(100) == b"query answered"


async def test_udp_client_that_never_pauses_finds_the_new_container(
    host: NetworkNamespace, outside: NetworkNamespace, network: BridgeNetwork, containers: Containers
) -> None:
    with outside.open_socket(socket.SOCK_DGRAM) as client:
        client.connect((HOST_ADDRESS, 5353))
        client.send(b"too early")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)
        for owner_id in ("c1", "c2"):
            with host.entered():
                endpoint = await admitted(network, owner_id)
                await network.publish(owner_id, [PortRequest(53, "udp", host_port=5353)])
            with containers.start(endpoint).open_socket(socket.SOCK_DGRAM) as server:
                server.bind(("0.0.0.0", 53))
                client.send(owner_id.encode())
                query, peer = server.recvfrom(10)
                assert query == owner_id.encode()
                server.sendto(b"answer", peer)
                assert client.recv(10) == b"answer"
            await network.unpublish(owner_id)
            network.release(owner_id)


async def test_port_published_on_loopback_is_for_the_host_alone(
    host: NetworkNamespace, outside: NetworkNamespace, network: BridgeNetwork, containers: Containers
) -> None:
    with host.entered():
        endpoint = await admitted(network, "c1")
        await network.publish("c1", [PortRequest(80, host_ip="127.0.0.1", host_port=8080)])
    container = containers.start(endpoint)
    with container.listen("0.0.0.0", 80) as server:
        reaches(host, "127.0.0.1", 8080, server)
        with pytest.raises(UNREACHABLE):
            outside.connect(HOST_ADDRESS, 8080, timeout_s=1)
        outside.ip("route", "add", "127.0.0.1/32", "via", HOST_ADDRESS, "table", "main")
        outside.ip("address", "del", "127.0.0.1/8", "dev", "lo")
        with pytest.raises(UNREACHABLE):
            outside.connect("127.0.0.1", 8080, timeout_s=1)


async def test_what_is_not_published_cannot_be_reached_through_the_host(
    host: NetworkNamespace, outside: NetworkNamespace, network: BridgeNetwork, containers: Containers
) -> None:
    with host.entered():
        endpoint = await admitted(network, "c1")
        await network.publish("c1", [PortRequest(80, host_port=8080)])
    container = containers.start(endpoint)
    outside.ip("route", "add", "172.29.0.0/16", "via", HOST_ADDRESS)
    with container.listen("0.0.0.0", 81) as server, pytest.raises(UNREACHABLE):
        outside.connect(str(endpoint.address), 81, timeout_s=1)
    with container.listen("0.0.0.0", 81) as server:
        reaches(host, str(endpoint.address), 81, server)  # the host itself may


async def test_unpublished_port_is_free_again_and_leads_nowhere(
    host: NetworkNamespace, outside: NetworkNamespace, network: BridgeNetwork, containers: Containers
) -> None:
    with host.entered():
        endpoint = await admitted(network, "c1")
        await network.publish("c1", [PortRequest(80, host_port=8080)])
        await network.unpublish("c1")
        await network.unpublish("c1")
    container = containers.start(endpoint)
    with container.listen("0.0.0.0", 80), pytest.raises(ConnectionRefusedError):
        outside.connect(HOST_ADDRESS, 8080)
    with host.listen("0.0.0.0", 8080) as server:
        reaches(outside, HOST_ADDRESS, 8080, server)


# -- conflicts


async def test_port_of_another_container_is_refused_in_dockers_words(
    host: NetworkNamespace, network: BridgeNetwork
) -> None:
    with host.entered():
        network.allocate("c1")
        network.allocate("c2")
        await network.publish("c1", [PortRequest(80, host_port=8080)])
        with pytest.raises(Conflict) as caught:
            await network.publish("c2", [PortRequest(81, host_port=8081), PortRequest(80, host_port=8080)], name="web")
        assert caught.value.message == (
            "driver failed programming external connectivity on endpoint web (c2): "
            "Bind for 0.0.0.0:8080 failed: port is already allocated"
        )
        # All or nothing: 8081 is free again.
        await network.publish("c1", [PortRequest(81, host_port=8081)])


async def test_port_of_a_foreign_program_is_refused_in_dockers_words(
    host: NetworkNamespace, network: BridgeNetwork
) -> None:
    with host.entered(), host.listen("0.0.0.0", 8080):
        network.allocate("c1")
        with pytest.raises(Conflict, match=r"listen tcp4 0\.0\.0\.0:8080: bind: address already in use$"):
            await network.publish("c1", [PortRequest(80, host_port=8080)])


async def test_held_port_cannot_be_taken_by_other_programs(host: NetworkNamespace, network: BridgeNetwork) -> None:
    with host.entered():
        network.allocate("c1")
        bindings = await network.publish("c1", [PortRequest(80), PortRequest(53, "udp")])
        with pytest.raises(OSError, match="in use"):
            host.listen("0.0.0.0", bindings[0].host_port)
        with host.open_socket(socket.SOCK_DGRAM) as udp, pytest.raises(OSError, match="in use"):
            udp.bind(("0.0.0.0", bindings[1].host_port))


async def test_subnet_that_the_host_routes_elsewhere_is_refused_with_a_suggestion(
    host: NetworkNamespace, database: Database
) -> None:
    host.ip("route", "add", "172.29.5.0/24", "via", OUTSIDE_ADDRESS)
    with host.entered():
        with pytest.raises(Conflict) as caught:
            await BridgeNetwork.open(database, SETTINGS, ROOT_ID)
        assert "172.29.0.0/16 overlaps the host's route to 172.29.5.0/24 through up0" in caught.value.message
        assert "--bip 172.31.0.1/16" in caught.value.message
        assert SETTINGS.name not in host.ip("link")
        other = await BridgeNetwork.open(database, BridgeSettings(bip="172.31.0.1/16"), ROOT_ID)
        await other.close()


async def test_two_daemons_side_by_side_keep_apart(
    host: NetworkNamespace, network: BridgeNetwork, containers: Containers, tmp_path: Path
) -> None:
    second_database = Database(tmp_path / "second.db")
    with host.entered():
        with pytest.raises(Conflict, match="belongs to another hyperd"):
            await BridgeNetwork.open(second_database, SETTINGS, "fff000fff000")
        settings = BridgeSettings("hyper1", "172.30.0.1/16")
        second = await BridgeNetwork.open(second_database, settings, "fff000fff000")
        mine, theirs = await admitted(network, "c1"), await admitted(second, "c1")
        await second.publish("c1", [PortRequest(80, host_port=8080)])
    assert mine.mac != theirs.mac
    client = containers.start(mine)
    peer = containers.start(theirs, "hyper1", "fff000fff000")
    with peer.listen("0.0.0.0", 81), pytest.raises(UNREACHABLE):
        client.connect(str(theirs.address), 81, timeout_s=1)
    with peer.listen("0.0.0.0", 80) as server:
        reaches(client, HOST_ADDRESS, 8080, server)
    second.release("c1")
    await second.close()
    second_database.close()
    links = host.ip("link")
    assert "hyper1" not in links
    assert "hyper0" in links


async def test_foreign_interface_of_the_bridges_name_is_left_alone(host: NetworkNamespace, database: Database) -> None:
    host.ip("link", "add", "hyper0", "type", "veth", "peer", "name", "other0")
    with host.entered(), pytest.raises(Conflict, match="was not made by hyperd"):
        await BridgeNetwork.open(database, SETTINGS, ROOT_ID)
    assert "hyper0" in host.ip("link")


# -- taps


async def test_tap_is_up_in_the_bridge_and_vanishes_with_its_last_descriptor(
    host: NetworkNamespace, network: BridgeNetwork
) -> None:
    with host.entered():
        endpoint = network.allocate("c1")
        descriptor = joined_tap(network, endpoint)
    held_by_the_vmm = os.dup(descriptor)
    os.close(descriptor)
    shown = host.ip("-details", "link", "show", "habc123-1d0002")
    assert "master hyper0" in shown
    assert ",UP" in shown
    assert "tun type tap pi off vnet_hdr on" in shown
    assert "persist off" in shown
    os.close(held_by_the_vmm)
    assert "habc123" not in host.ip("link")


async def test_a_spare_tap_is_in_no_network_and_down(host: NetworkNamespace, network: BridgeNetwork) -> None:
    with host.entered():
        name, descriptor = network.spare_tap()
    shown = host.ip("-details", "link", "show", name)
    assert name.startswith("habc123s") and "master" not in shown and "state DOWN" in shown
    os.close(descriptor)
    assert name not in host.ip("link")


async def test_new_tap_replaces_one_whose_vmm_is_dying(host: NetworkNamespace, network: BridgeNetwork) -> None:
    with host.entered():
        endpoint = network.allocate("c1")
        old = joined_tap(network, endpoint)
        new = joined_tap(network, endpoint)
    os.close(old)
    assert "master hyper0" in host.ip("link", "show", "habc123-1d0002")
    os.close(new)


# -- starts, crashes and ends


def crash_with_a_published_port(database_path: Path) -> tuple[str, list[PortBinding]]:
    """In a child: what a daemon does until kill -9, which runs no clean-up either."""

    async def run() -> tuple[str, list[PortBinding]]:
        network = await BridgeNetwork.open(Database(database_path), SETTINGS, ROOT_ID)
        endpoint = await admitted(network, "c1")
        network.allocate("gone")
        return str(endpoint.address), await network.publish("c1", [PortRequest(80, host_port=8080)])

    return asyncio.run(run())


async def test_connections_survive_a_killed_daemon_and_its_successor(
    host: NetworkNamespace, outside: NetworkNamespace, containers: Containers, tmp_path: Path
) -> None:
    path = tmp_path / "state.db"
    address, bindings = host.python(crash_with_a_published_port, path)
    database = Database(path)
    container = containers.start(Endpoint("c1", "02:42:ac:1d:00:02", *_place(address)))
    with container.listen("0.0.0.0", 80) as server, outside.connect(HOST_ADDRESS, 8080) as client:
        inside, _ = server.accept()
        with host.entered():
            network = await BridgeNetwork.open(database, SETTINGS, ROOT_ID)
        reaches(outside, HOST_ADDRESS, 8080, server)  # not even between open and restore is there a gap
        with host.entered():
            stray = joined_tap(network, network.allocate("gone"))
            await network.restore({"c1": bindings})
        client.sendall(b"still here")
        assert inside.recv(100) == b"still here"
        inside.close()
        reaches(outside, HOST_ADDRESS, 8080, server)
        with pytest.raises(OSError, match="in use"):
            host.listen("0.0.0.0", 8080)
        assert "habc123-1d0003" not in host.ip("link")  # the tap that nobody owns
        os.close(stray)
        with host.entered():
            assert str(network.allocate("next").address) == "172.29.0.4"
            await network.close()
        assert "hyper0" in host.ip("link")  # c1 still runs
        reaches(outside, HOST_ADDRESS, 8080, server)
    database.close()


async def test_nothing_is_left_behind_when_nothing_runs(host: NetworkNamespace, database: Database) -> None:
    links_before = host.ip("-brief", "link")
    with host.entered():
        network = await BridgeNetwork.open(database, SETTINGS, ROOT_ID)
        os.close(joined_tap(network, network.allocate("c1")))
        await network.publish("c1", [PortRequest(80, host_port=8080), PortRequest(81, "udp", "127.0.0.1")])
        await network.unpublish("c1")
        network.release("c1")
        network.release("c1")
        await network.close()
        await network.close()
    assert host.ip("-brief", "link") == links_before
    assert host.nft("list", "ruleset") == ""
    host.listen("0.0.0.0", 8080).close()


async def test_opening_again_changes_nothing(
    host: NetworkNamespace, network: BridgeNetwork, database: Database
) -> None:
    with host.entered():
        await admitted(network, "c1")
        await network.publish("c1", [PortRequest(80, host_port=8080)])
        rules, link = host.nft("list", "ruleset"), host.ip("address", "show", "hyper0")
        again = await BridgeNetwork.open(database, SETTINGS, ROOT_ID)
        await again.restore({"c1": []})
        await again.restore({"c1": [PortBinding(80, "tcp", "0.0.0.0", 8080)]})
    assert host.nft("list", "ruleset") == rules
    assert host.ip("address", "show", "hyper0") == link
    network.release("c1")
    await again.close()


async def test_release_frees_ports_that_are_still_published(host: NetworkNamespace, network: BridgeNetwork) -> None:
    with host.entered():
        network.allocate("c1")
        await network.publish("c1", [PortRequest(80, host_port=8080)])
        network.release("c1")
        assert "8080" not in host.nft("list", "ruleset")
        host.listen("0.0.0.0", 8080).close()


async def test_tables_of_another_version_are_replaced(host: NetworkNamespace, database: Database) -> None:
    host.exec(["nft", f"add table ip {TABLE}"])
    host.exec(["nft", f"add map ip {TABLE} tcp_any {{ type ipv4_addr : ipv4_addr ; }}"])
    with host.entered():
        network = await BridgeNetwork.open(database, SETTINGS, ROOT_ID)
        network.allocate("c1")
        await network.publish("c1", [PortRequest(80, host_port=8080)])
        await network.unpublish("c1")
        network.release("c1")
        await network.close()


async def test_rules_flushed_by_the_administrator_come_back_with_the_next_change(
    host: NetworkNamespace, outside: NetworkNamespace, network: BridgeNetwork, containers: Containers
) -> None:
    with host.entered():
        endpoint = await admitted(network, "c1")
        await network.publish("c1", [PortRequest(80, host_port=8080)])
        host.nft("flush", "ruleset")
        network.allocate("c2")
        await network.publish("c2", [PortRequest(80, host_port=8081)])
    container = containers.start(endpoint)
    with container.listen("0.0.0.0", 80) as server:
        reaches(outside, HOST_ADDRESS, 8080, server)


async def test_unprivileged_daemon_is_told_what_it_lacks(host: NetworkNamespace) -> None:
    def without_privileges() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

        async def run() -> None:
            await BridgeNetwork.open(Database(Path(":memory:")), SETTINGS, ROOT_ID)

        asyncio.run(run())

    with pytest.raises(FailedPrecondition, match=r"CAP_NET_ADMIN.*--network none"):
        host.python(without_privileges)


def _place(address: str) -> tuple[IPv4Address, int, IPv4Address]:
    return IPv4Address(address), 16, IPv4Address("172.29.0.1")
