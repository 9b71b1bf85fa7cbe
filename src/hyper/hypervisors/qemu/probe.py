"""Chooses KVM or TCG by really booting once, with a deadline, and remembers the outcome.

A machine can have a /dev/kvm that opens and creates VMs and still cannot run an ordinary guest (nested clouds), so
nothing less than a guest whose agent answers counts. The outcome is kept in a file whose key holds everything that
could change it; costing seconds once, nothing after. The guest booted here is our own kernel and agent, nothing of a
user's.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hyper.errors import FailedPrecondition
from hyper.hypervisors.base import Accelerator, HypervisorInfo, KernelImage
from hyper.hypervisors.qemu import tsc
from hyper.hypervisors.qemu.settings import AcceleratorChoice, QemuSettings
from hyper.system import blocking, processes

Boots = Callable[[HypervisorInfo, tuple[int, ...], bool, float], Awaitable[str | None]]
"""(info, other groups, as root, deadline in s) → None when the guest came up, else what happened instead."""

_NO_BOUNDARY = "TCG (software emulation) is slower and, in QEMU's own words, no security boundary"
_ASK_TIMEOUT_S = 10.0


class Outcome(msgspec.Struct, frozen=True):
    """What the file keeps: the question (``key``) and the answer; ``problem`` is empty when KVM works."""

    key: str
    problem: str


@dataclass(frozen=True)
class KvmAccess:
    """Who may open the device: by which other groups, or root alone, or why not at all."""

    groups: tuple[int, ...] = ()
    root_only: bool = False
    problem: str = ""


async def choose(
    settings: QemuSettings, binary: Path, image: Callable[[], KernelImage], boots: Boots, notes: tuple[str, ...]
) -> HypervisorInfo:
    """The driver's :meth:`probe`. FailedPrecondition when ``kvm`` is demanded and does not work."""
    version = _version(binary, await _ask(binary, "--version"))
    firmware = _firmware(await _ask(binary, "-L", "help"))
    tsc_khz = await blocking.run(tsc.rate_khz, settings.state_dir / "tsc-khz")

    def found(accelerator: Accelerator, reason: str) -> HypervisorInfo:
        told_khz = tsc_khz if accelerator is Accelerator.TCG else 0
        return HypervisorInfo("qemu", version, binary, accelerator, reason, firmware, notes, told_khz)

    if settings.accelerator is AcceleratorChoice.TCG:
        return found(Accelerator.TCG, f"configured; {_NO_BOUNDARY}")
    access = kvm_access(settings.kvm_device)
    problem = access.problem
    if not problem:
        key = _key(settings, binary, version, image())
        cache = settings.state_dir / "accelerator.json"
        remembered = _recall(cache, key)
        if remembered is None:
            trial = found(Accelerator.KVM, "being tried")
            outcome = await boots(trial, access.groups, access.root_only, settings.probe_timeout_s)
            problem = f"{settings.kvm_device} is there, but with it {outcome}" if outcome else ""
            _remember(cache, Outcome(key, problem))
        else:
            problem = remembered.problem
    if not problem and access.root_only:
        problem = (
            f"KVM works, but only root may open {settings.kvm_device}, and VMMs run as users of their own: "
            f"chgrp kvm {settings.kvm_device} && chmod 660 {settings.kvm_device}"
        )
    if not problem:
        return found(Accelerator.KVM, f"{settings.kvm_device} works: a guest was booted with it")
    if settings.accelerator is AcceleratorChoice.KVM:
        raise FailedPrecondition(f"KVM is demanded by the configuration and does not work: {problem}")
    return found(Accelerator.TCG, f"{problem}. {_NO_BOUNDARY}")


def kvm_access(device: Path) -> KvmAccess:
    """Whether and how a VMM may open the KVM device."""
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return KvmAccess(
            problem=f"no {device}: this machine offers no hardware virtualization, or the kvm module is not loaded"
        )
    except OSError as error:
        return KvmAccess(problem=f"{device} cannot be opened: {error.strerror}")
    try:
        status = os.fstat(fd)
    finally:
        os.close(fd)
    if status.st_mode & stat.S_IROTH and status.st_mode & stat.S_IWOTH:
        return KvmAccess()
    if status.st_mode & stat.S_IRGRP and status.st_mode & stat.S_IWGRP and status.st_gid != 0:
        return KvmAccess(groups=(status.st_gid,))
    return KvmAccess(root_only=True)


def kvm_groups(device: Path) -> tuple[int, ...]:
    """The other groups that a VMM under KVM needs."""
    return kvm_access(device).groups


async def _ask(binary: Path, *arguments: str) -> str:
    """What QEMU prints; FailedPrecondition when it does not end."""
    process = await asyncio.create_subprocess_exec(
        binary,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_ASK_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError as error:
        raise FailedPrecondition(f"{binary} {' '.join(arguments)} does not end; is it QEMU?") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode("utf-8", "replace")


def _version(binary: Path, said: str) -> str:
    found = re.search(r"version (\d+(?:\.\d+)+[^\n]*)", said)
    if found is None:
        raise FailedPrecondition(f"{binary} is no QEMU: it answers {said[:100]!r} to --version")
    return found.group(1).strip()


def _firmware(data_folders: str) -> Path | None:
    """qboot, a firmware that does little but start the kernel: 0.13 s less than SeaBIOS under TCG. Part of QEMU."""
    for folder in data_folders.splitlines():
        path = Path(folder) / "qboot.rom"
        try:
            if path.stat().st_mode & stat.S_IROTH:
                return path
        except OSError:
            continue
    return None


def _key(settings: QemuSettings, binary: Path, version: str, image: KernelImage) -> str:
    """Everything that the outcome depends on. The boot id stands for the host's kernel, modules and firmware
    settings."""
    files = [
        f"{path}:{status.st_mtime_ns}:{status.st_size}" for path in (binary, image.kernel) for status in (path.stat(),)
    ]
    device = settings.kvm_device.stat()
    return "|".join(
        [
            version,
            *files,
            os.uname().release,
            _cpu_model(),
            processes.host_boot_id(),
            f"{settings.kvm_device}:{device.st_rdev}",
            f"{settings.probe_timeout_s:g}s",
        ]
    )


def host_facts(info: HypervisorInfo) -> list[str]:
    """What of this host a saved machine depends on: QEMU's build; with KVM the host's processor and kernel as well."""
    status = info.binary.stat()
    facts = [info.version, f"{info.binary}:{status.st_mtime_ns}:{status.st_size}", info.accelerator]
    if info.accelerator is Accelerator.KVM:
        facts += [os.uname().release, _cpu_model(), _cpuinfo("flags") or _cpuinfo("Features")]
    return facts


def _cpu_model() -> str:
    return _cpuinfo("model name") or os.uname().machine


def _cpuinfo(key: str) -> str:
    """The first processor's value; empty when this kind of machine has none."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def _recall(cache: Path, key: str) -> Outcome | None:
    try:
        outcome = msgspec.json.decode(cache.read_bytes(), type=Outcome)
    except (OSError, msgspec.DecodeError):
        return None  # not there, or cut short by a crash: probe again
    return outcome if outcome.key == key else None


def _remember(cache: Path, outcome: Outcome) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(outcome))
    temporary.replace(cache)
