"""``docker volume`` and ``hyper volume`` with the real command lines."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hyperd import Door


@pytest.fixture
def name(door: Door) -> Iterator[str]:
    name = f"v{secrets.token_hex(5)}"
    yield name
    door.docker("volume", "rm", "-f", name, check=False)


def hyper(door: Door, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("hyper")
    return subprocess.run(
        [str(program), "-H", door.address, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_volumes_life(door: Door, name: str) -> None:
    assert door.out("volume", "create", "--label", "a=1", name) == name
    assert name in door.out("volume", "ls", "-q").splitlines()
    assert door.out("volume", "ls", "--filter", f"name={name}").splitlines()[1].split() == ["local", name]
    [shown] = json.loads(door.out("volume", "inspect", name))
    assert (shown["Name"], shown["Driver"], shown["Scope"]) == (name, "local", "local")
    assert shown["Labels"] == {"a": "1"}
    assert door.out("inspect", "--type", "volume", "-f", "{{.Name}}", name) == name
    assert door.out("volume", "rm", name) == name
    gone = door.docker("volume", "inspect", name, check=False)
    assert gone.returncode == 1
    assert f"get {name}: no such volume" in gone.stderr.decode()


def test_the_same_name_twice_is_the_same_volume(door: Door, name: str) -> None:
    assert door.out("volume", "create", name) == door.out("volume", "create", name) == name


def test_what_docker_refuses_is_refused_in_its_words(door: Door) -> None:
    for arguments, words in (
        (("create", "-d", "nonsense", "x1"), 'plugin "nonsense" not found'),
        (("create", "./x1"), "includes invalid characters for a local volume name"),
        (("create", "-o", "nonsense=1", "x1"), 'invalid option: "nonsense"'),
        (("rm", "x1"), "get x1: no such volume"),
    ):
        refused = door.docker("volume", *arguments, check=False)
        assert refused.returncode == 1
        assert words in refused.stderr.decode()
    assert door.docker("volume", "rm", "-f", "x1").returncode == 0


def test_prune_takes_anonymous_ones_and_with_all_the_others(door: Door, name: str) -> None:
    door.docker("volume", "create", name)
    anonymous = door.out("volume", "create")
    first = door.out("volume", "prune", "-f")
    assert anonymous in first and name not in first
    assert name in door.out("volume", "prune", "-af")


def test_hypers_own_command_line_has_it_too(door: Door, name: str) -> None:
    made = hyper(door, "volume", "create", "--label", "a=1", name)
    assert (made.returncode, made.stdout) == (0, f"{name}\n")
    listed = hyper(door, "volume", "ls", "--filter", f"name={name}", "--format", "{{.Driver}} {{.Name}} {{.Labels}}")
    assert listed.stdout == f"local {name} a=1\n"
    assert json.loads(hyper(door, "volume", "inspect", name).stdout)[0]["Name"] == name
    assert hyper(door, "volume", "rm", name).stdout == f"{name}\n"
    missing = hyper(door, "volume", "rm", name)
    assert (missing.returncode, missing.stderr) == (1, f"hyper: get {name}: no such volume\n")


def test_docker_py_has_volumes(door: Door, name: str) -> None:
    client = door.client()
    try:
        volume = client.volumes.create(name, labels={"a": "1"})
        assert client.volumes.get(name).attrs["Labels"] == {"a": "1"}
        assert name in {item.name for item in client.volumes.list(filters={"label": "a=1"})}
        volume.remove()
        assert name not in {item.name for item in client.volumes.list()}
    finally:
        client.close()
