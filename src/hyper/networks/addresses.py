"""Who has which address: records in the state database, so that no crash hands an address out twice.

Addresses go round-robin through the subnet: one that was given back comes again only after all the others, when
connections and caches that remember its last user are gone.

Neighbours: ``bridge.py`` (only user), ``hyper.system.database``.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from hyper.errors import ResourceExhausted
from hyper.networks.subnets import mac_of
from hyper.system.database import Database

_MIGRATIONS = (
    """
    CREATE TABLE network_endpoints (
        owner_id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        address INTEGER NOT NULL UNIQUE,
        created_ns INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE network_cursor (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 0),
        last_address INTEGER NOT NULL
    ) STRICT;
    """,
)


@dataclass(frozen=True)
class Endpoint:
    """One network card's place in the network. ``owner_id`` is the sandbox's or container's id."""

    owner_id: str
    mac: str
    address: IPv4Address
    prefix_length: int
    gateway: IPv4Address


class AddressPool:
    """The addresses of one subnet but its own, its broadcast address and the bridge's."""

    def __init__(self, database: Database, bip: IPv4Interface) -> None:
        self._database = database
        self._bip = bip
        database.migrate("networks", _MIGRATIONS)

    def allocate(self, owner_id: str, *, owner: str = "") -> Endpoint:
        """The endpoint of ``owner_id``, a new one unless it has one. ``owner`` is the tenant. ResourceExhausted when
        none is free."""
        existing = self.find(owner_id)
        if existing is not None:
            return existing
        with self._database.transaction() as connection:
            taken = {int(row["address"]) for row in connection.execute("SELECT address FROM network_endpoints")}
            cursor = connection.execute("SELECT last_address FROM network_cursor").fetchone()
            address = self._next_free(int(cursor["last_address"]) if cursor else int(self._bip.ip), taken)
            connection.execute(
                "INSERT INTO network_endpoints (owner_id, owner, address, created_ns) VALUES (?, ?, ?, ?)",
                (owner_id, owner, address, time.time_ns()),
            )
            connection.execute(
                "INSERT INTO network_cursor VALUES (0, ?)"
                " ON CONFLICT (only_row) DO UPDATE SET last_address = excluded.last_address",
                (address,),
            )
        return self._endpoint(owner_id, address)

    def find(self, owner_id: str) -> Endpoint | None:
        rows = self._database.query("SELECT address FROM network_endpoints WHERE owner_id = ?", (owner_id,))
        return self._endpoint(owner_id, int(rows[0]["address"])) if rows else None

    def release(self, owner_id: str) -> Endpoint | None:
        """What was given back; None when there was nothing."""
        endpoint = self.find(owner_id)
        if endpoint is not None:
            with self._database.transaction() as connection:
                connection.execute("DELETE FROM network_endpoints WHERE owner_id = ?", (owner_id,))
        return endpoint

    def all(self) -> list[Endpoint]:
        """Every endpoint recorded, in the order of addresses; also those of an earlier, other subnet."""
        rows = self._database.query("SELECT owner_id, address FROM network_endpoints ORDER BY address")
        return [self._endpoint(str(row["owner_id"]), int(row["address"])) for row in rows]

    def _next_free(self, last: int, taken: Collection[int]) -> int:
        network = self._bip.network
        first, count = int(network.network_address) + 1, network.num_addresses - 2
        start = last + 1 - first if last in range(first, first + count) else 0
        for step in range(count):
            candidate = first + (start + step) % count
            if candidate not in taken and candidate != int(self._bip.ip):
                return candidate
        raise ResourceExhausted(
            f"all {count - 1} addresses of {network} are in use: "
            "stop containers, or restart hyperd with a bigger subnet (--bip)"
        )

    def _endpoint(self, owner_id: str, number: int) -> Endpoint:
        address = IPv4Address(number)
        return Endpoint(owner_id, mac_of(address), address, self._bip.network.prefixlen, self._bip.ip)
