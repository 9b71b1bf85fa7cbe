"""The cases: what users with KVM do, each a function over a hyperd that runs with ``-accel kvm``.

To add one, write a function under ``@case``; its name is its test's. ``short=True`` puts it into ``make test``, where
all of them should stay under a minute; the others run in ``make test-kvm``. A case can be run alone, but as restarts of
hyperd cost seconds here they stand in the order that needs the fewest. Neighbours: ``daemon`` (what a case gets),
``tests/kvm/test_kvm.py`` (shows each as a test of its own).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.kvm.inside.daemon import ADDRESS, EXEC_ROOT, PROBED, TEMPLATES, Daemon, until, vmms

POOLED = ("--accel", "auto", "--pool-size", "1")
CLONING = ("--accel", "kvm", "--pool-size", "0")
BOOTING = ("--accel", "kvm", "--templates=false")

BUSYBOX = ("--network", "none", "busybox")
COUNTER = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.1; done"
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    run: Callable[[Daemon], None]
    short: bool
    limit_s: int


CASES: dict[str, Case] = {}


def case(*, short: bool = False, limit_s: int = 90) -> Callable[[Callable[[Daemon], None]], Callable[[Daemon], None]]:
    def add(function: Callable[[Daemon], None]) -> Callable[[Daemon], None]:
        CASES[function.__name__] = Case(function, short, limit_s)
        return function

    return add


# -- a machine's first hyperd, with a pool


@case(short=True)
def auto_finds_that_kvm_works_and_says_so(daemon: Daemon) -> None:
    daemon.stop()
    PROBED.unlink(missing_ok=True)
    shutil.rmtree(TEMPLATES, ignore_errors=True)
    daemon.running(*POOLED)
    # Nobody waits for the first template.
    assert daemon.docker("run", "--name", "box", *BUSYBOX, "echo", "in a VM") == "in a VM"
    assert daemon.rung("box") == "cold"
    info = json.loads(daemon.hyper("info", "-f", "json"))
    assert info["accelerator"] == "kvm", info
    assert info["accelerator_reason"] == "/dev/kvm works: a guest was booted with it", info
    assert "Accelerator:  kvm: /dev/kvm works" in daemon.hyper("info")
    assert json.loads(PROBED.read_text())["problem"] == ""


@case(short=True)
def a_sandbox_of_the_pool_takes_input_and_gives_output_and_status(daemon: Daemon) -> None:
    daemon.running(*POOLED)
    assert "MiB" in daemon.settled()
    script = "cat; echo to stderr >&2; exit 7"
    assert (
        daemon.docker("run", "-i", "--name", "box", *BUSYBOX, "sh", "-c", script, stdin="typed", expected=7) == "typed"
    )
    assert daemon.rung("box") == "pool"


@case(short=True)
def a_running_container_is_on_kvm_and_confined_and_can_be_used(daemon: Daemon) -> None:
    daemon.running(*POOLED)
    daemon.docker("run", "-d", "--name", "box", *BUSYBOX, "sleep", "1000")
    pid = vmms()[str(daemon.inspect("box", ".Hyper.SandboxId"))]
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    assert command[command.index(b"-accel") + 1] == b"kvm", command
    assert any("kvm-vcpu" in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert int(status["Uid"].split()[0]) >= 1_900_000_000, status
    assert status["Groups"].split() == ["104"], status  # kvm's, which may open the device
    assert status["Seccomp"] == "2", status
    assert status["CapEff"] == "0000000000000000", status
    # What was plugged into the running VM: the image's disk, and the container's own, which keeps what is written.
    assert daemon.docker("exec", "box", "sh", "-c", "echo kept >/file && sync && cat /file") == "kept"
    clock = daemon.docker("exec", "box", "cat", "/sys/devices/system/clocksource/clocksource0/current_clocksource")
    assert clock in ("kvm-clock", "tsc"), clock
    daemon.docker("exec", "box", "sh", "-c", "exit 3", expected=3)
    daemon.docker("stop", "-t", "0", "box")
    assert daemon.inspect("box", ".State.ExitCode") == 137
    daemon.docker("start", "box")
    assert daemon.docker("exec", "box", "cat", "/file") == "kept"


@case()
def a_burst_larger_than_the_pool_only_takes_its_time(daemon: Daemon) -> None:
    daemon.running(*POOLED)
    daemon.settled()
    names = [f"box{number}" for number in range(3)]
    clients = [subprocess.Popen(["docker", "-H", ADDRESS, "run", "--name", name, *BUSYBOX, "true"]) for name in names]
    assert [client.wait() for client in clients] == [0, 0, 0]
    assert {daemon.rung(name) for name in names} <= {"pool", "template"}


@case()
def a_published_port_answers(daemon: Daemon) -> None:
    daemon.running(*POOLED)
    serve = "echo hello >index.html && exec httpd -f -p 80"
    daemon.docker("run", "-d", "--name", "box", "-p", "127.0.0.1:8080:80", "busybox", "sh", "-c", serve)
    ask = ["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]
    until(lambda: subprocess.run(ask, capture_output=True).stdout == b"hello\n", "the port answers")


@case()
def a_vm_grows_beyond_its_template(daemon: Daemon) -> None:
    daemon.running(*POOLED)
    daemon.settled()
    daemon.docker("run", "-d", "--name", "box", "--memory", "400m", "--cpus", "2", *BUSYBOX, "sleep", "1000")
    assert daemon.rung("box") == "pool"
    assert daemon.docker("exec", "box", "nproc") == "2"
    total_kib = int(daemon.docker("exec", "box", "grep", "MemTotal", "/proc/meminfo").split()[1])
    assert total_kib * 1024 > 400 * MIB, total_kib
    assert daemon.docker("exec", "box", "cat", "/sys/fs/cgroup/memory.max") == str(400 * MIB)
    assert daemon.docker("exec", "box", "cat", "/sys/fs/cgroup/cpu.max") == "200000 100000"
    daemon.docker("exec", "box", "dd", "if=/dev/zero", "of=/dev/null", "bs=300M", "count=1")
    daemon.docker("update", "--memory", "128m", "--cpus", "1", "box")
    assert daemon.docker("exec", "box", "cat", "/sys/fs/cgroup/memory.max") == str(128 * MIB)


# -- what it leaves when it is killed, and the next one, without a pool


@case(short=True)
def the_next_daemon_adopts_what_a_killed_one_left(daemon: Daemon) -> None:
    daemon.running(*POOLED)
    daemon.docker("run", "-d", "--name", "box", *BUSYBOX, "sh", "-c", COUNTER)
    sandbox = str(daemon.inspect("box", ".Hyper.SandboxId"))
    members = (".Id", ".State.Pid", ".State.StartedAt", ".Hyper.SandboxId")
    before = [daemon.inspect("box", member) for member in members], vmms()[sandbox]
    daemon.kill()
    time.sleep(1)  # it prints on while nobody listens
    daemon.start(*CLONING)
    assert vmms().keys() == {sandbox}, "what was nobody's yet has ended"
    assert ([daemon.inspect("box", member) for member in members], vmms()[sandbox]) == before
    assert daemon.docker("exec", "box", "echo", "still here") == "still here"
    daemon.docker("kill", "box")
    numbers = [int(line) for line in daemon.docker("logs", "box").split()]
    assert numbers == list(range(len(numbers))), numbers
    assert len(numbers) > 10, numbers


@case(short=True)
def clones_of_a_kept_template_share_no_randomness_and_know_the_time(daemon: Daemon) -> None:
    daemon.running(*CLONING)
    assert "MiB" in daemon.settled()
    look = (
        "head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/boot_id; date +%s; cut -d. -f1 /proc/uptime"
    )
    saw = []
    for name in ("one", "two"):
        began_s = int(time.time())
        random, boot_id, date, uptime = daemon.docker("run", "--name", name, *BUSYBOX, "sh", "-c", look).splitlines()
        assert daemon.rung(name) == "template"
        assert began_s - 1 <= int(date) <= time.time() + 1, (began_s, date)
        assert int(uptime) < 300, "since the template's boot"
        saw.append((random, boot_id))
    assert saw[0][0] != saw[1][0], saw


@case()
def a_template_outlives_the_daemon(daemon: Daemon) -> None:
    daemon.running(*CLONING)
    key = daemon.settled().split()[0]
    until(lambda: [path for path in TEMPLATES.iterdir() if not path.name.startswith(".")], "the template is kept")
    daemon.stop()
    daemon.running(*CLONING)
    state = daemon.settled()
    assert state.split()[0] == key and state.endswith(", loaded"), (key, state)


@case()
def a_vmm_that_dies_is_told(daemon: Daemon) -> None:
    daemon.running(*CLONING)
    daemon.docker("run", "-d", "--name", "box", *BUSYBOX, "sleep", "1000")
    os.kill(vmms()[str(daemon.inspect("box", ".Hyper.SandboxId"))], signal.SIGKILL)
    until(lambda: daemon.inspect("box", ".State.Running") is False, "the container has ended")
    assert daemon.inspect("box", ".State.ExitCode") not in (0, None)


# -- without templates


@case()
def every_sandbox_is_booted_where_templates_are_switched_off(daemon: Daemon) -> None:
    daemon.running(*BOOTING)
    assert daemon.status()["Template"] == "switched off: every sandbox is booted"
    limits = ("--memory", "300m", "--cpus", "2")
    script = "cat; nproc; cat /sys/fs/cgroup/memory.max; exit 7"
    said = daemon.docker(
        "run", "-i", "--name", "box", *limits, *BUSYBOX, "sh", "-c", script, stdin="typed\n", expected=7
    )
    assert said.split() == ["typed", "2", str(300 * MIB)]
    assert daemon.rung("box") == "cold"


# -- the end


@case(short=True)
def nothing_is_left_of_it(daemon: Daemon) -> None:
    daemon.running(*CLONING)
    daemon.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    daemon.docker("rm", "-f", "box")
    daemon.stop()
    left: list[object] = [path for path in EXEC_ROOT.rglob("*") if not path.is_dir()]
    left += [*vmms(), *Path("/sys/fs/cgroup").glob("hyper/*/"), *Path("/sys/class/net").glob("*/tun_flags")]
    assert left == [], left
