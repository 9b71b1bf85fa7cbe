"""What every hypervisor driver offers: probe, launch, adopt; and what a running VMM can do.

Pure declarations. Drivers (``qemu/``, ``fake.py``) implement them and pass ``tests/contract``; ``hyper.sandboxes`` is
the only user. What only some drivers can do is a separate optional Protocol: :class:`Savable`, :class:`Resizable`,
:class:`Sharing`.
"""

from __future__ import annotations

import os
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
    tsc_khz: int = 0
    """The rate of the guests' time stamp counter, where they are to be told; 0: they find out reliably."""


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
class MemoryFile:
    """A memory file that holds the guest's RAM. The caller keeps the descriptor; the VMM gets one of its own.

    ``shared``: the guest's writes go into the file (a template in the making, or a clone that owns its copy).
    Otherwise they stay the VMM's own, copy on write, and the file may be sealed against writing."""

    fd: int
    shared: bool


@dataclass(frozen=True)
class SavedState:
    """What a clone goes on from: the devices' state that :meth:`Savable.save` wrote, as a descriptor whose position
    is where it begins."""

    fd: int


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
    memory_file: MemoryFile | None = None
    """None: memory of the VMM's own, empty."""
    restore: SavedState | None = None
    """Go on from this state, with the memory that belongs to it, instead of booting."""

    @property
    def clonable(self) -> bool:
        """Whether it has the shape of templates: what is saved can only be restored into the same shape."""
        return self.memory_file is not None

    def close_taps(self) -> None:
        """For whoever cannot hand the machine to a driver."""
        for nic in self.nics:
            os.close(nic.tap_fd)


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

    def bound(self, memory_bytes: int, cpus: int) -> None:
        """Hold the VMM to what a machine of this size may take from the host. Never raises: a host without such
        bounds is a note of the probe's."""
        ...

    def defer(self, deferred: bool) -> None:
        """Let everybody else go first while the host's processors are busy, or no longer. Never raises."""
        ...

    async def kill(self) -> None:
        """SIGKILL and wait; idempotent; frees everything that :meth:`Hypervisor.launch` made."""
        ...

    async def release(self) -> None:
        """Let go of it without ending it (daemon exit): closes control connections only."""
        ...


@runtime_checkable
class Savable(Protocol):
    """A VMM whose machine can become a template."""

    async def save(self, state_fd: int) -> None:
        """Stop the guest and write the devices' state; its memory is in its (shared) memory file, where other machines
        may find it once this VMM has ended. The VMM is of no other use afterwards: kill it."""
        ...


@runtime_checkable
class Resizable(Protocol):
    """A VMM whose machine can grow while it runs. It never shrinks."""

    async def grow_memory(self, memory_bytes: int) -> None:
        """Offer the guest memory up to this total; it takes it in the background. InvalidArgument above
        ``MachineSpec.max_memory_bytes``."""
        ...

    async def add_cpus(self, cpus: int) -> None:
        """Plug vCPUs until there are ``cpus``; the guest puts them online. InvalidArgument above
        ``MachineSpec.max_cpus``."""
        ...


@runtime_checkable
class Sharing(Protocol):
    """A VMM into which shared directories can be plugged, if its memory is shared (``MemoryFile.shared``)."""

    async def attach_share(self, tag: str, socket_fd: int) -> None:
        """Plug in a virtio file system that the guest mounts by ``tag``, once in a machine's life. ``socket_fd`` is
        connected to its server (vhost-user) and stays the caller's. Unavailable when the server does not answer."""
        ...


@runtime_checkable
class Hypervisor(Protocol):
    """A kind of hypervisor."""

    async def probe(self) -> HypervisorInfo:
        """Find the binary and choose the accelerator by really booting once (remembered on disk).

        Raises FailedPrecondition naming the package to install when there is no binary."""
        ...

    async def launch(self, spec: MachineSpec) -> Vmm:
        """Start a VMM and return when it runs guest code. DataLoss when it is to go on from a saved state and cannot.
        Leaves nothing behind when it fails or is cancelled."""
        ...

    def template_key(self, spec: MachineSpec, info: HypervisorInfo) -> str:
        """All that a saved machine of this shape depends on, as one text, the contents of kernel and initramfs apart:
        what was saved under one key must not be restored under another."""
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
