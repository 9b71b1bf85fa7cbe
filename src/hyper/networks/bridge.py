"""The default network: one bridge per daemon, taps in it, addresses, translation, isolation and published ports.

Everything that running containers need (bridge, rules, taps, which VMMs hold) lives in the kernel and survives the
daemon; what must not be forgotten (who has which address) lives in the state database. ``open`` is idempotent,
``restore`` brings the kernel's side in line with what the engine found alive.

Neighbours: ``addresses.py``, ``ports.py``, ``rules.py``, ``subnets.py``,
``hyper.system.{netlink,netlink_taps,nftables,sysctl}``. docs/networking.md tells users what is set up and why.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

from hyper.errors import Conflict, FailedPrecondition, HyperError, NotFound
from hyper.networks.addresses import AddressPool, Endpoint
from hyper.networks.ports import HeldPort, HeldPorts, PortBinding, PortRequest, check, drop_early_connections
from hyper.networks.rules import RuleSet
from hyper.networks.subnets import mac_of, overlapping, parse_bip, suggest
from hyper.system import sysctl
from hyper.system.database import Database
from hyper.system.netlink import Link, Netlink
from hyper.system.netlink_conntrack import Conntrack
from hyper.system.netlink_taps import open_tap
from hyper.system.nftables import Nftables

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BridgeSettings:
    """``name`` of the bridge's interface; ``bip`` its address and the subnet; ``mtu`` of everything in it, in bytes."""

    name: str = "hyper0"
    bip: str = "172.29.0.1/16"
    mtu: int = 1500


class BridgeNetwork:
    """An open network. Made by :meth:`open`; used from the event loop's thread only (its calls take less than 2 ms)."""

    def __init__(self, database: Database, settings: BridgeSettings, root_id: str) -> None:
        """No side effects but the tables in the database: call :meth:`open`."""
        self.settings = settings
        self.bip = parse_bip(settings.bip)
        self._alias = f"hyper root {root_id}"
        self._rules = RuleSet(root_id, settings.name, self.bip.network)
        self._addresses = AddressPool(database, self.bip)
        self._ports = HeldPorts()
        self._published: dict[str, list[HeldPort]] = {}
        self._index = 0
        self._netlink: Netlink | None = None
        self._nft: Nftables | None = None
        self._conntrack: Conntrack | None = None

    @classmethod
    async def open(cls, database: Database, settings: BridgeSettings, root_id: str) -> BridgeNetwork:
        """Set up what is missing. ``root_id``: 6 to 32 small letters and digits, the same at every start of this
        daemon's root.

        Conflict when the subnet or the bridge's name is in use; FailedPrecondition when this machine or our privileges
        do not allow it.
        """
        network = cls(database, settings, root_id)
        network._set_up()
        return network

    # -- one container's card

    def allocate(self, owner_id: str, *, owner: str = "") -> Endpoint:
        """An address for ``owner_id``, recorded; the same one when asked again. ``owner`` is the tenant."""
        return self._addresses.allocate(owner_id, owner=owner)

    def spare_tap(self) -> tuple[str, int]:
        """A new tap that is in no network yet: its name, and a descriptor that the caller owns; it vanishes when the
        last copy of that is closed."""
        name = f"{self._rules.spare_prefix}{secrets.token_hex(4)[:7]}"
        with _privileged():
            descriptor = open_tap(name)
            # No IPv6 chatter of the host's into the guest.
            sysctl.ensure(
                f"net/ipv6/conf/{name}/disable_ipv6", "1", purpose="a container's network card", optional=True
            )
        return name, descriptor

    def connect(self, endpoint: Endpoint, tap: str) -> None:
        """Put a spare tap into the network as this endpoint's."""
        netlink = self._open_netlink()
        name = self._rules.tap_name(endpoint.address)
        with _privileged():
            self._apply(self._rules.admit([endpoint]))
            try:
                netlink.rename_link(tap, name)
            except FileExistsError:
                # Its address is this endpoint's alone, so it belongs to a VMM that is on its way out.
                netlink.delete_link(name)
                netlink.rename_link(tap, name)
            netlink.set_link(name, master_index=self._index, mtu=self.settings.mtu, up=True)
            # A container that calls its own published port is answered through the port that it called from; the
            # bridge does that itself where br_netfilter is on.
            netlink.set_bridge_port_hairpin(name)

    def release(self, owner_id: str) -> None:
        """Give the address back, and ports that are still published. Idempotent."""
        self._unpublish(owner_id)
        endpoint = self._addresses.release(owner_id)
        if endpoint is not None:
            self._apply(self._rules.expel([endpoint]))

    # -- published ports

    async def publish(self, owner_id: str, ports: Sequence[PortRequest], *, name: str = "") -> list[PortBinding]:
        """Publish all of them or none, in the order given. ``name`` is the container's, for messages.

        NotFound when ``owner_id`` has no address; Conflict, in Docker's words, when a port is taken.
        """
        endpoint = self._addresses.find(owner_id)
        if endpoint is None:
            raise NotFound(
                f"{owner_id} has no address in network {self.settings.name}, so its ports cannot be published"
            )
        for request in ports:
            check(request)
        held: dict[int, HeldPort] = {}
        published = self._published.setdefault(owner_id, [])
        before = list(published)
        try:
            # Fixed ones first: the kernel could pick one of them for a request that leaves the port open.
            for position in sorted(range(len(ports)), key=lambda index: ports[index].host_port is None):
                held[position] = self._ports.hold(ports[position])
            bindings = [held[position].binding for position in range(len(ports))]
            published.extend(held.values())
            self._apply(self._rules.publish(endpoint.address, bindings))
        except BaseException as error:
            published[:] = before
            for one in held.values():
                self._ports.release(one)
            if isinstance(error, HyperError):
                prefix = (
                    f"driver failed programming external connectivity on endpoint {name or owner_id[:12]} ({owner_id})"
                )
                raise type(error)(f"{prefix}: {error.message}") from error
            raise
        for one in held.values():
            drop_early_connections(one)
        for binding in bindings:
            if binding.protocol == "udp":
                self._forget_udp(binding.host_port, endpoint.address)
        return bindings

    async def unpublish(self, owner_id: str) -> None:
        """Free the ports; nothing leads into the container any more. Idempotent."""
        self._unpublish(owner_id)

    def _unpublish(self, owner_id: str) -> None:
        held = self._published.pop(owner_id, [])
        endpoint = self._addresses.find(owner_id)
        if held and endpoint is not None:
            self._apply(self._rules.unpublish(endpoint.address, [one.binding for one in held]))
            # What is translated to this address would be led to the next container that has it.
            self._forget_server(endpoint.address)
        for one in held:
            self._ports.release(one)

    # -- the daemon's start and end

    async def restore(self, live: Mapping[str, Sequence[PortBinding]]) -> None:
        """After a restart: addresses, rules, sockets and taps of ``live`` owners stay or come back, everything else
        goes.

        A port that another program took meanwhile stays with the container, and is logged.
        """
        netlink = self._open_netlink()
        for endpoint in self._addresses.all():
            if endpoint.owner_id not in live:
                self._addresses.release(endpoint.owner_id)
                self._forget_server(endpoint.address)
        for owner_id, bindings in live.items():
            if bindings and self._addresses.find(owner_id) is None:
                _log.error(
                    "published ports are lost: their owner has no recorded address", extra={"owner_id": owner_id}
                )
                continue
            already = {one.binding for one in self._published.get(owner_id, [])}
            for binding in bindings:
                if binding not in already:
                    self._published.setdefault(owner_id, []).append(self._hold_again(owner_id, binding))
        self._synchronise()
        expected = {self._rules.tap_name(endpoint.address) for endpoint in self._addresses.all()}
        for link in self._taps(netlink):
            if link.name not in expected:
                _log.warning("removing a tap that no container owns", extra={"tap": link.name})
                netlink.delete_link(link.name)

    async def close(self) -> None:
        """Let go. The bridge and the rules stay while anybody has an address, and go with the last. Idempotent."""
        if self._netlink is None or self._nft is None:
            return
        try:
            if not self._addresses.all():
                self._nft.run(self._rules.tear_down())
                self._netlink.delete_link(self.settings.name)
        finally:
            self._ports.close()
            self._published.clear()
            self._shut()

    # -- inside

    def _set_up(self) -> None:
        self._nft = Nftables()
        created = False
        try:
            self._netlink = Netlink()
            self._conntrack = Conntrack()
            with _privileged():
                bridge = self._netlink.link(self.settings.name)
                if bridge is not None:
                    self._check_ours(bridge)
                self._check_subnet(bridge)
                if bridge is None:
                    self._netlink.add_bridge(self.settings.name, mac=mac_of(self.bip.ip), mtu=self.settings.mtu)
                    created = True
                self._configure_bridge()
                self._set_sysctls()
                self._drop_other_subnets()
                self._renew_rules(self._nft)
        except BaseException:
            if created and self._netlink is not None:
                self._netlink.delete_link(self.settings.name)
            self._shut()
            raise

    def _shut(self) -> None:
        for part in (self._netlink, self._nft, self._conntrack):
            if part is not None:
                part.close()
        self._netlink = self._nft = self._conntrack = None

    def _check_ours(self, bridge: Link) -> None:
        half_made = bridge.kind == "bridge" and not bridge.alias and not bridge.up
        if bridge.kind != "bridge" or not (bridge.alias == self._alias or half_made):
            whose = "belongs to another hyperd" if bridge.alias.startswith("hyper root ") else "was not made by hyperd"
            raise Conflict(
                f"the network interface {bridge.name} exists and {whose}: choose another name (--bridge-name), "
                f"or remove it if nothing uses it (ip link delete {bridge.name})"
            )

    def _check_subnet(self, bridge: Link | None) -> None:
        own_index = bridge.index if bridge else -1
        assert self._netlink is not None
        routes = [route for route in self._netlink.routes() if route.link_index != own_index]
        clash = overlapping(self.bip.network, [route.destination for route in routes])
        if clash is None:
            return
        index = next(route.link_index for route in routes if route.destination == clash)
        through = next((f" through {link.name}" for link in self._netlink.links() if link.index == index), "")
        free = suggest([route.destination for route in routes])
        advice = f"; {free} is free: start hyperd with --bip {free}" if free else "; choose a free subnet with --bip"
        raise Conflict(
            f"the containers' subnet {self.bip.network} overlaps the host's route to {clash}{through}{advice}"
        )

    def _configure_bridge(self) -> None:
        assert self._netlink is not None
        name = self.settings.name
        bridge = self._netlink.link(name)
        assert bridge is not None
        self._index = bridge.index
        addresses = self._netlink.addresses(bridge.index)
        for address in addresses:
            if address != self.bip:
                if self._taps(self._netlink):
                    raise FailedPrecondition(
                        f"containers are running in the subnet {address.network}, so it cannot become "
                        f"{self.bip.network} now: start hyperd with --bip {address}, stop them, then change it"
                    )
                self._netlink.delete_address(bridge.index, address)
        if self.bip not in addresses:
            self._netlink.add_address(bridge.index, self.bip)
        self._netlink.set_link(name, alias=self._alias, mtu=self.settings.mtu)
        sysctl.ensure(f"net/ipv6/conf/{name}/disable_ipv6", "1", purpose="the containers' bridge", optional=True)
        self._netlink.set_link(name, up=True)

    def _set_sysctls(self) -> None:
        local = f"net/ipv4/conf/{self.settings.name}/route_localnet"
        sysctl.ensure(local, "1", purpose="reaching published ports at 127.0.0.1")
        if sysctl.ensure("net/ipv4/ip_forward", "1", purpose="containers to reach other hosts"):
            _log.warning(
                "IPv4 forwarding was off on this host and is on now; it stays on",
                extra={"sysctl": "net.ipv4.ip_forward=1"},
            )

    def _drop_other_subnets(self) -> None:
        # What is left of an earlier --bip: _configure_bridge made sure that nothing of it runs.
        for endpoint in self._addresses.all():
            if endpoint.address not in self.bip.network or endpoint.address == self.bip.ip:
                self._addresses.release(endpoint.owner_id)

    def _hold_again(self, owner_id: str, binding: PortBinding) -> HeldPort:
        try:
            request = PortRequest(binding.container_port, binding.protocol, binding.host_ip, binding.host_port)
            return self._ports.hold(request)
        except HyperError as error:
            _log.warning(
                "another program took a published port while hyperd was away; the container keeps its connections",
                extra={"owner_id": owner_id, "port": binding.host_port, "error": error.message},
            )
            return HeldPort(binding, None)

    def _apply(self, script: str) -> None:
        """A small change; if it fails, because somebody flushed the host's rules, everything is written anew."""
        if self._nft is None:
            raise FailedPrecondition(f"network {self.settings.name} is closed")
        try:
            self._nft.run(script)
        except OSError as error:
            _log.warning(
                "the network's rules were changed by somebody else; writing them anew", extra={"error": str(error)}
            )
            self._synchronise()

    def _renew_rules(self, nft: Nftables) -> None:
        # Published ports are left as an earlier daemon set them, for containers that run: restore() knows which.
        script = self._rules.set_up() + self._rules.admit(self._addresses.all())
        try:
            nft.run(script)
        except OSError as error:
            _log.warning(
                "rules of another version of hyperd are in the way; replacing them", extra={"error": str(error)}
            )
            nft.run(self._rules.tear_down() + script)

    def _synchronise(self) -> None:
        if self._nft is None:
            raise FailedPrecondition(f"network {self.settings.name} is closed")
        endpoints = self._addresses.all()
        script = [self._rules.set_up(), self._rules.clear_elements(), self._rules.admit(endpoints)]
        for endpoint in endpoints:
            bindings = [one.binding for one in self._published.get(endpoint.owner_id, [])]
            script.append(self._rules.publish(endpoint.address, bindings))
        self._nft.run("".join(script))

    def _forget_server(self, address: IPv4Address) -> None:
        self._forget(lambda conntrack: conntrack.forget_server(address))

    def _forget_udp(self, host_port: int, server: IPv4Address) -> None:
        self._forget(lambda conntrack: conntrack.forget_udp_port(host_port, server=server))

    def _forget(self, what: Callable[[Conntrack], int]) -> None:
        if self._conntrack is None:
            return
        try:
            what(self._conntrack)
        except OSError as error:  # the connections time out by themselves; nothing else depends on it
            _log.warning("old connections could not be forgotten", extra={"error": str(error)})

    def _taps(self, netlink: Netlink) -> list[Link]:
        return [link for link in netlink.links() if link.name.startswith(self._rules.tap_prefix) and link.kind == "tun"]

    def _open_netlink(self) -> Netlink:
        if self._netlink is None:
            raise FailedPrecondition(f"network {self.settings.name} is closed")
        return self._netlink


@contextmanager
def _privileged() -> Iterator[None]:
    """Says what to do when the kernel does not let us."""
    try:
        yield
    except PermissionError as error:
        raise FailedPrecondition(
            f"the containers' network needs the capability CAP_NET_ADMIN, which hyperd does not have ({error}): "
            "run hyperd as root or grant the capability, or run containers with --network none"
        ) from error
