"""The flags that set a container apart, as docker's client sends them."""

from __future__ import annotations

from typing import Any

import pytest

from hyper.cli.flags import many, parse
from hyper.cli.isolation_flags import ISOLATION_FLAGS, device, host_config
from hyper.errors import InvalidArgument


def given(*arguments: str) -> dict[str, Any]:
    flags = (*ISOLATION_FLAGS, many("--security-opt", ""))
    parsed = parse("run", [*arguments, "image"], flags, usage="", summary="", at_least=1, leading=True)
    return host_config(parsed, {"profile.json": '{"defaultAction": "x"}'}.__getitem__)


def test_nothing_is_said_of_what_was_not_given() -> None:
    assert given() == {"SecurityOpt": []}


def test_modes_and_numbers() -> None:
    found = given("--pid", "host", "--ipc=none", "--uts", "host", "--blkio-weight", "300", "--memory-swappiness", "0")
    assert found == {
        "PidMode": "host",
        "IpcMode": "none",
        "UTSMode": "host",
        "BlkioWeight": 300,
        "MemorySwappiness": 0,
        "SecurityOpt": [],
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/dev/fuse", ("/dev/fuse", "/dev/fuse", "rwm")),
        ("/dev/fuse:r", ("/dev/fuse", "/dev/fuse", "r")),
        ("/dev/fuse:/dev/x", ("/dev/fuse", "/dev/x", "rwm")),
        ("/dev/fuse:/dev/x:rw", ("/dev/fuse", "/dev/x", "rw")),
    ],
)
def test_devices(text: str, expected: tuple[str, str, str]) -> None:
    assert tuple(device(text).values()) == expected


def test_limits_of_devices() -> None:
    assert given("--device-read-bps", "/dev/sda:1mb", "--device-write-iops", "/dev/sda:7") == {
        "BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1 << 20}],
        "BlkioDeviceWriteIOps": [{"Path": "/dev/sda", "Rate": 7}],
        "SecurityOpt": [],
    }


def test_a_seccomp_profile_is_read_and_unconfined_paths_are_two_lists() -> None:
    options = ("seccomp=profile.json", "seccomp=unconfined", "no-new-privileges", "systempaths=unconfined")
    assert given(*(word for option in options for word in ("--security-opt", option))) == {
        "SecurityOpt": ['seccomp={"defaultAction": "x"}', "seccomp=unconfined", "no-new-privileges"],
        "MaskedPaths": [],
        "ReadonlyPaths": [],
    }


def test_gpus_are_asked_for() -> None:
    assert given("--gpus", "all")["DeviceRequests"] == [{"Count": -1, "DeviceIDs": [], "Capabilities": [["gpu"]]}]
    assert given("--gpus", "device=1")["DeviceRequests"][0]["DeviceIDs"] == ["1"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--device", "/a:/b:r:x"),
        ("--device-read-bps", "/dev/sda"),
        ("--device-read-iops", "/dev/sda:1mb"),
        ("--blkio-weight-device", "/dev/sda:x"),
        ("--storage-opt", "size"),
    ],
)
def test_what_says_nothing_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument):
        given(*arguments)
