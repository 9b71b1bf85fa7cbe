"""What every hypervisor driver offers: probe, launch, adopt; and what a running VMM can do.

Pure declarations. Drivers (``qemu/``, ``fake.py``) implement them and pass ``tests/contract``; ``hyper.sandboxes`` is
the only user. What only some drivers can do is a separate optional Protocol (none needed yet).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable


class Accelerator(StrEnum):
    """How guest code runs: on the processor (KVM) or translated by QEMU (TCG, no security boundary)."""

    KVM = "kvm"
    TCG = "tcg"
    NONE = "none"  # the fake


@dataclass(frozen=True)
class HypervisorInfo:
    """What a probe found. ``reason`` says why this accelerator was chosen, in words for ``hyper info``."""

    name: str
    version: str
    binary: Path
    accelerator: Accelerator
    reason: str
    firmware: Path | None = None
    """What the machine's firmware is to be; None: the hypervisor's default."""
    notes: tuple[str, ...] = ()
    """What this host cannot do for us, in words (cgroup controllers that are missing)."""


@dataclass(frozen=True)
class KernelImage:
    """A bootable guest kernel and its initramfs, as the kernel finder gives them."""

    kernel: Path
    initrd: Path
    command_line: str
    """Options that this kernel and the agent need; the driver adds its own (console…)."""


@dataclass(frozen=True)
class Nic:
    """A network card present from boot. ``tap_fd`` is an open tap; the driver takes it over and closes it."""

    mac: str
    tap_fd: int


@dataclass(frozen=True)
class MachineSpec:
    """A VM to be launched. ``runtime_dir`` is a directory of this sandbox's own, made by the caller, mode 0711."""

    sandbox_id: str
    runtime_dir: Path
    image: KernelImage
    memory_bytes: int
    max_memory_bytes: int
    cpus: int
    max_cpus: int
    uid: int
    """The VMM runs as this user and group id; 0 only in tests that say why."""
    nics: tuple[Nic, ...] = ()


@dataclass(frozen=True)
class DiskSpec:
    """A disk to plug in. ``disk_id`` is unique within the sandbox (letters, digits, ``-``), format is raw."""

    disk_id: str
    path: Path
    readonly: bool


@dataclass(frozen=True)
class DiskAddress:
    """Where the guest finds a disk: member of the agent protocol's Disk (docs/agent-protocol.md §5.2)."""

    channel: int
    target: int
    lun: int


@dataclass(frozen=True)
class VmmIdentity:
    """Enough to find a VMM again after a restart and to be sure that it is the same process."""

    pid: int
    start_time: int
    """Field 22 of /proc/PID/stat (clock ticks since boot); with the pid it is unique until reboot."""
    boot_id: str
    """/proc/sys/kernel/random/boot_id of the host when it was launched."""


@dataclass(frozen=True)
class VmmExit:
    """How a VMM ended. ``reason`` is for users: last words of its log, "killed by signal 9", "powered off"."""

    clean: bool
    reason: str


class Vmm(Protocol):
    """A running VMM. All methods raise :class:`hyper.errors.Unavailable` once it is dead."""

    @property
    def identity(self) -> VmmIdentity: ...

    @property
    def agent_socket(self) -> Path:
        """Unix socket whose bytes are the agent's channel; accepts one connection at a time, again and again."""
        ...

    async def attach_disk(self, disk: DiskSpec) -> DiskAddress:
        """Hot-plug; returns when the VMM has it (the guest may need a moment). A writable disk is opened
        exclusively."""
        ...

    async def detach_disk(self, disk_id: str) -> None:
        """Unplug and close the file. NotFound if it is not attached."""
        ...

    async def wait(self) -> VmmExit:
        """Returns when the process is gone; at once and the same value ever after. Any number of waiters."""
        ...

    def last_words(self) -> str:
        """The end of what the VMM and the guest's console printed, for error messages; at most a few lines. Never
        raises."""
        ...

    async def kill(self) -> None:
        """SIGKILL and wait; idempotent; frees everything that :meth:`Hypervisor.launch` made."""
        ...

    async def release(self) -> None:
        """Let go of it without ending it (daemon exit): closes control connections only."""
        ...


@runtime_checkable
class Hypervisor(Protocol):
    """A kind of hypervisor."""

    async def probe(self) -> HypervisorInfo:
        """Find the binary and choose the accelerator by really booting once (remembered on disk).

        Raises FailedPrecondition naming the package to install when there is no binary."""
        ...

    async def launch(self, spec: MachineSpec) -> Vmm:
        """Start a VMM and return when it runs guest code. Leaves nothing behind when it fails or is cancelled."""
        ...

    async def adopt(
        self, spec: MachineSpec, identity: VmmIdentity, disks: tuple[tuple[DiskSpec, DiskAddress], ...]
    ) -> Vmm:
        """Take over a VMM launched by an earlier daemon. NotFound when that process is gone (or the pid is
        another's)."""
        ...

    async def reap_strays(self, keep: frozenset[str]) -> list[str]:
        """Kill VMMs of this daemon's root whose sandbox id is not in ``keep``; their ids. For start-up after kill
        -9."""
        ...

    async def close(self) -> None:
        """Give back what belongs to no VMM (the daemon exits). VMMs run on."""
        ...
