"""Create bodies: what real clients send, and what is wrong in Docker's words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hyper.api.docker.create import container_config
from hyper.api.docker.create_body import CreateBody
from hyper.api.docker.go_json import decode
from hyper.api.docker.versions import Version
from hyper.engine.model import ContainerConfig, DeviceMapping, HealthCheck, PortRequest
from hyper.errors import InvalidArgument, Unsupported

# What docker CLI 28.2.2 sends for `docker run --rm busybox true`.
CLI_BODY = (
    b'{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":true,"AttachStderr":true,"Tty":false,'
    b'"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":["true"],"Image":"busybox","Volumes":{},"WorkingDir":"",'
    b'"Entrypoint":null,"OnBuild":null,"Labels":{},"HostConfig":{"Binds":null,"ContainerIDFile":"","LogConfig":{"Type":"",'
    b'"Config":{}},"NetworkMode":"default","PortBindings":{},"RestartPolicy":{"Name":"no","MaximumRetryCount":0},'
    b'"AutoRemove":true,"VolumeDriver":"","VolumesFrom":null,"ConsoleSize":[0,0],"CapAdd":null,"CapDrop":null,'
    b'"CgroupnsMode":"","Dns":[],"DnsOptions":[],"DnsSearch":[],"ExtraHosts":null,"GroupAdd":null,"IpcMode":"","Cgroup":"",'
    b'"Links":null,"OomScoreAdj":0,"PidMode":"","Privileged":false,"PublishAllPorts":false,"ReadonlyRootfs":false,'
    b'"SecurityOpt":null,"UTSMode":"","UsernsMode":"","ShmSize":0,"Isolation":"","CpuShares":0,"Memory":0,"NanoCpus":0,'
    b'"CgroupParent":"","BlkioWeight":0,"BlkioWeightDevice":[],"BlkioDeviceReadBps":[],"BlkioDeviceWriteBps":[],'
    b'"BlkioDeviceReadIOps":[],"BlkioDeviceWriteIOps":[],"CpuPeriod":0,"CpuQuota":0,"CpuRealtimePeriod":0,'
    b'"CpuRealtimeRuntime":0,"CpusetCpus":"","CpusetMems":"","Devices":[],"DeviceCgroupRules":null,"DeviceRequests":null,'
    b'"MemoryReservation":0,"MemorySwap":0,"MemorySwappiness":-1,"OomKillDisable":false,"PidsLimit":0,"Ulimits":[],'
    b'"CpuCount":0,"CpuPercent":0,"IOMaximumIOps":0,"IOMaximumBandwidth":0,"MaskedPaths":null,"ReadonlyPaths":null},'
    b'"NetworkingConfig":{"EndpointsConfig":{"default":{"IPAMConfig":null,"Links":null,"Aliases":null,"MacAddress":"",'
    b'"NetworkID":"","EndpointID":"","Gateway":"","IPAddress":"","IPPrefixLen":0,"IPv6Gateway":"","GlobalIPv6Address":"",'
    b'"GlobalIPv6PrefixLen":0,"DriverOpts":null,"DNSNames":null}}}}'
)


def translate(body: dict[str, Any] | bytes, version: Version = (1, 50)) -> ContainerConfig:
    data = body if isinstance(body, bytes) else msgspec.json.encode({"Image": "busybox", **body})
    return container_config(decode(data, CreateBody), version)


def test_what_the_docker_cli_sends_is_a_plain_container() -> None:
    assert translate(CLI_BODY) == ContainerConfig(
        image="busybox", command=("true",), attach_stdout=True, attach_stderr=True, auto_remove=True
    )


def test_a_string_command_is_one_word() -> None:
    config = translate({"Cmd": "ls -l", "Entrypoint": "sh"})
    assert (config.command, config.entrypoint) == (("ls -l",), ("sh",))


def test_an_empty_entrypoint_differs_from_none() -> None:
    assert translate({"Entrypoint": [""]}).entrypoint == ("",)
    assert translate({"Entrypoint": []}).entrypoint == ()
    assert translate({"Entrypoint": None}).entrypoint is None


def test_ports_are_requested_and_exposed() -> None:
    bindings = {
        "80": [{"HostPort": "8080", "HostIp": "127.0.0.1"}],
        "53/udp": [{"HostPort": "5000-5010"}],
        "9/tcp": None,
    }
    config = translate({"ExposedPorts": {"443/TCP": {}}, "HostConfig": {"PortBindings": bindings}})
    assert config.ports == (
        PortRequest(container_port=80, host_ip="127.0.0.1", host_port=8080),
        PortRequest(container_port=53, protocol="udp", host_port=5000, host_port_end=5010),
        PortRequest(container_port=9),
    )
    assert config.exposed_ports == ("443/tcp", "80/tcp", "53/udp", "9/tcp")


def test_a_tmpfs_mount_is_a_tmpfs() -> None:
    mount = {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1024, "Mode": 0o700}, "ReadOnly": True}
    assert translate({"HostConfig": {"Mounts": [mount]}}).tmpfs == {"/t": "ro,size=1024,mode=700"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"Image": ""}, "no image specified"),
        ({"WorkingDir": "x"}, "the working directory 'x' is invalid, it needs to be an absolute path"),
        ({"Env": ["=x"]}, "invalid environment variable: =x"),
        ({"Hostname": "a b"}, "invalid hostname format: a b"),
        ({"HostConfig": {"Memory": 1024}}, "Minimum memory limit allowed is 6MB"),
        ({"HostConfig": {"Memory": -1}}, "invalid memory limit"),
        ({"HostConfig": {"Memory": 8 << 20, "MemorySwap": 7 << 20}}, "Minimum memoryswap limit should be larger"),
        ({"HostConfig": {"MemorySwap": 7 << 20}}, "You should always set the Memory limit when using Memoryswap limit"),
        ({"HostConfig": {"NanoCpus": 10**15}}, "range of CPUs is from 0.01 to"),
        ({"HostConfig": {"NanoCpus": 10**9, "CpuQuota": 5000}}, "Conflicting options: Nano CPUs and CPU Quota"),
        ({"HostConfig": {"CpuPeriod": 1}}, "CPU cfs period can not be less than 1ms"),
        ({"HostConfig": {"ShmSize": -1}}, "SHM size can not be less than 0"),
        ({"HostConfig": {"OomScoreAdj": 1001}}, "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
        ({"HostConfig": {"RestartPolicy": {"Name": "maybe"}}}, "invalid restart policy: unknown policy 'maybe'"),
        (
            {"HostConfig": {"RestartPolicy": {"Name": "always"}, "AutoRemove": True}},
            "can't create 'AutoRemove' container with restart policy",
        ),
        ({"HostConfig": {"PidMode": "private"}}, "invalid PID mode: private"),
        ({"HostConfig": {"PidMode": "container:"}}, "invalid PID mode: container:"),
        ({"HostConfig": {"IpcMode": "mine"}}, "invalid IPC mode: mine"),
        ({"HostConfig": {"UTSMode": "private"}}, "invalid UTS mode: private"),
        ({"HostConfig": {"CgroupnsMode": "x"}}, "invalid cgroup namespace mode: x"),
        ({"HostConfig": {"UsernsMode": "x"}}, "invalid user namespace mode: x"),
        ({"Hostname": "h", "HostConfig": {"UTSMode": "host"}}, "conflicting options: hostname and the UTS mode"),
        ({"HostConfig": {"Isolation": "hyperv"}}, "Invalid isolation: \"hyperv\" - linux only supports 'default'"),
        ({"HostConfig": {"Runtime": "runc"}}, "unknown or invalid runtime name: runc"),
        ({"HostConfig": {"CapAdd": ["MOON"]}}, 'invalid CapAdd: unknown capability: "CAP_MOON"'),
        ({"HostConfig": {"CapDrop": ["cap_moon"]}}, 'invalid CapDrop: unknown capability: "CAP_MOON"'),
        ({"HostConfig": {"DeviceCgroupRules": ["x 1:1 r"]}}, "invalid device cgroup rule format: 'x 1:1 r'"),
        ({"HostConfig": {"Devices": [{"PathOnHost": "sda"}]}}, "invalid device: 'sda' must be an absolute path"),
        ({"HostConfig": {"Devices": [{"PathOnHost": "/a", "CgroupPermissions": "x"}]}}, "invalid mode for device /a"),
        (
            {"HostConfig": {"DeviceRequests": [{"Driver": "nvidia", "Capabilities": [["gpu", "utility"], ["x"]]}]}},
            'could not select device driver "nvidia" with capabilities: [[gpu utility] [x]]',
        ),
        ({"HostConfig": {"MaskedPaths": ["proc"]}}, "invalid MaskedPaths: 'proc' must be an absolute path"),
        ({"HostConfig": {"MemorySwappiness": 101}}, "Invalid value: 101, valid memory swappiness range is 0-100"),
        ({"HostConfig": {"BlkioWeight": 5}}, "Range of blkio weight is from 10 to 1000"),
        (
            {"HostConfig": {"CpusetMems": "0-1"}},
            "Requested memory nodes are not available - requested 0-1, available: 0",
        ),
        ({"HostConfig": {"CpusetMems": "x"}}, "Invalid value x for cpuset mems"),
        ({"HostConfig": {"GroupAdd": ["a:b"]}}, "Unable to find group a:b: no matching entries in group file"),
        ({"HostConfig": {"Annotations": {"": "x"}}}, "the empty string is not permitted as an annotation key"),
        ({"HostConfig": {"PortBindings": {"0/tcp": []}}}, "invalid port specification"),
        ({"HostConfig": {"PortBindings": {"80/xyz": []}}}, "invalid proto: xyz"),
        ({"HostConfig": {"PortBindings": {"80": [{"HostPort": "70000"}]}}}, "invalid port specification"),
        ({"HostConfig": {"PortBindings": {"80": [{"HostIp": "nowhere"}]}}}, "invalid IP address: nowhere"),
        ({"HostConfig": {"Memory": "64m"}}, "Expected `int`, got `str` - at `$.HostConfig.Memory`"),
        ({"HostConfig": {"Memory": 2**70}}, "invalid JSON"),
        (b"{", "invalid JSON"),
        (b"[]", "invalid JSON"),
        (b'{"Image": "\xff"}', "invalid JSON"),
        (b"[" * 100_000, "invalid JSON"),
    ],
)
def test_what_is_wrong_is_said_in_dockers_words(body: dict[str, Any] | bytes, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        translate(body)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("body", "member"),
    [
        ({"HostConfig": {"CgroupParent": "/mine"}}, "HostConfig.CgroupParent"),
        ({"HostConfig": {"KernelMemoryTCP": 7}}, "HostConfig.KernelMemoryTCP"),
        ({"NetworkingConfig": {"EndpointsConfig": {"mine": {}}}}, "NetworkingConfig.EndpointsConfig.mine"),
        ({"NetworkingConfig": {"EndpointsConfig": {"bridge": {"Aliases": ["a"]}}}}, "EndpointsConfig.bridge.Aliases"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(body: dict[str, Any], member: str) -> None:
    with pytest.raises(Unsupported) as caught:
        translate(body)
    assert member in caught.value.message
    assert "cannot be honoured" in caught.value.message


def test_a_network_that_is_disabled_is_none() -> None:
    assert translate({"NetworkDisabled": True}).network_mode == "none"


def test_devices_are_where_they_are_in_the_sandbox_unless_it_says_otherwise() -> None:
    given = [{"PathOnHost": "/dev/fuse"}, {"PathOnHost": "/dev/a", "PathInContainer": "/b", "CgroupPermissions": "r"}]
    assert translate({"HostConfig": {"Devices": given}}).devices == (
        DeviceMapping(source="/dev/fuse", path="/dev/fuse", permissions="rwm"),
        DeviceMapping(source="/dev/a", path="/b", permissions="r"),
    )


def test_health_checks() -> None:
    asked = {"Test": ["CMD", "a"], "Interval": 10**9, "StartInterval": 10**9, "Retries": 2}
    made = translate({"Healthcheck": asked}).health_check
    assert made == HealthCheck(test=("CMD", "a"), interval_ns=10**9, start_interval_ns=10**9, retries=2)
    older = translate({"Healthcheck": asked}, (1, 43)).health_check
    assert older is not None and older.start_interval_ns == 0
    assert translate({"Healthcheck": {}}).health_check is None
    assert translate({"Healthcheck": {"Test": ["NONE"]}}).health_check == HealthCheck(test=("NONE",))
