"""Held against the API file: every member of a create body is either translated or refused; nothing is accepted and
ignored."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.api import schema

from hyper.api.docker.create import container_config
from hyper.api.docker.create_body import CreateBody, EndpointSettings, HostConfig
from hyper.api.docker.go_json import decode
from hyper.errors import HyperError

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
    "Config.MacAddress": "02:00:00:00:00:01",
    "Endpoint.MacAddress": "02:00:00:00:00:01",
    "Config.Healthcheck": {"Test": ["CMD", "true"]},
    "HostConfig.LogConfig": {"Type": "syslog", "Config": {}},
    "HostConfig.PortBindings": {"80/tcp": [{"HostPort": "8080"}]},
    "HostConfig.RestartPolicy": {"Name": "always"},
    "HostConfig.Mounts": [{"Type": "bind", "Source": "/", "Target": "/x"}],
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
        assert path.split(".")[1].lower() in error.message.lower() or not path.startswith("Endpoint")
        return
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
