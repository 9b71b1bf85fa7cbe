"""The one place that sandboxes come from.

Whoever needs a VM with an agent in it asks :meth:`SandboxSource.acquire`. Today it boots one
(:mod:`hyper.sandboxes.cold_boot`); a template's clone and a pool are to come behind the same call. It also takes over
the sandboxes of an earlier daemon and ends those that nobody knows any more.

Neighbours: :mod:`hyper.sandboxes.supervisor` (what it gives out), :mod:`hyper.hypervisors` and :mod:`hyper.guest`
(what it is made of).
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hyper.errors import HyperError, NotFound, Unavailable
from hyper.guest.agent import Agent
from hyper.guest.messages import Interface, Route
from hyper.hypervisors.base import Accelerator, Hypervisor, HypervisorInfo, KernelImage, MachineSpec
from hyper.hypervisors.qemu.driver import QemuHypervisor
from hyper.hypervisors.qemu.settings import QemuSettings
from hyper.sandboxes.boot_image import BootImage, GuestSettings
from hyper.sandboxes.cold_boot import ColdBoot
from hyper.sandboxes.model import (
    DiskRecord,
    SandboxConfig,
    SandboxesInfo,
    SandboxRecord,
    SandboxRequest,
)
from hyper.sandboxes.sizing import Host, SizingSettings, size_for
from hyper.sandboxes.supervisor import Sandbox
from hyper.system import blocking
from hyper.system.identities import Identities, UidRange

__all__ = [
    "DiskRecord",
    "Interface",
    "Route",
    "Sandbox",
    "SandboxConfig",
    "SandboxRecord",
    "SandboxRequest",
    "SandboxSettings",
    "SandboxSource",
    "SandboxesInfo",
]

_log = logging.getLogger(__name__)
_ADOPT_S = 10.0


class ConnectAgent(Protocol):
    """:meth:`hyper.guest.agent.Agent.connect`, or a test's."""

    async def __call__(self, socket: Path, *, instance: str, first: bool, deadline_s: float) -> Agent: ...


@dataclass(frozen=True)
class SandboxSettings:
    """Settings of this part. ``runtime_dir`` gets one directory per sandbox; short, for unix sockets lie in it."""

    runtime_dir: Path
    guest: GuestSettings
    qemu: QemuSettings
    sizing: SizingSettings = field(default_factory=SizingSettings)
    uid_lock_file: Path = Path("/run/hyper-vmm-uids")
    """The same for every daemon on the host, whatever its roots."""
    uids: UidRange = field(default_factory=UidRange)
    boot_timeout_s: float = 30.0


def _ignore(_: object) -> None:
    pass


class SandboxSource:
    """See the module. Made by the daemon's wiring; ``on_record`` and ``on_gone`` are set by the engine before it
    opens."""

    def __init__(
        self,
        settings: SandboxSettings,
        *,
        connect: ConnectAgent = Agent.connect,
        hypervisor: Callable[[Identities, Callable[[], KernelImage], Callable[[Path], Awaitable[bool]]], Hypervisor]
        | None = None,
    ) -> None:
        """``hypervisor`` makes the driver; None: QEMU with these settings."""
        self.on_record: Callable[[SandboxRecord], None] = _ignore
        self.on_gone: Callable[[str], None] = _ignore
        self.default_memory_bytes = settings.sizing.default_memory_bytes
        self._settings = settings
        self._connect = connect
        self._host = Host.here()
        self._directory = settings.runtime_dir / "vm"
        self._directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._identities = Identities(settings.uid_lock_file, settings.uids)
        make = hypervisor or (lambda identities, image, alive: QemuHypervisor(settings.qemu, identities, image, alive))
        self._hypervisor = make(self._identities, self._probe_image, self._agent_answers)
        self._boot_image: BootImage | None = None
        self._info: HypervisorInfo | None = None
        self._problem: HyperError | None = None
        self._agent_version = ""
        self._preparing = asyncio.Lock()
        self._live: dict[str, Sandbox] = {}

    async def open(self) -> None:
        """Find the kernel and probe the hypervisor. What is missing is no failure here: it is told by :meth:`describe`
        and by every :meth:`acquire` until it is there."""
        try:
            await self._prepare()
        except HyperError as error:
            self._problem = error
            _log.warning("no container can start yet: %s", error.message)

    async def close(self) -> None:
        """Let go of the sandboxes; they run on, and a later daemon adopts them."""
        for sandbox in list(self._live.values()):
            await sandbox.release()
        self._live.clear()
        await self._hypervisor.close()
        self._identities.close()

    async def acquire(self, request: SandboxRequest) -> Sandbox:
        """A sandbox for this request alone, its agent ready and configured. Leaves nothing behind when it fails or is
        cancelled. InvalidArgument for impossible sizes, FailedPrecondition or NotFound for what the host lacks,
        Unavailable when the VM did not come up."""
        with ExitStack() as taps:
            for nic in request.nics:
                taps.callback(os.close, nic.tap_fd)
            boot_image, info = await self._prepare()
            emulated = info.accelerator is not Accelerator.KVM
            size = size_for(request.memory_bytes, request.cpus, self._settings.sizing, self._host, emulated=emulated)
            uid = self._identities.allocate()
            taps.pop_all()  # the driver closes them from here on
        spec = MachineSpec(
            sandbox_id=request.sandbox_id,
            runtime_dir=self._runtime_dir(request.sandbox_id),
            image=boot_image.image(emulated=emulated),
            memory_bytes=size.memory_bytes,
            max_memory_bytes=size.max_memory_bytes,
            cpus=size.cpus,
            max_cpus=size.max_cpus,
            uid=uid,
            nics=request.nics,
        )
        boot = ColdBoot(self._hypervisor, self._connect_first, self._settings.boot_timeout_s)
        try:
            vmm, agent, timings = await boot.start(spec, request.configure)
        except BaseException:
            self._identities.free(spec.uid)
            raise
        self._agent_version = agent.version
        record = SandboxRecord(
            sandbox_id=request.sandbox_id,
            owner=request.owner,
            pid=vmm.identity.pid,
            start_time=vmm.identity.start_time,
            boot_id=vmm.identity.boot_id,
            uid=spec.uid,
            memory_bytes=spec.memory_bytes,
            max_memory_bytes=spec.max_memory_bytes,
            cpus=spec.cpus,
            max_cpus=spec.max_cpus,
        )
        sandbox = self._supervise(
            Sandbox(vmm, agent, record, spec.runtime_dir, timings, on_record=self._recorded, on_end=self._ended)
        )
        self.on_record(record)
        return sandbox

    async def adopt(self, record: SandboxRecord) -> Sandbox:
        """Take over a sandbox of an earlier daemon. NotFound when its VMM is gone."""
        self._identities.hold(record.uid)
        directory = self._runtime_dir(record.sandbox_id)
        nothing = Path("/nonexistent")  # a running machine is not booted again
        spec = MachineSpec(
            record.sandbox_id,
            directory,
            KernelImage(nothing, nothing, ""),
            record.memory_bytes,
            record.max_memory_bytes,
            record.cpus,
            record.max_cpus,
            record.uid,
        )
        try:
            vmm = await self._hypervisor.adopt(
                spec, record.identity, tuple((disk.spec, disk.address) for disk in record.disks)
            )
        except NotFound:
            await self._clear(record.sandbox_id)
            self._identities.free(record.uid)
            raise
        try:
            async with asyncio.timeout(2 * _ADOPT_S):  # it also tells its state, which has a longer deadline elsewhere
                agent = await self._connect(
                    vmm.agent_socket,
                    instance=secrets.token_hex(16),
                    first=False,
                    deadline_s=_ADOPT_S,
                )
        except (HyperError, TimeoutError) as error:
            # It cannot be told from a hung guest what runs in it, so nothing of it can be kept.
            await vmm.kill()
            await self._clear(record.sandbox_id)
            self._identities.free(record.uid)
            raise NotFound(
                f"the guest agent of sandbox {record.sandbox_id} does not answer: {error or 'in time'}"
            ) from error
        except BaseException:
            await vmm.release()
            raise
        sandbox = self._supervise(
            Sandbox(vmm, agent, record, directory, {}, on_record=self._recorded, on_end=self._ended)
        )
        self.on_record(record)
        return sandbox

    async def reap_strays(self, keep: frozenset[str]) -> list[str]:
        """End VMMs of this daemon's root that are not in ``keep`` and clear away their files; their ids."""
        killed = await self._hypervisor.reap_strays(keep)
        for entry in await blocking.run(lambda: list(self._directory.iterdir())):
            if entry.name not in keep and entry.name not in self._live:
                await blocking.run(shutil.rmtree, entry, ignore_errors=True)
        return killed

    def describe(self) -> SandboxesInfo:
        """What is known without asking anybody."""
        info, kernel = self._info, self._boot_image.kernel if self._boot_image else None
        return SandboxesInfo(
            hypervisor=info.name if info else "",
            hypervisor_version=info.version if info else "",
            accelerator=info.accelerator.value if info else "",
            accelerator_reason=info.reason if info else (self._problem.message if self._problem else "being tried"),
            kernel_kind=kernel.kind if kernel else "",
            kernel_release=kernel.release if kernel else "",
            kernel_path=kernel.vmlinux if kernel else None,
            agent_version=self._agent_version,
            template="none yet: every sandbox is booted",
            default_memory_bytes=self._settings.sizing.default_memory_bytes,
            default_cpus=self._settings.sizing.vcpus(
                self._host, emulated=info is None or info.accelerator is not Accelerator.KVM
            ),
            warnings=(*(info.notes if info else ()), *((self._problem.message,) if self._problem else ())),
        )

    async def _prepare(self) -> tuple[BootImage, HypervisorInfo]:
        """Kernel, initramfs and probe, once; tried again as long as something is missing."""
        async with self._preparing:
            if self._boot_image is None:
                self._boot_image = await blocking.run(BootImage.prepare, self._settings.guest)
            if self._info is None:
                self._info = await self._hypervisor.probe()
            self._problem = None
            return self._boot_image, self._info

    def _probe_image(self) -> KernelImage:
        assert self._boot_image is not None  # _prepare makes it before it probes
        return self._boot_image.image(emulated=False)

    async def _connect_first(self, socket: Path, deadline_s: float) -> Agent:
        return await self._connect(socket, instance=secrets.token_hex(16), first=True, deadline_s=deadline_s)

    async def _agent_answers(self, socket: Path) -> bool:
        try:
            agent = await self._connect_first(socket, self._settings.boot_timeout_s)
        except Unavailable:
            return False
        await agent.release()
        return True

    def _runtime_dir(self, sandbox_id: str) -> Path:
        return self._directory / sandbox_id

    async def _clear(self, sandbox_id: str) -> None:
        await blocking.run(shutil.rmtree, self._runtime_dir(sandbox_id), ignore_errors=True)

    def _supervise(self, sandbox: Sandbox) -> Sandbox:
        self._live[sandbox.id] = sandbox
        return sandbox

    def _recorded(self, record: SandboxRecord) -> None:
        self.on_record(record)

    def _ended(self, record: SandboxRecord) -> None:
        self._live.pop(record.sandbox_id, None)
        self._identities.free(record.uid)
        self.on_gone(record.sandbox_id)
