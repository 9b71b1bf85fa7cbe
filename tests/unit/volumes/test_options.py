"""Names and options in Docker's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyper.errors import InvalidArgument, Unsupported
from hyper.volumes import options


@pytest.mark.parametrize("name", ["ab", "data-1", "A_b.c", "0" * 64])
def test_names_that_docker_takes(name: str) -> None:
    options.check_name(name)


@pytest.mark.parametrize("name", ["", "a", "-ab", "a/b", "../x", "a b", ".hidden", "a" * 256, "a\n", "é1"])
def test_names_that_docker_refuses(name: str) -> None:
    with pytest.raises(InvalidArgument):
        options.check_name(name)


def test_a_path_is_told_from_a_name() -> None:
    with pytest.raises(InvalidArgument, match="use absolute path"):
        options.check_name("./data")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"foo": "1"}, 'invalid option: "foo"'),
        ({"size": "1g"}, "quota size requested but no quota support"),
        ({"o": "bind"}, 'missing required option: "device"'),
        ({"type": "none"}, 'missing required option: "device"'),
        ({"device": "/x"}, 'missing required option: "type"'),
        ({"type": "none", "o": "bind", "device": "x"}, "must be an absolute path"),
    ],
)
def test_options_that_make_no_sense(given: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        options.check_options("v", given)


@pytest.mark.parametrize(
    "given",
    [
        {"type": "tmpfs", "device": "tmpfs"},
        {"type": "nfs", "device": ":/x", "o": "addr=192.0.2.1"},
        {"type": "none", "device": "/x", "o": "bind,noexec"},
    ],
)
def test_options_that_are_not_there_yet_are_refused_by_name(given: dict[str, str]) -> None:
    with pytest.raises(Unsupported, match="not there yet"):
        options.check_options("v", given)


def test_a_volume_can_be_a_name_of_a_directory() -> None:
    given = {"type": "none", "o": "bind,ro", "device": "/srv/data"}
    options.check_options("v", given)
    assert options.device(given) == Path("/srv/data")
    assert options.is_readonly(given)
    assert options.device({}) is None and not options.is_readonly({})
