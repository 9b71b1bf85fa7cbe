"""Templates over the lives of several daemons with real VMs: made once, kept, refused when something is wrong with
them; a container starts whatever happens to them, and looks the same whichever way it came.

Neighbours: ``test_templates_clones.py`` (inside of clones), ``test_templates_size.py`` (memory and processors),
``test_templates_pool.py``, ``test_templates_killed.py``, ``test_templates_hostile.py``,
``tests/unit/sandboxes/test_template_store.py`` (every damage).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.hyperd import Hyperd, needs_docker_cli, running_hyperd
from tests.shell_guest import kernel_or_skip
from tests.templates import SMALL, kept, run, rung, settled, status, until, vmms

pytestmark = pytest.mark.vm

LOOK = r"""
show() { for file; do echo "== $file"; cat $file; done; }
show /etc/hostname /proc/sys/kernel/hostname /proc/cmdline /proc/version /proc/self/limits /proc/self/cgroup \
     /proc/filesystems /proc/modules /proc/self/oom_score_adj /proc/self/uid_map /proc/self/mounts /etc/resolv.conf \
     /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cgroup.controllers
for part in "uname -a" nproc env id "ls -la /dev" "ls /sys/class/net" "ps -o pid,user" "ip -4 addr show dev lo"; do
    echo "== $part"; $part
done
echo "== rights"; grep -E "^(Cap|Seccomp|NoNewPrivs|Groups|Uid)" /proc/self/status
echo "== processor"; grep -vE "MHz|bogomips" /proc/cpuinfo
echo "== sysctls"; grep -rs . /proc/sys/kernel /proc/sys/net /proc/sys/vm | sort
echo "== memory"; head -n 1 /proc/meminfo
echo "== address"; ip -4 -o addr show dev eth0 | grep -o "inet [^ ]*"; cat /sys/class/net/eth0/address
cat /sys/class/net/eth0/mtu; ip route
"""

VARIES = (
    r"^/proc/sys/kernel/(random/|ns_last_pid|pty/nr|threads-max|perf_event_max_sample_rate)",
    r"^Max (processes|pending signals) ",  # by how much memory, to the megabyte
    r"^/proc/sys/net/.*(_mem|nf_conntrack_(max|buckets|count)):",  # by how much memory the kernel found at its boot
    r"^/proc/sys/vm/(stat_refresh|user_reserve_kbytes|admin_reserve_kbytes|min_free_kbytes|lowmem)",
)


def look(daemon: Hyperd) -> tuple[str, list[str]]:
    """How a container came to be, and what it saw, but for what is its own or its kernel's mood."""
    name = f"look-{os.urandom(4).hex()}"
    lines = daemon.door.out("run", "--name", name, "--hostname", "box", "busybox", "sh", "-c", LOOK).splitlines()
    network = json.loads(daemon.door.out("inspect", name))[0]["NetworkSettings"]["Networks"]["bridge"]
    came = rung(daemon, name)
    daemon.door.docker("rm", name)
    mine = lines.index("== address") + 1
    inet, mac = lines[mine : mine + 2]
    assert re.fullmatch(r"inet 172\.29\.\d+\.\d+/16", inet)
    octets = inet.split()[1].partition("/")[0].split(".")
    assert mac == "02:42:" + ":".join(f"{int(octet):02x}" for octet in octets)
    assert network["NetworkID"]
    total = lines.index("== memory") + 1
    assert 2 << 20 < int(lines[total].split()[1]) < 2300 << 10, "KiB: by some hundred another, whichever way it came"
    lines[total] = "as it should be"
    own = (
        r"[0-9a-f]{64}|lowerdir=[0-9.:]*|size=\d+k|nr_inodes=\d+|(?<=src )[0-9.]*"
        r"|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d"  # when a device was made
    )
    same = [line for line in lines[:mine] + lines[mine + 2 :] if not any(re.match(it, line) for it in VARIES)]
    return came, [re.sub(own, "…", line) for line in same]


def restarted(daemon: Hyperd, *flags: str) -> None:
    daemon.stop()
    daemon.flags = flags
    daemon.start()


def text(daemon: Hyperd) -> str:
    return daemon.log.read_text(errors="replace")


def test_it_is_made_once_and_every_way_gives_the_same_container() -> None:
    needs_docker_cli()
    with running_hyperd("--templates", "--pool-size", "1") as daemon:
        assert run(daemon) == "cold", "nobody waits for the first template"
        assert "made in" in settled(daemon)
        seen = dict([look(daemon)])
        until(lambda: kept(daemon), lambda: daemon.tail())
        [key] = kept(daemon)

        restarted(daemon, "--templates", "--pool-size", "0")
        until(lambda: "MiB" in status(daemon)["Template"], lambda: str(status(daemon)))
        assert status(daemon)["Template"].startswith(key[:12]) and status(daemon)["Template"].endswith(", loaded")
        assert status(daemon)["Pool"] == "switched off" and vmms(daemon) == {}, "no second build"
        seen |= dict([look(daemon)])
        assert kept(daemon) == [key]

        restarted(daemon, "--templates=false")
        seen |= dict([look(daemon)])
        assert status(daemon)["Template"] == "switched off: every sandbox is booted"
        assert seen.keys() == {"pool", "template", "cold"}
        assert seen["template"] == seen["cold"]
        assert seen["pool"] == seen["cold"]


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(mode=0o700, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def forge_state(folder: Path) -> None:
    """A whole template, all digests right, whose state another QEMU wrote."""
    path = folder / "state"
    content = bytearray(path.read_bytes())
    at = content.index(b"pc-q35-") + len("pc-q35-")
    content[at : at + 1] = b"9"
    path.write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["state_sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_whatever_is_wrong_with_it_is_told_and_containers_start() -> None:
    needs_docker_cli()
    flags = ("--pool-size", "0", *SMALL)
    kernel = kernel_or_skip().vmlinux
    with running_hyperd(*flags) as daemon:
        settled(daemon)
        until(lambda: kept(daemon), lambda: daemon.tail())
        [key] = kept(daemon)
        folder = daemon.data_root / "templates" / key

        # A memory file that was cut short.
        daemon.stop()
        os.truncate(folder / "memory", (folder / "memory").stat().st_size - 4096)
        daemon.start()
        assert run(daemon) == "cold"
        assert "made in" in settled(daemon)
        assert "a template is refused: one of its files is shorter than it was; it is made anew" in text(daemon)
        assert run(daemon) == "template"

        # A state that QEMU does not take.
        until(lambda: (folder / "manifest.json").exists(), lambda: str(kept(daemon)))
        daemon.stop()
        forge_state(folder)
        daemon.start()
        assert "loaded" in settled(daemon)
        assert run(daemon) == "cold"
        assert status(daemon)["Template"].startswith("none: the last one did not work (QEMU did not take the saved")
        assert kept(daemon) == [], "the next daemon does not try it again"

        # Another kernel, and no room to keep the template that is made for it.
        daemon.stop()
        other = daemon.folder / "kernel" / kernel.name
        shutil.copytree(kernel.parent, other.parent, ignore=lambda folder, names: {"modules"} & set(names))
        (other.parent / "modules").symlink_to(kernel.parent / "modules")
        with other.open("ab") as file:
            file.write(b"another build")
        daemon.flags = (*flags, "--kernel", str(other))
        with full_disk(daemon.data_root / "templates"):
            daemon.start()
            assert "made in" in settled(daemon) and not settled(daemon).startswith(key[:12])
            until(lambda: "not kept on disk (" in status(daemon)["Template"], lambda: str(status(daemon)))
            assert "cannot be kept in" in status(daemon)["Template"] and kept(daemon) == []
            assert run(daemon) == "template"
            daemon.stop()
