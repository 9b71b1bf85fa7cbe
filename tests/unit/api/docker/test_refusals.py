"""Held against the API file: every member of a create body is either translated or refused; nothing is accepted and
ignored."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from tests.api import schema

from hyper.api.docker.create import container_config
from hyper.api.docker.create_body import CreateBody, EndpointSettings, HostConfig
from hyper.api.docker.go_json import decode
from hyper.engine.create import container_from
from hyper.engine.model import Container, ContainerConfig
from hyper.errors import HyperError
from hyper.images.store import Image
from hyper.oci.image_config import ContainerConfig as ImageSettings

ROOT = Path(__file__).resolve().parents[4]

# Members that ask the engine for nothing: why.
HARMLESS = {
    "HostConfig.ContainerIDFile": "the client writes that file itself",
    "Endpoint.NetworkID": "given by the engine; clients send back what inspect gave them",
    "Endpoint.EndpointID": "as above",
    "Endpoint.Gateway": "as above",
    "Endpoint.IPAddress": "as above",
    "Endpoint.IPPrefixLen": "as above",
    "Endpoint.IPv6Gateway": "as above",
    "Endpoint.GlobalIPv6Address": "as above",
    "Endpoint.GlobalIPv6PrefixLen": "as above",
    "Endpoint.DNSNames": "as above",
}

# Values where what the type says would not do.
VALUES: dict[str, Any] = {
    "Config.WorkingDir": "/x",
    "Config.ExposedPorts": {"80/tcp": {}},
    "Config.Volumes": {"/v": {}},
    "HostConfig.Binds": ["data:/v:ro"],
    "Config.MacAddress": "02:00:00:00:00:01",
    "Endpoint.MacAddress": "02:00:00:00:00:01",
    "Config.Healthcheck": {"Test": ["CMD", "true"]},
    "HostConfig.LogConfig": {"Type": "syslog", "Config": {}},
    "HostConfig.PortBindings": {"80/tcp": [{"HostPort": "8080"}]},
    "HostConfig.RestartPolicy": {"Name": "always"},
    "HostConfig.Mounts": [{"Type": "image", "Source": "x", "Target": "/x"}],
    "HostConfig.ConsoleSize": [24, 80],
    "HostConfig.ExtraHosts": ["a:1.2.3.4"],
    "HostConfig.Memory": 64 << 20,
    "HostConfig.MemorySwap": -1,
    "HostConfig.MemoryReservation": 64 << 20,
    "HostConfig.NanoCpus": 500_000_000,
    "HostConfig.CpuPeriod": 50_000,
    "HostConfig.CpuQuota": 50_000,
    "HostConfig.MemorySwappiness": 60,
    "HostConfig.Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
    "HostConfig.Isolation": "process",
    "HostConfig.CgroupnsMode": "host",
    "HostConfig.IpcMode": "shareable",
    "HostConfig.PidMode": "host",
    "HostConfig.UTSMode": "host",
    "HostConfig.UsernsMode": "host",
    "HostConfig.CpusetMems": "0",
    "HostConfig.CpusetCpus": "0",
    "HostConfig.BlkioWeight": 500,
    "HostConfig.BlkioWeightDevice": [{"Path": "/dev/sda", "Weight": 500}],
    "HostConfig.BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1024}],
    "HostConfig.BlkioDeviceWriteBps": [{"Path": "/dev/sda", "Rate": 1024}],
    "HostConfig.BlkioDeviceReadIOps": [{"Path": "/dev/sda", "Rate": 1024}],
    "HostConfig.BlkioDeviceWriteIOps": [{"Path": "/dev/sda", "Rate": 1024}],
    "HostConfig.Devices": [{"PathOnHost": "/dev/fuse"}],
    "HostConfig.DeviceCgroupRules": ["c 10:* rwm"],
    "HostConfig.DeviceRequests": [{"Count": -1, "Capabilities": [["gpu"]]}],
    "HostConfig.MaskedPaths": ["/proc/kcore"],
    "HostConfig.ReadonlyPaths": [],
    "HostConfig.StorageOpt": {"size": "1G"},
    "Config.Env": ["A=b"],
    "HostConfig.Dns": ["1.1.1.1"],
    "HostConfig.CapAdd": ["NET_ADMIN"],
    "HostConfig.CapDrop": ["CHOWN"],
    "HostConfig.Sysctls": {"net.core.somaxconn": "64"},
    "HostConfig.Tmpfs": {"/t": "size=1m"},
    "HostConfig.SecurityOpt": ["no-new-privileges"],
}


# Values that work, of members of which others do not.
WORKING: dict[str, Any] = {
    "HostConfig.LogConfig": {"Type": "json-file"},
    "HostConfig.NetworkMode": "none",
    "HostConfig.Mounts": [{"Type": "tmpfs", "Target": "/x"}],
    "HostConfig.Runtime": "hyper",
    "HostConfig.Isolation": "default",
    "Config.StopSignal": "SIGINT",
}
# What works is what there is without asking for it.
THE_DEFAULT = ("HostConfig.LogConfig", "HostConfig.Runtime", "HostConfig.Isolation")

# Refused in dockerd's words, which do not name the member.
SAID: dict[str, str] = {
    "HostConfig.DeviceRequests": 'could not select device driver "" with capabilities: [[gpu]]',
    "HostConfig.CpuRealtimePeriod": "Your kernel does not support CPU real-time scheduler",
    "HostConfig.CpuRealtimeRuntime": "Your kernel does not support CPU real-time scheduler",
    "HostConfig.IOMaximumIOps": "Invalid QoS settings: linux does not support configuration of maximum IOPs",
    "HostConfig.IOMaximumBandwidth": "Invalid QoS settings: linux does not support configuration of maximum bandwidth",
}


def members(name: str) -> dict[str, Any]:
    definition = schema.definitions()[name]
    found = dict(definition.get("properties", {}))
    for part in definition.get("allOf", ()):
        if "$ref" in part:
            found |= members(part["$ref"].rpartition("/")[2])
        found |= part.get("properties", {})
    return found


def sample(path: str, description: dict[str, Any]) -> Any:
    """Some value other than the default."""
    if path in VALUES:
        return VALUES[path]
    match description.get("type"):
        case "string":
            return "something"
        case "boolean":
            return True
        case "integer":
            return 7
        case "array":
            items = description.get("items", {})
            return ["something"] if items.get("type") == "string" else [{"Path": "/x"}]
        case _:
            return {"something": "else"}


def made(config: ContainerConfig) -> tuple[Container, tuple[str, ...]]:
    """What the engine makes of it, with an image that says nothing but a command."""
    image = SimpleNamespace(id="sha256:1", config=SimpleNamespace(container_config=ImageSettings(cmd=["sh"])))
    return container_from(
        config,
        cast(Image, image),
        container_id="a" * 64,
        name="one",
        log_path="/log",
        network_ids={"bridge": "b", "none": "n"},
    )


def body_with(path: str, value: Any) -> dict[str, Any]:
    section, member = path.split(".")
    body: dict[str, Any] = {"Image": "busybox"}
    if section == "Config":
        body[member] = value
    elif section == "HostConfig":
        body["HostConfig"] = {member: value}
    else:
        body["NetworkingConfig"] = {"EndpointsConfig": {"bridge": {member: value}}}
    return body


CASES = [
    *((f"Config.{name}", description) for name, description in members("ContainerConfig").items()),
    *((f"HostConfig.{name}", description) for name, description in members("HostConfig").items()),
    *((f"Endpoint.{name}", description) for name, description in members("EndpointSettings").items()),
]


@pytest.mark.parametrize(("path", "description"), CASES, ids=[path for path, _ in CASES])
def test_every_member_of_a_create_body_is_translated_or_refused(path: str, description: dict[str, Any]) -> None:
    plain = container_config(decode(b'{"Image": "busybox"}', CreateBody), (1, 50))
    body = msgspec.json.encode(body_with(path, sample(path, description)))
    try:
        asked = container_config(decode(body, CreateBody), (1, 50))
    except HyperError as error:
        assert error.message == SAID.get(path, error.message)
        assert path.split(".")[1].lower() in error.message.lower() or path in SAID or not path.startswith("Endpoint")
        return
    assert path not in SAID
    if path in HARMLESS:
        assert asked == plain
    else:
        assert asked != plain, f"{path} is accepted and ignored"


def test_the_structs_know_every_member_of_the_api_file() -> None:
    for struct, name in (
        (CreateBody, "ContainerConfig"),
        (HostConfig, "HostConfig"),
        (EndpointSettings, "EndpointSettings"),
    ):
        missing = set(members(name)) - set(struct.__struct_encode_fields__)
        assert not missing, f"{name}: {missing}"


def test_a_member_in_another_case_is_not_taken_for_an_unknown_one() -> None:
    config = container_config(decode(b'{"image": "busybox", "hostconfig": {"MEMORY": 67108864}}', CreateBody), (1, 50))
    assert config.memory_bytes == 64 << 20


def compatibility_table() -> dict[str, str]:
    """What docs/docker-compat.md says of each member."""
    text = (ROOT / "docs/docker-compat.md").read_text()
    rows = re.findall(
        r"^\| `((?:Config|HostConfig|NetworkingConfig\.EndpointsConfig)\.\w+)` \| ([\w ]+) \|", text, re.M
    )
    names = [name.replace("NetworkingConfig.EndpointsConfig", "Endpoint") for name, _ in rows]
    assert len(set(names)) == len(names), "a member is told of twice"
    return dict(zip(names, (status for _, status in rows), strict=True))


def test_the_documentation_tells_of_every_member_and_of_no_other() -> None:
    assert set(compatibility_table()) == {path for path, _ in CASES}


@pytest.mark.parametrize(("path", "description"), CASES, ids=[path for path, _ in CASES])
def test_what_the_documentation_says_of_a_member_is_so(path: str, description: dict[str, Any]) -> None:
    status = compatibility_table()[path]
    body = decode(msgspec.json.encode(body_with(path, WORKING.get(path, sample(path, description)))), CreateBody)
    if status in ("refused", "not yet"):
        with pytest.raises(HyperError):
            made(container_config(body, (1, 50)))
        return
    container, warnings = made(container_config(body, (1, 50)))
    plain, _ = made(container_config(decode(b'{"Image": "busybox"}', CreateBody), (1, 50)))
    assert bool(warnings) is (status == "warned")
    changed = container.config != plain.config or path in THE_DEFAULT
    assert changed is (status in ("works", "differs")), f"{path} is accepted and ignored"
