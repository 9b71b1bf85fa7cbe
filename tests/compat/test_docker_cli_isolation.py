"""How far a container is set apart, with the real docker CLI and real VMs: privileges, devices, namespaces, limits."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.hyperd import Hyperd, needs_docker_cli

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("cli")]


@pytest.fixture(scope="module")
def cli() -> None:
    needs_docker_cli()


def run(hyperd: Hyperd, *arguments: str) -> str:
    """What a script in a busybox prints; the last argument is the script."""
    *flags, script = arguments
    return hyperd.door.out("run", "--rm", "--network", "none", *flags, "busybox", "sh", "-c", script)


def refused(hyperd: Hyperd, *arguments: str, command: str = "true") -> str:
    """What is said to a ``docker run`` that cannot be."""
    result = hyperd.door.docker("run", "--rm", *arguments, "busybox", command, check=False)
    assert result.returncode in (125, 126, 127), result
    return result.stderr.decode()


def capabilities(hyperd: Hyperd, *flags: str) -> int:
    return int(run(hyperd, *flags, "grep CapEff /proc/self/status").split()[1], 16)


def test_privileged_has_all_capabilities_devices_and_paths_and_no_filter(hyperd: Hyperd) -> None:
    script = (
        "grep -E 'CapEff|Seccomp:' /proc/self/status; ls /dev; mount | grep -c ' on /proc/'; "
        "mkdir /m && mount -t tmpfs x /m && echo mounted; echo 1 > /proc/sys/vm/swappiness && echo written"
    )
    words = run(hyperd, "--privileged", script).split()
    assert words[1] == "000001ffffffffff"
    assert words[3] == "0"
    assert {"mounted", "written", "fuse", "loop-control", "kmsg", "null", "tty"} <= set(words)
    assert "0" in words


def test_all_devices_of_a_privileged_container_can_be_opened(hyperd: Hyperd) -> None:
    script = "for d in /dev/sd?; do dd if=$d of=/dev/null bs=512 count=1 2>/dev/null && echo $d; done; ls /dev/net"
    assert "/dev/sda" in run(hyperd, "--privileged", script)
    plain = run(hyperd, "ls /dev; mknod /tmp/d b 8 0 && cat /tmp/d > /dev/null; true")
    assert "sda" not in plain


@pytest.mark.parametrize(
    ("flags", "has", "lacks"),
    [
        (("--cap-add", "NET_ADMIN"), (12, 0), (21,)),
        (("--cap-add", "cap_sys_time", "--cap-drop", "CAP_CHOWN"), (25,), (0,)),
        (("--cap-drop", "ALL"), (), (0, 5, 12, 21)),
        (("--cap-drop=ALL", "--cap-add=KILL"), (5,), (0, 12)),
        (("--cap-add", "ALL"), (0, 21, 39), ()),
    ],
)
def test_capabilities(hyperd: Hyperd, flags: tuple[str, ...], has: tuple[int, ...], lacks: tuple[int, ...]) -> None:
    sets = capabilities(hyperd, *flags)
    assert all(sets >> bit & 1 for bit in has)
    assert not any(sets >> bit & 1 for bit in lacks)


def test_a_seccomp_profile_of_ones_own_holds(hyperd: Hyperd, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    script = "mkdir /x 2>&1; grep Seccomp: /proc/self/status"
    out = run(hyperd, "--security-opt", f"seccomp={profile}", script)
    assert "Function not implemented" in out and out.split()[-1] == "2"
    assert run(hyperd, "--security-opt", "seccomp=unconfined", script).split()[-1] == "0"
    assert run(hyperd, "--security-opt", "no-new-privileges", "grep NoNewPrivs /proc/self/status").split()[1] == "1"


def test_a_profile_that_is_none_and_unknown_options_are_refused(hyperd: Hyperd) -> None:
    assert "invalid --security-opt 2" in refused(hyperd, "--security-opt", "what=ever")
    answer = hyperd.door.http(
        "POST", "/containers/create", {"Image": "busybox", "HostConfig": {"SecurityOpt": ["seccomp={}"]}}
    )
    assert answer.status == 400 and "Decoding seccomp profile failed" in answer.json["message"]


def test_unmasked_system_paths(hyperd: Hyperd) -> None:
    script = "cat /proc/interrupts | head -1 | wc -w; (echo 1 > /proc/sys/vm/swappiness) 2>/dev/null && echo written"
    assert run(hyperd, script + "; true") == "0"
    assert run(hyperd, "--security-opt", "systempaths=unconfined", script).split()[1:] == ["written"]


def test_paths_of_ones_own_are_masked(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        paths = {"MaskedPaths": ["/proc/uptime", "/etc"], "ReadonlyPaths": ["/bin"]}
        command = ["sh", "-c", "cat /proc/uptime; ls /etc; touch /bin/x; echo end"]
        body = {"Image": "busybox", "Cmd": command, "HostConfig": {"NetworkMode": "none", **paths}}
        assert door.http("POST", f"/containers/create?name={name}", body).status == 201
        said = door.docker("start", "-a", name)
        assert said.stdout == b"end\n" and b"Read-only file system" in said.stderr
        shown = door.http("GET", f"/containers/{name}/json").json["HostConfig"]
        assert {key: shown[key] for key in paths} == paths


def test_a_device_of_the_vm(hyperd: Hyperd) -> None:
    script = "ls -l /dev/fuse /dev/mine; (exec 3<>/dev/fuse) && echo opened; (exec 3<>/dev/mine) && echo read"
    out = run(hyperd, "--device", "/dev/fuse", "--device", "/dev/loop-control:/dev/mine:r", script + "; true")
    assert "10, 229" in out and "10, 237" in out
    assert "opened" in out.split() and "read" not in out.split()


def test_a_device_that_the_vm_has_not_is_refused_in_dockers_words(hyperd: Hyperd) -> None:
    said = refused(hyperd, "--device", "/dev/nosuch")
    assert 'error gathering device information while adding custom device "/dev/nosuch": no such file or' in said
    assert "not a device node" in refused(hyperd, "--device", "/etc:/dev/x")


def test_a_device_rule_opens_what_mknod_makes(hyperd: Hyperd) -> None:
    script = "mknod /tmp/f c 10 229 && (exec 3<>/tmp/f) && echo opened; true"
    assert run(hyperd, script) == ""
    assert run(hyperd, "--device-cgroup-rule", "c 10:* rw", script) == "opened"


def test_gpus_runtimes_and_real_time_are_refused_in_dockers_words(hyperd: Hyperd) -> None:
    assert 'could not select device driver "" with capabilities: [[gpu]]' in refused(hyperd, "--gpus", "all")
    assert "unknown or invalid runtime name: runc" in refused(hyperd, "--runtime", "runc")
    assert "does not support CPU real-time scheduler" in refused(hyperd, "--cpu-rt-runtime", "1000")
    assert 'invalid CapAdd: unknown capability: "CAP_FLY"' in refused(hyperd, "--cap-add", "fly")
    assert "platform" in refused(hyperd, "--platform", "linux/s390x", "--pull", "never")


def test_the_sandboxes_processes_are_seen_with_pid_host(hyperd: Hyperd) -> None:
    script = "echo $$; cat /proc/1/comm; hostname"
    pid, agent, _ = run(hyperd, "--pid", "host", script).split()
    assert int(pid) > 1 and agent in ("init", "hyper-agent")
    assert run(hyperd, script).split()[:2] == ["1", "sh"]


def test_a_container_in_the_sandboxes_pid_namespace_is_entered_and_stopped(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker("run", "-d", "--network", "none", "--pid", "host", "--name", name, "busybox", "sleep", "60")
        assert "sleep" in door.out("exec", name, "ps")
        door.docker("stop", name)
        assert door.out("inspect", "-f", "{{.State.ExitCode}} {{.HostConfig.PidMode}}", name) == "143 host"


def test_other_namespaces_of_the_sandbox(hyperd: Hyperd) -> None:
    assert "/dev/shm" not in run(hyperd, "--ipc", "none", "mount").split()
    assert "/dev/shm" in run(hyperd, "--ipc", "shareable", "mount").split()
    assert run(hyperd, "--cgroupns", "host", "cat /proc/self/cgroup") != "0::/"
    assert run(hyperd, "--cgroupns", "private", "cat /proc/self/cgroup") == "0::/"
    assert run(hyperd, "--uts", "host", "--userns", "host", "--ipc", "host", "echo fine") == "fine"


def test_domain_name_groups_and_working_directory(hyperd: Hyperd) -> None:
    name, _, number, *_ = run(hyperd, "tail -1 /etc/group").split(":")
    script = "cat /proc/sys/kernel/domainname; id -G; pwd"
    flags = ("--domainname", "example.org", "--group-add", name, "--group-add", "777", "-w", "/made/here")
    domain, groups, folder = run(hyperd, "--hostname", "h", *flags, script).splitlines()
    assert domain == "example.org" and folder == "/made/here"
    assert {number, "777"} <= set(groups.split())


def test_a_group_that_is_not_in_the_image_is_refused(hyperd: Hyperd) -> None:
    assert "Unable to find group nosuch: no matching entries" in refused(hyperd, "--group-add", "nosuch")


def test_the_size_of_the_writable_layer(hyperd: Hyperd) -> None:
    blocks = int(run(hyperd, "--storage-opt", "size=64M", "df -k / | tail -1 | awk '{print $2}'"))
    assert 40_000 < blocks < 65_536
    assert "invalid size" in refused(hyperd, "--storage-opt", "size=big")


def test_sysctls_ulimits_and_shared_memory(hyperd: Hyperd) -> None:
    flags = ("--sysctl", "net.core.somaxconn=77", "--sysctl", "kernel.msgmax=9000", "--shm-size", "2m")
    script = "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax; ulimit -n; df -k /dev/shm | tail -1"
    words = run(hyperd, *flags, "--ulimit", "nofile=123:456", script).split()
    assert words[:3] == ["77", "9000", "123"] and words[4] == "2048"


def test_tmpfs_with_options(hyperd: Hyperd) -> None:
    script = "mount | grep ' /[tu] '; stat -c %a /t"
    flags = ("--tmpfs", "/t:size=1m,mode=700,exec", "--mount", "type=tmpfs,dst=/u,tmpfs-size=2m,tmpfs-mode=1755")
    out = run(hyperd, *flags, script)
    assert "size=1024k" in out and "size=2048k" in out and out.endswith("700")
    assert "noexec" not in out.splitlines()[0]


def test_the_host_as_the_container_sees_it(hyperd: Hyperd) -> None:
    out = hyperd.door.out("run", "--rm", "--add-host", "up:host-gateway", "--add-host", "a:1.2.3.4", "busybox", *CAT)
    gateway = hyperd.door.out("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge")
    assert f"{gateway}\tup" in out and "1.2.3.4\ta" in out


CAT = ("cat", "/etc/hosts")


@pytest.mark.skipif(not any(name.startswith(("sd", "vd", "loop")) for name in os.listdir("/dev")), reason="no disk")
def test_block_io_is_limited_on_the_containers_own_disks(hyperd: Hyperd) -> None:
    disk = next(f"/dev/{name}" for name in sorted(os.listdir("/dev")) if name.startswith(("loop", "sd", "vd")))
    if not Path(disk).is_block_device():
        disk = "/dev/loop0"
    lines = run(hyperd, "--device-write-bps", f"{disk}:1mb", "--device-read-iops", f"{disk}:100", "cat " + IO_MAX)
    assert lines and all("wbps=1048576" in line and "riops=100" in line for line in lines.splitlines())


IO_MAX = "/sys/fs/cgroup/io.max"


def test_a_disk_that_the_host_has_not_is_refused_in_dockers_words(hyperd: Hyperd) -> None:
    assert "stat /dev/nosuch: no such file or directory" in refused(hyperd, "--device-read-bps", "/dev/nosuch:1mb")


def test_what_the_guests_kernel_cannot_do_is_warned_of(hyperd: Hyperd) -> None:
    flags = ("--blkio-weight", "300", "--memory-swappiness", "5", "--oom-kill-disable")
    result = hyperd.door.docker("run", "--rm", "--network", "none", *flags, "busybox", "echo", "ran")
    assert result.stdout == b"ran\n"
    for words in (b"Weight discarded", b"Memory swappiness discarded", b"OomKillDisable discarded"):
        assert words in result.stderr


def test_limits_of_the_cgroup(hyperd: Hyperd) -> None:
    files = " ".join(f"/sys/fs/cgroup/{name}" for name in ("pids.max", "cpuset.cpus", "cpuset.mems", "memory.low"))
    flags = ("--pids-limit", "50", "--cpuset-cpus", "0", "--cpuset-mems", "0", "--memory-reservation", "32m")
    assert run(hyperd, *flags, "--oom-score-adj", "-500", f"cat {files} /proc/self/oom_score_adj").split() == [
        "50",
        "0",
        "0",
        str(32 << 20),
        "-500",
    ]


def test_a_python_client_says_the_same(hyperd: Hyperd) -> None:
    client = hyperd.door.client()
    try:
        out = client.containers.run(
            "busybox",
            ["sh", "-c", "id -G; cat /proc/sys/net/core/somaxconn; ls -l /dev/fuse"],
            remove=True,
            network_mode="none",
            cap_add=["SYS_ADMIN"],
            group_add=["777"],
            sysctls={"net.core.somaxconn": "99"},
            devices=["/dev/fuse:/dev/fuse:rwm"],
            device_cgroup_rules=["c 7:2 rwm"],
            ipc_mode="private",
            pid_mode="host",
            uts_mode="host",
            read_only=True,
            tmpfs={"/t": "size=1m"},
        )
    finally:
        client.close()
    assert b"777" in out and b"99" in out and b"10, 229" in out
