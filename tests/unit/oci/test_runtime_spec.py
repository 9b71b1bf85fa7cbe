"""The runtime spec that a container gets, with Docker's defaults."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from hyper.errors import InvalidArgument, Unsupported
from hyper.oci import capabilities, seccomp_profile
from hyper.oci.runtime_spec import (
    ContainerRequest,
    Device,
    DiskLimits,
    ProcessRequest,
    Resources,
    Ulimit,
    container_spec,
    process_spec,
    resources,
)

PROCESS = ProcessRequest(args=["true"])


def spec(process: ProcessRequest = PROCESS, **more: Any) -> dict[str, Any]:
    made = container_spec(ContainerRequest(process, **more), machine="x86_64")
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]  # it must survive JSON


def mount(made: dict[str, Any], destination: str) -> dict[str, Any]:
    (found,) = [entry for entry in made["mounts"] if entry["destination"] == destination]
    return found  # type: ignore[no-any-return]


def allowed(profile: dict[str, Any]) -> set[str]:
    return {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}


def test_the_sandbox_keeps_network_ipc_and_uts() -> None:
    assert [entry["type"] for entry in spec()["linux"]["namespaces"]] == ["pid", "mount", "cgroup"]


def test_there_are_fourteen_capabilities_and_none_is_inherited() -> None:
    sets = spec()["process"]["capabilities"]
    assert set(sets["bounding"]) == set(sets["effective"]) == set(sets["permitted"]) == capabilities.DEFAULT
    assert len(capabilities.DEFAULT) == 14
    assert sets["inheritable"] == sets["ambient"] == []


@pytest.mark.parametrize(
    ("add", "drop", "has", "lacks"),
    [
        (["NET_ADMIN"], [], {"CAP_NET_ADMIN", "CAP_CHOWN"}, {"CAP_SYS_ADMIN"}),
        (["cap_net_admin"], ["chown"], {"CAP_NET_ADMIN"}, {"CAP_CHOWN"}),
        ([], ["ALL"], set(), {"CAP_CHOWN", "CAP_KILL"}),
        (["KILL"], ["ALL"], {"CAP_KILL"}, {"CAP_CHOWN"}),
        (["ALL"], ["SYS_ADMIN"], {"CAP_BPF"}, {"CAP_SYS_ADMIN"}),
    ],
)
def test_capabilities_are_added_and_dropped(add: list[str], drop: list[str], has: set[str], lacks: set[str]) -> None:
    got = set(capabilities.effective(add, drop))
    assert has <= got
    assert not lacks & got


def test_an_unknown_capability_is_named() -> None:
    with pytest.raises(InvalidArgument, match='unknown capability: "CAP_FLY"'):
        capabilities.effective(["FLY"])


def test_a_privileged_container_has_everything() -> None:
    made = spec(replace(PROCESS, privileged=True, capabilities_drop=["ALL"]))
    assert made["process"]["capabilities"]["effective"] == list(capabilities.ALL)
    assert "seccomp" not in made["linux"]
    assert made["linux"]["maskedPaths"] == made["linux"]["readonlyPaths"] == []
    assert "rw" in mount(made, "/sys")["options"]
    assert made["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]


def test_an_ordinary_container_does_not() -> None:
    made = spec()
    assert "/proc/kcore" in made["linux"]["maskedPaths"]
    assert "/proc/sys" in made["linux"]["readonlyPaths"]
    assert "ro" in mount(made, "/sys")["options"]
    assert made["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert made["root"]["readonly"] is False


def test_seccomp_denies_by_default_and_follows_capabilities() -> None:
    profile = spec()["linux"]["seccomp"]
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    open_calls = allowed(profile)
    assert {"read", "clone", "socket", "ptrace", "arch_prctl", "chroot"} <= open_calls
    assert not {"mount", "kexec_load", "reboot", "bpf", "unshare", "io_uring_setup", "add_key", "clone3"} & open_calls
    admin = seccomp_profile.default_profile({"CAP_SYS_ADMIN"}, "x86_64")
    assert {"mount", "unshare", "clone3"} <= allowed(admin)
    assert all(rule["action"] == "SCMP_ACT_ALLOW" for rule in admin["syscalls"])


def test_clone3_is_absent_rather_than_forbidden() -> None:
    (rule,) = [rule for rule in spec()["linux"]["seccomp"]["syscalls"] if "clone3" in rule["names"]]
    assert (rule["action"], rule["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)


def test_clone_may_make_no_namespace() -> None:
    (rule,) = [rule for rule in spec()["linux"]["seccomp"]["syscalls"] if rule["names"] == ["clone"]]
    assert rule["args"] == [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]


def test_the_profile_is_for_the_machine() -> None:
    profile = seccomp_profile.default_profile((), "aarch64")
    assert profile["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert "arch_prctl" not in allowed(profile)


def test_seccomp_can_be_another_or_none() -> None:
    assert "seccomp" not in spec(seccomp={})["linux"]
    assert spec(seccomp={"defaultAction": "SCMP_ACT_ALLOW"})["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ALLOW"


def test_limits_are_ocis() -> None:
    made = resources(Resources(memory_bytes=1 << 30, memory_swap_bytes=-1, cpus=1.5, cpu_shares=512, pids=100))
    assert made == {
        "memory": {"limit": 1 << 30, "swap": -1},
        "cpu": {"shares": 512, "quota": 150_000, "period": 100_000},
        "pids": {"limit": 100},
    }
    assert resources(Resources()) == {}


def test_cpus_and_a_quota_contradict_each_other() -> None:
    with pytest.raises(InvalidArgument, match="cannot be combined"):
        resources(Resources(cpus=1, cpu_quota_us=5))


def test_tmpfs_options_are_checked_and_come_last() -> None:
    made = spec(tmpfs={"/run": "size=64m,exec", "/dev/shm": ""})
    assert mount(made, "/run")["options"] == ["noexec", "nosuid", "nodev", "size=64m", "exec"]
    assert mount(made, "/dev/shm")["type"] == "tmpfs"
    for wrong in ({"/x": "size=lots"}, {"x": ""}, {"/": ""}, {"/x": "lowerdir=/"}):
        with pytest.raises(InvalidArgument):
            spec(tmpfs=wrong)


def test_shm_has_its_size() -> None:
    assert "size=1048576" in mount(spec(shm_size_bytes=1 << 20), "/dev/shm")["options"]


def test_ulimits_are_named_as_the_kernel_does() -> None:
    made = process_spec(replace(PROCESS, ulimits=[Ulimit("nofile", 1024, -1)]))
    assert made["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 2**64 - 1}]
    for wrong in (Ulimit("nofish", 1, 1), Ulimit("nofile", 2, 1), Ulimit("nofile", -1, 5)):
        with pytest.raises(InvalidArgument):
            process_spec(replace(PROCESS, ulimits=[wrong]))


@pytest.mark.parametrize(
    "process",
    [
        ProcessRequest(args=[]),
        ProcessRequest(args=[""]),
        ProcessRequest(args=["a\0b"]),
        ProcessRequest(args=["a"], env=["A=\0"]),
        ProcessRequest(args=["a"], cwd="relative"),
    ],
)
def test_what_cannot_be_run_is_refused(process: ProcessRequest) -> None:
    with pytest.raises(InvalidArgument):
        process_spec(process)


def test_the_user_is_looked_up_in_the_image() -> None:
    user = spec(replace(PROCESS, user="www-data:adm", groups=["5", "audio"]))["process"]["user"]
    assert user == {"uid": 0, "gid": 0, "username": "www-data:adm", "additionalGroups": ["5", "audio"]}


def test_the_rest_is_where_the_runtime_spec_has_it() -> None:
    process = replace(PROCESS, terminal=True, console_size=(24, 80), no_new_privileges=True, env=["A=1"], cwd="/tmp")
    made = spec(process, hostname="h", readonly_rootfs=True, sysctls={"net.core.somaxconn": "5"})
    assert made["process"]["consoleSize"] == {"height": 24, "width": 80}
    assert made["process"]["noNewPrivileges"] and made["process"]["terminal"]
    assert (made["hostname"], made["root"]["readonly"]) == ("h", True)
    assert made["linux"]["sysctl"] == {"net.core.somaxconn": "5"}


def test_init_says_that_it_is_not_there() -> None:
    with pytest.raises(Unsupported, match="--init"):
        spec(init=True)


def test_what_is_shared_with_the_sandbox_has_no_namespace() -> None:
    made = spec(namespaces={"mount": "", "pid": "/proc/7/ns/pid"})
    assert made["linux"]["namespaces"] == [{"type": "mount"}, {"type": "pid", "path": "/proc/7/ns/pid"}]


def test_devices_have_a_source_in_the_sandbox_and_rules_come_behind_the_default_ones() -> None:
    made = spec(devices=[Device("/dev/fuse", "/dev/mine", "rw")], device_rules=["c 10:* rm", "a *:* w"])
    assert made["linux"]["devices"] == [{"source": "/dev/fuse", "path": "/dev/mine", "access": "rw"}]
    assert made["linux"]["resources"]["devices"][-2:] == [
        {"allow": True, "type": "c", "major": 10, "access": "rm"},
        {"allow": True, "type": "a", "access": "w"},
    ]


def test_a_privileged_container_has_all_devices_and_nothing_is_masked_unless_asked_for() -> None:
    made = spec(replace(PROCESS, privileged=True))
    assert made["linux"]["devices"] == [{"source": "/dev", "path": "/dev", "access": "rwm"}]
    assert made["linux"]["maskedPaths"] == made["linux"]["readonlyPaths"] == []
    assert spec(replace(PROCESS, privileged=True), masked_paths=["/x"])["linux"]["maskedPaths"] == ["/x"]


def test_without_ipc_there_is_no_shm() -> None:
    assert not [entry for entry in spec(shm_size_bytes=None)["mounts"] if entry["destination"] == "/dev/shm"]


def test_limits_of_disks_name_no_device() -> None:
    limits = DiskLimits(read_bytes=1, write_bytes=2, read_operations=3, write_operations=4)
    assert resources(Resources(disks=limits)) == {
        "blockIO": {
            "throttleReadBpsDevice": [{"rate": 1}],
            "throttleWriteBpsDevice": [{"rate": 2}],
            "throttleReadIOPSDevice": [{"rate": 3}],
            "throttleWriteIOPSDevice": [{"rate": 4}],
        }
    }
