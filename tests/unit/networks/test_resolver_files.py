from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from hyper.errors import InvalidArgument
from hyper.networks.resolver_files import (
    ResolverOptions,
    hostname_file,
    hosts_file,
    read_host_resolv_conf,
    resolv_conf,
)

GATEWAY = IPv4Address("172.29.0.1")


def test_hosts_file_names_the_container_last() -> None:
    lines = hosts_file(hostname="web", address=IPv4Address("172.29.0.2")).decode().splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert lines[-1] == "172.29.0.2\tweb"


def test_hosts_file_without_network_has_local_names_only() -> None:
    assert b"web" not in hosts_file(hostname="web")


def test_hosts_file_has_extra_hosts_and_the_domain() -> None:
    text = hosts_file(
        hostname="web",
        domain_name="example.org",
        address=IPv4Address("172.29.0.2"),
        extra_hosts=["db:10.0.0.7", "six:fd00::7", "bracketed=[fd00::8]", "up:host-gateway"],
        gateway=GATEWAY,
    ).decode()
    for line in (
        "10.0.0.7\tdb",
        "fd00::7\tsix",
        "fd00::8\tbracketed",
        "172.29.0.1\tup",
        "172.29.0.2\tweb.example.org web",
    ):
        assert f"\n{line}\n" in text


@pytest.mark.parametrize("entry", ["db", "db:nowhere", "d b:10.0.0.1", "db\n10.0.0.9 evil:10.0.0.1", "up:host-gateway"])
def test_malformed_extra_hosts_are_refused(entry: str) -> None:
    with pytest.raises(InvalidArgument, match="--add-host"):
        hosts_file(hostname="web", extra_hosts=[entry])


def test_host_name_cannot_add_lines() -> None:
    with pytest.raises(InvalidArgument, match="host name"):
        hostname_file("web\nevil")
    assert hostname_file("web") == b"web\n"


def test_reachable_servers_search_and_options_come_from_the_host() -> None:
    host = b"# comment\nnameserver 10.0.0.53\nnameserver 127.0.0.53\nnameserver ::1\n"
    host += b"search a b\ndomain c\noptions ndots:2\n"
    assert resolv_conf(host) == b"nameserver 10.0.0.53\nsearch c\noptions ndots:2\n"


@pytest.mark.parametrize(
    "host", [b"", b"nameserver 127.0.0.1\n", b"nameserver ::1\n", b"nameserver\nnameserver junk\n"]
)
def test_public_servers_stand_in_where_the_host_has_none_that_can_be_reached(host: bytes) -> None:
    assert resolv_conf(host) == b"nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


def test_options_of_the_container_win() -> None:
    overrides = ResolverOptions(("9.9.9.9",), ("x.org",), ("ndots:1",))
    assert resolv_conf(b"nameserver 10.0.0.53\nsearch a\noptions b\n", overrides) == (
        b"nameserver 9.9.9.9\nsearch x.org\noptions ndots:1\n"
    )
    assert b"search" not in resolv_conf(b"search a\n", ResolverOptions(search=(".",)))


def test_malformed_options_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="--dns 'nine'"):
        resolv_conf(b"", ResolverOptions(servers=("nine",)))
    with pytest.raises(InvalidArgument, match="--dns-search"):
        resolv_conf(b"", ResolverOptions(search=("a\nnameserver 6.6.6.6",)))


def test_servers_behind_systemd_resolved_are_taken(tmp_path: Path) -> None:
    stub, upstream = tmp_path / "resolv.conf", tmp_path / "upstream"
    stub.write_bytes(b"nameserver 127.0.0.53\n")
    assert read_host_resolv_conf(path=stub, resolved=upstream) == b"nameserver 127.0.0.53\n"
    upstream.write_bytes(b"nameserver 10.0.0.53\n")
    assert read_host_resolv_conf(path=stub, resolved=upstream) == b"nameserver 10.0.0.53\n"
    stub.write_bytes(b"nameserver 127.0.0.53\nnameserver 10.9.9.9\n")
    assert read_host_resolv_conf(path=stub, resolved=upstream).endswith(b"10.9.9.9\n")
    assert read_host_resolv_conf(path=tmp_path / "none", resolved=upstream) == b""
