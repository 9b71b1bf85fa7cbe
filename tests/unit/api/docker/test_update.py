"""Update bodies: what they change, what is wrong in them, and that nothing in one is accepted and ignored."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest
from tests.unit.api.docker.test_refusals import VALUES, members, sample

from hyper.api.docker.go_json import decode
from hyper.api.docker.update import UpdateBody, container_update
from hyper.engine.model import ContainerUpdate, RestartPolicy
from hyper.errors import HyperError, InvalidArgument, Unsupported

# What docker CLI 28.2.2 sends for `docker update --pids-limit 5 NAME`.
CLI_BODY = (
    b'{"CpuShares":0,"Memory":0,"NanoCpus":0,"CgroupParent":"","BlkioWeight":0,"BlkioWeightDevice":null,'
    b'"BlkioDeviceReadBps":null,"BlkioDeviceWriteBps":null,"BlkioDeviceReadIOps":null,"BlkioDeviceWriteIOps":null,'
    b'"CpuPeriod":0,"CpuQuota":0,"CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,"CpusetCpus":"","CpusetMems":"",'
    b'"Devices":null,"DeviceCgroupRules":null,"DeviceRequests":null,"MemoryReservation":0,"MemorySwap":0,'
    b'"MemorySwappiness":null,"OomKillDisable":null,"PidsLimit":5,"Ulimits":null,"CpuCount":0,"CpuPercent":0,'
    b'"IOMaximumIOps":0,"IOMaximumBandwidth":0,"RestartPolicy":{"Name":"","MaximumRetryCount":0}}'
)


def translate(body: dict[str, Any] | bytes, version: tuple[int, int] = (1, 50)) -> ContainerUpdate:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return container_update(decode(data, UpdateBody), version)


def test_what_the_docker_cli_sends_changes_one_thing() -> None:
    assert translate(CLI_BODY) == ContainerUpdate(pids_limit=5)


def test_zero_and_nothing_leave_a_limit_as_it_is() -> None:
    assert translate({}) == ContainerUpdate()
    assert translate({"Memory": 0, "CpusetCpus": "", "RestartPolicy": {"Name": ""}}) == ContainerUpdate()


@pytest.mark.parametrize("unlimited", [0, -1, -7])
def test_no_limit_of_processes_is_a_value(unlimited: int) -> None:
    assert translate({"PidsLimit": unlimited}).pids_limit == 0
    assert translate({"PidsLimit": unlimited}, (1, 39)).pids_limit is None  # it had no such member


def test_every_limit_arrives() -> None:
    body = {"Memory": 64 << 20, "MemorySwap": -1, "MemoryReservation": 6 << 20, "CpuShares": 2, "CpusetCpus": "0"}
    assert translate({**body, "CpuPeriod": 1000, "CpuQuota": -1}) == ContainerUpdate(
        memory_bytes=64 << 20,
        memory_swap_bytes=-1,
        memory_reservation_bytes=6 << 20,
        cpu_shares=2,
        cpuset_cpus="0",
        cpu_period_us=1000,
        cpu_quota_us=-1,
    )
    assert translate({"RestartPolicy": {"Name": "no"}}).restart_policy == RestartPolicy()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"Memory": 1024}, "Minimum memory limit allowed is 6MB"),
        ({"Memory": -1}, "invalid memory limit"),
        ({"Memory": 8 << 20, "MemorySwap": 7 << 20}, "Minimum memoryswap limit should be larger than memory limit"),
        ({"MemorySwap": -2}, "invalid memoryswap limit"),
        ({"MemoryReservation": 1024}, "Minimum memory reservation allowed is 6MB"),
        ({"Memory": 8 << 20, "MemoryReservation": 9 << 20}, "Minimum memory limit can not be less than memory res"),
        ({"NanoCpus": 10**9, "CpuQuota": 5000}, "Conflicting options: Nano CPUs and CPU Quota cannot both be set"),
        ({"NanoCpus": 10**9, "CpuPeriod": 5000}, "Conflicting options: Nano CPUs and CPU Period cannot both be set"),
        ({"NanoCpus": 10**15}, f"range of CPUs is from 0.01 to {os.cpu_count()}.00, as there are only"),
        ({"NanoCpus": 1}, "range of CPUs is from 0.01"),
        ({"CpuPeriod": 1}, "CPU cfs period can not be less than 1ms"),
        ({"CpuQuota": 1}, "CPU cfs quota can not be less than 1ms"),
        ({"CpuShares": -1}, "invalid CPU shares"),
        ({"CpusetCpus": "one"}, "Invalid value one for cpuset cpus"),
        ({"CpusetCpus": "0-99999"}, "Requested CPUs are not available - requested 0-99999, available: 0"),
        ({"RestartPolicy": {"Name": "maybe"}}, "invalid restart policy: unknown policy 'maybe'"),
        ({"RestartPolicy": {"Name": "always", "MaximumRetryCount": 1}}, "maximum retry count can only be used with"),
        ({"PidsLimit": "many"}, "invalid JSON"),
        (b"[]", "invalid JSON"),
    ],
)
def test_what_is_wrong_is_said_in_dockers_words(body: dict[str, Any] | bytes, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        translate(body)
    assert message in caught.value.message


@pytest.mark.parametrize("member", ["Ulimits", "Init", "OomKillDisable", "BlkioWeight", "MemorySwappiness"])
def test_what_cannot_be_changed_is_refused_by_name(member: str) -> None:
    with pytest.raises(Unsupported, match=f"^{member} cannot be honoured: "):
        translate({member: sample(f"HostConfig.{member}", members("Resources")[member])})


CASES = [*members("Resources").items(), ("RestartPolicy", {})]


@pytest.mark.parametrize(("member", "description"), CASES, ids=[name for name, _ in CASES])
def test_every_member_of_an_update_body_is_translated_or_refused(member: str, description: dict[str, Any]) -> None:
    value = VALUES.get(f"HostConfig.{member}", sample(f"HostConfig.{member}", description))
    try:
        changes = translate({member: value})
    except HyperError as error:
        assert member.lower() in error.message.lower() or isinstance(error, InvalidArgument)
        return
    assert changes != ContainerUpdate(), f"{member} is accepted and ignored"


def test_the_struct_knows_every_member_of_the_api_file() -> None:
    assert not {*members("Resources"), "RestartPolicy"} - set(UpdateBody.__struct_encode_fields__)
