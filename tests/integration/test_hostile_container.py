"""Code in a container attacks its VM, and through it the host: only that container may suffer.

What a privileged container may do to its own VM is said in docs/threat-model.md; what it may not reach is tested here.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hyperd import Hyperd, running_hyperd

pytestmark = pytest.mark.vm

ROOTFS_MIB = 64


@pytest.fixture(scope="module")
def hyperd() -> Iterator[Hyperd]:
    """With a small writable layer for each container, and a bystander that runs all the time."""
    with running_hyperd("--rootfs-size", f"{ROOTFS_MIB}m") as daemon:
        daemon.door.docker("run", "-d", "--name", "bystander", "--network", "none", "busybox", "sleep", "1000")
        yield daemon
        daemon.door.docker("rm", "-f", "bystander")


def disks(hyperd: Hyperd) -> dict[str, str]:
    """The shared read-only disks, by their contents."""
    found = (hyperd.data_root / "images").rglob("*")
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found if path.is_file()}


@pytest.fixture(autouse=True)
def host_is_safe(hyperd: Hyperd) -> Iterator[None]:
    """After each test: the images are as they were, hyperd answers at once, the bystander runs."""
    before = disks(hyperd)
    yield
    assert disks(hyperd) == before
    began_s = time.monotonic()
    assert hyperd.door.http("GET", "/_ping").status == 200
    assert time.monotonic() - began_s < 2
    assert hyperd.door.out("exec", "bystander", "echo", "unharmed") == "unharmed"
    assert hyperd.door.out("ps", "--format", "{{.Names}}") == "bystander"
    assert "trace=" not in hyperd.log.read_text()


ATTACKS = {
    "agent's port": "mknod /tmp/p c $(tr : ' ' < /sys/class/virtio-ports/vport0p1/dev) && echo x > /tmp/p",
    "kernel log": "mknod /tmp/k c 1 11 && echo x > /tmp/k",
    "memory": "mknod /tmp/m c 1 1 && head -c 1 /tmp/m",
    "ports": "mknod /tmp/io c 1 4 && head -c 1 /tmp/io",
    "serial console": "mknod /tmp/t c 4 64 && echo x > /tmp/t",
    "console": "mknod /tmp/c c 5 1 && echo x > /tmp/c",
    "image's disk": "mknod /tmp/a b 8 0 && head -c 1 /tmp/a",
    "own disk, raw": "mknod /tmp/b b 8 16 && head -c 1 /tmp/b",
    "sysrq": "echo b > /proc/sysrq-trigger",
    "kernel setting": "echo 1 > /proc/sys/kernel/panic",
    "core pattern": "echo '|/bin/sh' > /proc/sys/kernel/core_pattern",
    "module loader": "echo /bin/sh > /proc/sys/kernel/modprobe",
    "uevent helper": "echo /bin/sh > /sys/kernel/uevent_helper",
    "device removal": "echo 1 > /sys/bus/pci/devices/0000:00:02.0/remove",
    "mount": "mount -t tmpfs x /mnt",
    "remount": "mount -o remount,rw /sys",
    "unmask": "umount /proc/keys",
    "bind": "mount --bind /proc /mnt",
    "cgroup mount": "mkdir -p /tmp/cg && mount -t cgroup2 x /tmp/cg",
    "cgroup escape": "echo 1 > /sys/fs/cgroup/cgroup.procs",
    "release agent": "echo /bin/sh > /sys/fs/cgroup/release_agent",
    "more memory": "echo max > /sys/fs/cgroup/memory.max",
    "user namespace": "unshare -Ur true",
    "mount namespace": "unshare -m true",
    "reboot": "reboot -f",
    "clock": "date -s 2001-01-01; [ $(date +%Y) = 2001 ]",
    "host name": "hostname evil",
    "kernel messages": "dmesg | grep .",
    "agent's root": "[ -e /proc/1/root/init ] || ls /proc/2/root",
    "agent's memory": "grep -q agent /proc/*/comm",
    "namespace of the agent": "nsenter -t 1 -m true",
    "open by handle": "mknod /tmp/h p && chroot /proc/1/root/.. ls /init",
}


def test_what_an_ordinary_container_must_not_do_is_refused(hyperd: Hyperd) -> None:
    script = "\n".join(f"( {command} ) >/dev/null 2>&1 && echo '{name}'" for name, command in ATTACKS.items())
    result = hyperd.door.docker("run", "--rm", "--network", "none", "busybox", "sh", "-c", f"{script}\necho end")
    assert result.stdout.decode().splitlines() == ["end"]


def test_the_first_process_of_a_container_cannot_be_killed_from_inside(hyperd: Hyperd) -> None:
    script = "kill -9 1; kill -STOP 1; kill -9 -1; echo alive"
    assert hyperd.door.out("run", "--rm", "--network", "none", "busybox", "sh", "-c", script) == "alive"


def test_no_new_privileges_holds_for_execs_too(hyperd: Hyperd) -> None:
    door = hyperd.door
    option = ("--security-opt", "no-new-privileges")
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "--network", "none", *option, "busybox", "sleep", "1000")
        for command in ("grep NoNewPrivs /proc/1/status", "grep NoNewPrivs /proc/self/status"):
            assert door.out("exec", "-u", "1000", name, "sh", "-c", command).split() == ["NoNewPrivs:", "1"]


def test_filling_the_disk_is_an_error_inside_and_bounded_outside(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "--network", "none", "busybox", "sleep", "1000")
        result = door.docker("exec", name, "dd", "if=/dev/zero", "of=/fill", "bs=1M", check=False)
        assert result.returncode == 1
        assert b"No space left on device" in result.stderr
        container = door.out("inspect", "-f", "{{.Id}}", name)
        [disk] = (hyperd.data_root / "writable").rglob(f"*{container}*")
        stored = disk.stat()
        assert stored.st_size == ROOTFS_MIB << 20
        assert stored.st_blocks * 512 <= ROOTFS_MIB << 20
        assert door.out("exec", name, "sh", "-c", "rm /fill && echo x > /y && cat /y") == "x"


BOMB = "b() { b | b & }; b; sleep 1000"


@pytest.mark.parametrize("limit", [("--pids-limit", "60"), ()], ids=["limited", "unlimited"])
def test_a_fork_bomb_stays_in_its_vm_and_can_be_killed(hyperd: Hyperd, limit: tuple[str, ...]) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "--network", "none", "-m", "64m", *limit, "busybox", "sh", "-c", BOMB)
        began_s = time.monotonic()
        assert door.out("exec", "bystander", "echo", "unharmed") == "unharmed"
        assert time.monotonic() - began_s < 15
        began_s = time.monotonic()
        door.docker("rm", "-f", name)
        assert time.monotonic() - began_s < 30


def test_a_memory_bomb_ends_in_its_own_container(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        arguments = ("--name", name, "--network", "none", "-m", "48m", "busybox", "sh", "-c")
        script = "tail /dev/zero & tail /dev/zero & wait; echo outlived"
        result = door.docker("run", *arguments, script, check=False)
        assert result.returncode in (0, 137)
        assert result.stdout in (b"outlived\n", b"")


def test_endless_output_of_a_privileged_container_on_the_console_is_bounded(hyperd: Hyperd) -> None:
    """The console is a file in memory of a fixed size, and no one waits for it."""
    script = "mknod /k c 1 11; i=0; while [ $i -lt 4000 ]; do echo '<0>xxxxxxxxxxxxxxxxxxxx '$i > /k; i=$((i+1)); done"
    with hyperd.door.name() as name:
        arguments = ("--name", name, "--privileged", "--network", "none", "busybox", "sh", "-c")
        hyperd.door.docker("run", *arguments, script, timeout_s=90)


def test_a_privileged_container_owns_its_vm_and_nothing_else(hyperd: Hyperd) -> None:
    """It cannot talk as the agent, nor write the image that other VMs share; it can end its own VM."""
    port = "mknod /p c $(tr : ' ' < /sys/class/virtio-ports/vport0p1/dev)"
    script = f"""
        {port}; (echo x > /p) 2>/dev/null && echo 'talked as the agent'
        mkdir -p /m; mount -t tmpfs x /m 2>/dev/null || mount -t tmpfs x /mnt
        for disk in /sys/block/sd*; do
            [ $(cat $disk/ro) = 1 ] && mknod /image b $(tr : ' ' < $disk/dev)
        done
        echo 0 > /sys/block/sda/ro 2>/dev/null
        hdparm -r0 /image >/dev/null 2>&1; blockdev --setrw /image 2>/dev/null
        [ -e /image ] && echo 'found the image'
        dd if=/dev/zero of=/image bs=4096 count=64 conv=fsync 2>/dev/null && echo 'wrote the image'
        echo end
    """
    with hyperd.door.name() as name:
        arguments = ("--name", name, "--privileged", "--network", "none", "busybox", "sh", "-c")
        out = hyperd.door.out("run", *arguments, script).splitlines()
        assert out == ["found the image", "end"]


def test_a_vm_that_a_privileged_container_ends_is_an_exit_with_a_reason(hyperd: Hyperd) -> None:
    door = hyperd.door
    script = "mknod /io c 1 4; mknod /mem c 1 1; printf '\\376' | dd of=/io bs=1 seek=100 conv=notrunc; sleep 5; exit 9"
    with door.name() as name:
        result = door.docker(
            "run", "--name", name, "--privileged", "--network", "none", "busybox", "sh", "-c", script, check=False
        )
        state = door.out("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}", name)
        assert state.startswith("exited ")
        assert result.returncode in (137, 9, 125), state
        if result.returncode != 9:  # a kernel without /dev/port cannot do this
            assert "VM" in state


def test_no_file_of_the_hosts_is_readable_in_a_vm(hyperd: Hyperd) -> None:
    secret = Path(hyperd.folder / "secret")
    secret.write_text("do not read")
    script = f"cat {secret} 2>/dev/null; find / -xdev -name secret 2>/dev/null; echo end"
    arguments = ("--privileged", "--network", "none", "busybox", "sh", "-c")
    assert hyperd.door.out("run", "--rm", *arguments, script) == "end"
