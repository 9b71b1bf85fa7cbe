"""What a create body asks for is what inspect tells; what cannot be is refused with dockerd's status and words. Every
answer is validated."""

from __future__ import annotations

from typing import Any

import pytest
from tests.api.test_containers import created
from tests.hyperd import IMAGE, Door

RATE = [{"Path": "/dev/sda", "Rate": 1048576}]

KEPT: dict[str, Any] = {
    "Annotations": {"a": "b"},
    "BlkioDeviceReadBps": RATE,
    "BlkioDeviceWriteBps": RATE,
    "BlkioDeviceReadIOps": RATE,
    "BlkioDeviceWriteIOps": RATE,
    "CapAdd": ["NET_ADMIN"],
    "CapDrop": ["ALL"],
    "CgroupnsMode": "host",
    "ConsoleSize": [24, 80],
    "CpuPeriod": 50000,
    "CpuQuota": 25000,
    "CpuShares": 512,
    "CpusetCpus": "0",
    "CpusetMems": "0",
    "DeviceCgroupRules": ["c 10:* rwm"],
    "Devices": [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/mine", "CgroupPermissions": "r"}],
    "Dns": ["1.1.1.1"],
    "DnsOptions": ["ndots:2"],
    "DnsSearch": ["example.org"],
    "ExtraHosts": ["a:1.2.3.4"],
    "GroupAdd": ["video", "777"],
    "IpcMode": "shareable",
    "MaskedPaths": ["/proc/kcore"],
    "Memory": 64 << 20,
    "MemoryReservation": 32 << 20,
    "NanoCpus": 500_000_000,
    "NetworkMode": "none",
    "OomScoreAdj": 100,
    "PidMode": "host",
    "PidsLimit": 50,
    "Privileged": True,
    "ReadonlyPaths": [],
    "ReadonlyRootfs": True,
    "SecurityOpt": ["no-new-privileges", "seccomp=unconfined"],
    "ShmSize": 1 << 20,
    "StorageOpt": {"size": "64M"},
    "Sysctls": {"net.core.somaxconn": "64"},
    "Tmpfs": {"/t": "size=1m"},
    "UTSMode": "host",
    "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}],
    "UsernsMode": "host",
}

DEFAULTS: dict[str, Any] = {
    "CgroupnsMode": "private",
    "IpcMode": "private",
    "PidMode": "",
    "UTSMode": "",
    "Devices": [],
    "StorageOpt": {},
    "ShmSize": 64 << 20,
}


@pytest.mark.parametrize("member", sorted(KEPT))
def test_what_was_asked_for_is_told(door: Door, member: str) -> None:
    with created(door, "true", HostConfig={member: KEPT[member]}) as id_:
        assert door.http("GET", f"/containers/{id_}/json").json["HostConfig"][member] == KEPT[member]


def test_what_was_not_asked_for_is_the_default(door: Door) -> None:
    with created(door, "true") as id_:
        told = door.http("GET", f"/containers/{id_}/json").json["HostConfig"]
        assert {member: told[member] for member in DEFAULTS} == DEFAULTS
        assert "/proc/kcore" in told["MaskedPaths"] and "/proc/sys" in told["ReadonlyPaths"]


def test_a_privileged_container_has_nothing_masked(door: Door) -> None:
    with created(door, "true", HostConfig={"Privileged": True}) as id_:
        told = door.http("GET", f"/containers/{id_}/json").json["HostConfig"]
        assert told["MaskedPaths"] == told["ReadonlyPaths"] == []


def test_what_is_for_images_made_of_it_is_told(door: Door) -> None:
    with created(door, "true", Shell=["/bin/ash", "-c"], OnBuild=["RUN x"], Domainname="example.org") as id_:
        told = door.http("GET", f"/containers/{id_}/json").json["Config"]
        assert (told["Shell"], told["OnBuild"]) == (["/bin/ash", "-c"], ["RUN x"])
        assert told["Domainname"] == "example.org"


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("BlkioWeight", 300, "Your kernel does not support Block I/O weight or the cgroup is not mounted."),
        ("BlkioWeightDevice", [{"Path": "/dev/sda", "Weight": 300}], "Weight-device discarded."),
        ("MemorySwappiness", 60, "Memory swappiness discarded."),
        ("KernelMemory", 64 << 20, "kernel memory limit capabilities"),
        ("OomKillDisable", True, "OomKillDisable discarded."),
        ("CpuPercent", 50, "linux does not support CPU percent. Percent discarded."),
    ],
)
def test_what_the_kernel_has_not_is_warned_of(door: Door, member: str, value: Any, words: str) -> None:
    answer = door.http("POST", "/containers/create", {"Image": IMAGE, "HostConfig": {member: value}})
    door.http("DELETE", f"/containers/{answer.json['Id']}")
    assert answer.status == 201
    [warning] = answer.json["Warnings"]
    assert words in warning


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"CapAdd": ["FLY"]}, 'invalid CapAdd: unknown capability: "CAP_FLY"'),
        ({"Runtime": "runc"}, "unknown or invalid runtime name: runc"),
        ({"Isolation": "hyperv"}, "Invalid isolation"),
        ({"PidMode": "mine"}, "invalid PID mode: mine"),
        ({"IpcMode": "container:"}, "invalid IPC mode: container:"),
        ({"CpuRealtimeRuntime": 1}, "Your kernel does not support CPU real-time scheduler"),
        ({"DeviceRequests": [{"Capabilities": [["gpu"]]}]}, "could not select device driver"),
        ({"DeviceCgroupRules": ["all"]}, "invalid device cgroup rule format: 'all'"),
        ({"SecurityOpt": ["seccomp={}"]}, "Decoding seccomp profile failed"),
        ({"SecurityOpt": ["x=y"]}, 'invalid --security-opt 2: "x=y"'),
        ({"StorageOpt": {"size": "x"}}, "invalid size: 'x'"),
        ({"BlkioWeight": 1}, "Range of blkio weight is from 10 to 1000"),
        ({"IOMaximumIOps": 1}, "Invalid QoS settings"),
        ({"Sysctls": {"kernel.panic": "1"}}, "is not in a separate kernel namespace"),
        ({"NetworkMode": "container:x", "PublishAllPorts": True}, "conflicting options: port publishing"),
        ({"NetworkMode": "container:x", "Dns": ["1.1.1.1"]}, "conflicting options: dns and the network mode"),
        ({"NetworkMode": "container:x", "ExtraHosts": ["a:1.1.1.1"]}, "custom host-to-IP mapping and the network mode"),
        ({"NetworkMode": "container:"}, "invalid container format container:<name|id>"),
    ],
)
def test_what_cannot_be_is_refused_in_dockerds_words(door: Door, host: dict[str, Any], words: str) -> None:
    answer = door.http("POST", "/containers/create", {"Image": IMAGE, "HostConfig": host})
    assert answer.status == 400
    assert words in answer.json["message"]
