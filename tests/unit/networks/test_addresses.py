from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyper.errors import ResourceExhausted
from hyper.networks.addresses import AddressPool
from hyper.system.database import Database

BIP = IPv4Interface("172.29.0.1/29")  # five for containers: .2 to .6


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "state.db")
    yield opened
    opened.close()


def test_endpoint_has_everything_that_a_card_needs(database: Database) -> None:
    endpoint = AddressPool(database, IPv4Interface("172.29.0.1/16")).allocate("c1")
    assert (endpoint.owner_id, endpoint.prefix_length) == ("c1", 16)
    assert (endpoint.address, endpoint.gateway) == (IPv4Address("172.29.0.2"), IPv4Address("172.29.0.1"))
    assert endpoint.mac == "02:42:ac:1d:00:02"


def test_asking_again_gives_the_same_address(database: Database) -> None:
    pool = AddressPool(database, BIP)
    assert pool.allocate("c1") == pool.allocate("c1") == pool.find("c1")


def test_addresses_survive_a_restart(database: Database) -> None:
    first = AddressPool(database, BIP).allocate("c1")
    reopened = Database(database.path)
    successor = AddressPool(reopened, BIP)
    assert successor.find("c1") == first
    assert successor.allocate("c2").address != first.address
    reopened.close()


def test_address_given_back_comes_again_only_after_all_the_others(database: Database) -> None:
    pool = AddressPool(database, BIP)
    given_back = pool.allocate("c0").address
    assert pool.release("c0") is not None
    seen = []
    for number in range(5):
        seen.append(pool.allocate(f"d{number}").address)
    assert seen[-1] == given_back
    assert len(set(seen)) == 5


def test_full_subnet_is_refused_and_says_what_to_do(database: Database) -> None:
    pool = AddressPool(database, BIP)
    for number in range(5):
        pool.allocate(f"c{number}")
    with pytest.raises(ResourceExhausted, match=r"all 5 addresses of 172\.29\.0\.0/29 .*--bip"):
        pool.allocate("one too many")
    pool.release("c3")
    assert pool.allocate("fits now").address == IPv4Address("172.29.0.5")


def test_releasing_what_is_not_there_is_no_error(database: Database) -> None:
    assert AddressPool(database, BIP).release("nobody") is None


def test_bridge_in_the_middle_of_its_subnet_keeps_its_address(database: Database) -> None:
    pool = AddressPool(database, IPv4Interface("172.29.0.4/29"))
    assert [str(pool.allocate(f"c{n}").address)[-1] for n in range(5)] == ["5", "6", "1", "2", "3"]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=60))
def test_no_two_owners_ever_share_an_address(steps: list[tuple[bool, int]]) -> None:
    database = Database(Path(":memory:"))
    try:
        pool = AddressPool(database, BIP)
        for allocate, number in steps:
            if allocate:
                try:
                    pool.allocate(f"c{number}")
                except ResourceExhausted:
                    assert len(pool.all()) == 5
            else:
                pool.release(f"c{number}")
            addresses = [endpoint.address for endpoint in pool.all()]
            assert len(set(addresses)) == len(addresses)
            assert BIP.ip not in addresses
            assert all(address in BIP.network for address in addresses)
    finally:
        database.close()
