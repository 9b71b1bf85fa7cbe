"""What is said about a sandbox: what is asked for, what is recorded, what ``hyper info`` shows.

Pure data. :class:`SandboxRecord` is all that a restarted daemon needs to take a sandbox over; the engine keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from hyper.guest.messages import Interface
from hyper.hypervisors.base import DiskAddress, DiskSpec, VmmIdentity
from hyper.volumes.file_server import FileServerIdentity

FileSystem = Literal["erofs", "ext4"]
Rung = Literal["cold", "template", "pool"]
"""How a sandbox came to be, from the slowest way to the fastest."""


@dataclass(frozen=True)
class SandboxConfig:
    """What the agent is told before anything of the user's runs (docs/agent-protocol.md §5.1); clock and fresh entropy
    are added when it is told."""

    hostname: str
    interfaces: Sequence[Interface] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    machine_id: str | None = None


@dataclass(frozen=True)
class Card:
    """A spare network card for a VM: the name of its tap, and the tap's descriptor, which belongs to who has this."""

    name: str
    tap_fd: int


@dataclass(frozen=True)
class SandboxRequest:
    """A sandbox to be had."""

    owner: str
    memory_bytes: int | None
    """The workload's limit, held by the guest's cgroup; the VM gets an overhead on top. None: the default, no limit."""
    cpus: float | None
    configure: SandboxConfig
    """A sandbox with interfaces gets a card, whose tap (:attr:`Sandbox.card`) the caller connects to a network."""
    shared_memory: bool = False
    """Its memory must be open to other processes of the host, which serve it directories."""


class DiskRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plugged disk. ``users`` counts how often it was attached: a pod's containers share their layers."""

    disk_id: str
    path: str
    fs: str
    readonly: bool
    channel: int
    target: int
    lun: int
    users: int = 1

    @property
    def spec(self) -> DiskSpec:
        return DiskSpec(self.disk_id, Path(self.path), self.readonly)

    @property
    def address(self) -> DiskAddress:
        return DiskAddress(self.channel, self.target, self.lun)


class SandboxRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must be known to adopt a sandbox after a restart of the daemon."""

    sandbox_id: str
    owner: str
    pid: int
    start_time: int
    boot_id: str
    uid: int
    memory_bytes: int
    max_memory_bytes: int
    cpus: int
    max_cpus: int
    disks: tuple[DiskRecord, ...] = ()
    grown_bytes: int = 0
    """What was added to ``memory_bytes`` since."""
    cloned: bool = False
    """Its memory is a copy of a template's, made page by page as it writes."""
    file_server: FileServerIdentity | None = None
    """Who serves it the host's directories, if it has any."""

    @property
    def identity(self) -> VmmIdentity:
        return VmmIdentity(self.pid, self.start_time, self.boot_id)

    def encode(self) -> bytes:
        """As JSON; ``msgspec.json.decode(…, type=SandboxRecord)`` reads it."""
        return msgspec.json.encode(self)


@dataclass(frozen=True)
class SandboxesInfo:
    """For ``hyper info``. What cannot be told (no QEMU, no kernel) is empty, and ``warnings`` says why."""

    hypervisor: str
    hypervisor_version: str
    accelerator: str
    accelerator_reason: str
    kernel_kind: str
    kernel_release: str
    kernel_path: Path | None
    agent_version: str
    template: str
    """What of a template there is, in words."""
    pool: str
    """How full it is, in words."""
    default_memory_bytes: int
    default_cpus: int
    warnings: tuple[str, ...]
