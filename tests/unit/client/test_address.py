from __future__ import annotations

from pathlib import Path

import pytest

from hyper.client.address import find_address, parse_address
from hyper.errors import InvalidArgument, Unavailable


@pytest.mark.parametrize(
    ("flag", "environment", "url", "chosen"),
    [
        (None, {}, "unix:///run/hyper/hyper.sock", False),
        (None, {"HYPER_EXEC_ROOT": "/x"}, "unix:///x/hyper.sock", False),
        (None, {"DOCKER_HOST": "unix:///d"}, "unix:///d", True),
        (None, {"DOCKER_HOST": "unix:///d", "HYPER_HOST": "unix:///h"}, "unix:///h", True),
        ("/f", {"DOCKER_HOST": "unix:///d", "HYPER_HOST": "unix:///h"}, "unix:///f", True),
        ("tcp://127.0.0.1", {}, "tcp://127.0.0.1", True),
    ],
)
def test_flag_goes_before_environment_before_default(
    flag: str | None, environment: dict[str, str], url: str, chosen: bool
) -> None:
    address = find_address(flag, environment)
    assert (address.url, address.chosen) == (url, chosen)


def test_tcp_addresses_with_and_without_port() -> None:
    assert (parse_address("tcp://host:99").host, parse_address("tcp://host:99").port) == ("host", 99)
    assert parse_address("tcp://host").port == 2375
    assert (parse_address("tcp://[::1]:5").host, parse_address("tcp://[::1]").port) == ("::1", 2375)


@pytest.mark.parametrize("url", ["", "ssh://host", "unix://", "tcp://host:x", "tcp://", "name", "unix:///" + "x" * 108])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_address(url)


def test_nobody_listening_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="start hyperd"):
        parse_address(f"unix://{tmp_path}/none").connect()
