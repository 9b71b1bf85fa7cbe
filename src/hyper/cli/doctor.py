"""``doctor``: can this machine run VMs well? One line for each check, and what to do where something is wrong.

What the operating system tells is looked at here; what only trying shows (does KVM really boot a guest?) is the
engine's knowledge:
it tried when it started, with a deadline, and remembers.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence

from hyper.cli import human, output
from hyper.cli.flags import parse
from hyper.errors import HyperError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hyper.cli.main import Session

OK, WARN, FAIL = "ok", "warn", "FAIL"
DATA_ROOT = "/var/lib/hyper"
LOW_SPACE_BYTES, NO_SPACE_BYTES = 10_000_000_000, 1_000_000_000
LOW_MEMORY_BYTES = 1 << 30
OPEN_FILES = 4096
TRYING_S = 20
OLDEST_QEMU = (7, 2)

CAPABILITIES = {12: "NET_ADMIN", 21: "SYS_ADMIN", 6: "SETGID", 7: "SETUID", 5: "KILL", 0: "CHOWN"}
"""Bit numbers in /proc/self/status (linux/capability.h): what starting VMMs, taps and rules takes."""


class Finding:
    """One line: ``advice`` is what to do, empty when all is well."""

    def __init__(self, what: str, verdict: str, text: str, advice: str = "") -> None:
        self.what = what
        self.verdict = verdict
        self.text = text
        self.advice = advice

    def line(self) -> str:
        return f"{self.verdict:<5} {self.what:<12} {self.text}" + (f": {self.advice}" if self.advice else "") + "\n"


def doctor(session: Session, arguments: Sequence[str]) -> int:
    parse("doctor", arguments, (), usage="", summary="Check whether this machine can run VMs well.", at_most=0)
    failed = False
    for check in (permissions, qemu, tun, nf_tables, cgroups, memory, open_files):
        finding = check()
        failed |= finding.verdict == FAIL
        output.write(finding.line())
    for finding in engine_findings(session):
        failed |= finding.verdict == FAIL
        output.write(finding.line())
    return 1 if failed else 0


# -------------------------------------------------------------------------------------------- what the system itself
# tells


def permissions() -> Finding:
    effective = 0
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    missing = [name for bit, name in CAPABILITIES.items() if not effective >> bit & 1]
    if os.geteuid() != 0:
        return Finding("permissions", WARN, "not root", "hyperd needs root; hyper needs access to its socket")
    if missing:
        advice = "run it where root has them (in a container: --cap-add)"
        return Finding("permissions", FAIL, f"root, without the capabilities {', '.join(missing)}", advice)
    return Finding("permissions", OK, "root")


def qemu() -> Finding:
    import subprocess

    name = f"qemu-system-{platform.machine()}"
    program = shutil.which(name)
    if program is None:
        return Finding("QEMU", FAIL, f"no {name} on PATH", "apt-get install --no-install-recommends qemu-system-x86")
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("QEMU", FAIL, f"{program} does not run ({error})", "install it anew")
    words = answer.split()
    version = words[3] if len(words) > 3 else "of an unknown version"
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if len(numbers) == 2 and numbers < OLDEST_QEMU:
        return Finding("QEMU", WARN, f"{version} ({program})", "7.2 or newer is what Hyper is tested with")
    return Finding("QEMU", OK, f"{version} ({program})")


def tun() -> Finding:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Finding("tun", FAIL, "no /dev/net/tun", "modprobe tun; until then only --network none works")
    except OSError as error:
        advice = "run hyperd as root; until then only --network none works"
        return Finding("tun", FAIL, f"/dev/net/tun cannot be opened ({error.strerror})", advice)
    return Finding("tun", OK, "/dev/net/tun")


def nf_tables() -> Finding:
    """Ask the kernel for the rules' generation: the smallest question that only nf_tables answers."""
    advice = "modprobe nf_tables (published ports and NAT need it)"
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:  # 12: NETLINK_NETFILTER
            netlink.settimeout(2)
            # nlmsghdr (length, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, NLM_F_REQUEST, sequence, port) and nfgenmsg
            netlink.send(struct.pack("=IHHIIBBH", 20, 10 << 8 | 16, 1, 1, 0, 0, 0, 0))
            answer = netlink.recv(4096)
    except OSError as error:
        return Finding("nf_tables", FAIL, f"the kernel does not answer ({error.strerror or error})", advice)
    kind, code = struct.unpack_from("=H", answer, 4)[0], struct.unpack_from("=i", answer, 16)[0]
    if kind == 2 and code:  # NLMSG_ERROR
        return Finding("nf_tables", FAIL, f"the kernel refuses ({os.strerror(-code)})", advice)
    import ctypes

    try:
        ctypes.CDLL("libnftables.so.1")
    except OSError:
        return Finding("nf_tables", FAIL, "libnftables is not installed", "apt-get install libnftables1")
    return Finding("nf_tables", OK, "kernel and libnftables")


def cgroups() -> Finding:
    kinds: dict[str, str] = {}
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind = after.split()[0] if after else ""
        if kind in ("cgroup", "cgroup2"):
            kinds.setdefault(kind, before.split()[4])
            if "memory" in after.rpartition(",")[0].split(",") or after.endswith(",memory"):
                kinds["memory"] = before.split()[4]
    if "memory" in kinds:
        return Finding("cgroups", OK, f"version 1, {kinds['memory']}")
    if "cgroup2" in kinds:
        controllers = _read(f"{kinds['cgroup2']}/cgroup.controllers").split()
        if "memory" in controllers:
            return Finding("cgroups", OK, f"version 2, {kinds['cgroup2']}")
    advice = "mount cgroup2 at /sys/fs/cgroup; VMMs run without limits of their own until then"
    return Finding("cgroups", WARN, "no memory controller", advice)


def memory() -> Finding:
    available = 0
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    text = f"{human.binary_size(available, digits=3)} available"
    if available < LOW_MEMORY_BYTES:
        return Finding("memory", WARN, text, "each VM takes 40 MB and what its container uses; stop something")
    return Finding("memory", OK, text)


def open_files() -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        advice = f"raise it to {OPEN_FILES} or more where hyperd is started (ulimit -Hn)"
        return Finding("open files", WARN, f"at most {hard}", advice)
    return Finding("open files", OK, "no limit" if hard == resource.RLIM_INFINITY else f"at most {hard}")


# ------------------------------------------------------------------------------------------------ what the engine
# has found


def engine_findings(session: Session) -> Iterator[Finding]:
    try:
        found = _info_after_trying(session)
    except HyperError as error:
        yield Finding("engine", FAIL, error.message)
        yield space(DATA_ROOT)
        return
    yield Finding("engine", OK, f"answers at {session.engine.address.url}")
    yield kvm(found)
    kernel = f"{found['kernel_release']} ({found['kernel_kind']})"
    advice = "make kernel builds one that boots in half the time" if found["kernel_kind"] == "distribution" else ""
    yield Finding("guest kernel", OK, kernel, advice)
    yield space(str(found["data_root"]))
    yield busybox(session.engine.list)
    for warning in found.get("warnings") or ():
        yield Finding("engine", WARN, str(warning))


def _info_after_trying(session: Session) -> dict[str, Any]:
    """The engine's information; on its first start it tries KVM with a guest, which is worth waiting for."""
    deadline = time.monotonic() + TRYING_S
    while True:
        found = session.engine.object("GET", "/hyper/info")
        if found["accelerator"] or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def kvm(found: dict[str, Any], *, exists: Callable[[str], bool] = os.path.exists) -> Finding:
    reason = str(found["accelerator_reason"])
    if not found["accelerator"]:
        return Finding("KVM", WARN, f"not tried to the end within {TRYING_S} s", "ask again, and look at hyperd's log")
    if found["accelerator"] == "kvm":
        return Finding("KVM", OK, reason or "a guest was booted with it")
    if exists("/dev/kvm"):
        advice = "guests run many times faster, and behind a real wall, on a host whose KVM can run them"
        return Finding("KVM", WARN, f"not used, {reason}", advice)
    advice = (
        "guests are emulated, which is slow and no security boundary; turn virtualisation on or use a host that has it"
    )
    return Finding("KVM", WARN, "no /dev/kvm", advice)


def space(folder: str) -> Finding:
    while folder != "/" and not os.path.exists(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    text = f"{human.size(free)} free in {folder}"
    if free < NO_SPACE_BYTES:
        return Finding("space", FAIL, text, "free some, or move hyperd by --data-root")
    if free < LOW_SPACE_BYTES:
        return Finding("space", WARN, text, "little for images; remove some (hyper rmi) or move hyperd by --data-root")
    return Finding("space", OK, text)


def busybox(list_objects: Callable[..., list[dict[str, Any]]]) -> Finding:
    try:
        names = [name for image in list_objects("GET", "/images/json") for name in image.get("RepoTags") or ()]
    except HyperError as error:
        return Finding("images", FAIL, error.message)
    if "busybox:latest" in names:
        return Finding("images", OK, f"{len(names)}, busybox:latest among them")
    return Finding("images", WARN, "no busybox:latest", "apt-get install busybox-static, then start hyperd again")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
