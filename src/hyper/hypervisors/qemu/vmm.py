"""A running QEMU: its disks, its end, and what it leaves behind.

The process is watched by pidfd and commanded over QMP; both work for one that an earlier daemon launched. Made by
:mod:`hyper.hypervisors.qemu.driver`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hyper.errors import AlreadyExists, HyperError, NotFound, Unavailable
from hyper.hypervisors.base import DiskAddress, DiskSpec, MachineSpec, VmmExit, VmmIdentity
from hyper.hypervisors.qemu import command_line, disks, growth, shares, snapshots
from hyper.hypervisors.qemu.disks import Slot
from hyper.hypervisors.qemu.limits import limits
from hyper.hypervisors.qemu.qmp import Qmp
from hyper.system.cgroups import Cgroup
from hyper.system.memfd import BoundedLog
from hyper.system.processes import Process

AGENT_SOCKET = "agent.sock"
QMP_SOCKET = "qmp.sock"
CONSOLE_LOG = "hyper-console"
STDERR_LOG = "hyper-stderr"
_DRAIN_S = 1.0
_LAST_WORDS_CHARACTERS = 500
_PANIC = "Kernel panic - not syncing"
_POWERED_OFF = {"guest-shutdown", "host-qmp-quit"}


@dataclass(frozen=True)
class Logs:
    """What QEMU and the guest's console print, bounded."""

    stderr: BoundedLog | None
    console: BoundedLog | None

    def last_words(self) -> str:
        """QEMU's own and the console's: a kernel's panic message if there is one, else the end of what was printed."""
        words: list[str] = []
        for log in (self.stderr, self.console):
            text = log.text() if log is not None else ""
            panic = text.rfind(_PANIC)
            words.append(text[panic:].partition("\n")[0] if panic >= 0 else text[-_LAST_WORDS_CHARACTERS:].strip())
        return "\n".join(filter(None, words))[-2 * _LAST_WORDS_CHARACTERS :]

    def close(self) -> None:
        for log in (self.stderr, self.console):
            if log is not None:
                log.close()


@dataclass(frozen=True)
class Belongings:
    """What :meth:`launch` made for a VMM and its end must free."""

    runtime_dir: Path
    cgroup: Cgroup
    logs: Logs

    async def free(self) -> None:
        for name in (AGENT_SOCKET, QMP_SOCKET):
            (self.runtime_dir / name).unlink(missing_ok=True)
        self.logs.close()
        await self.cgroup.remove()


class QemuVmm:
    """One QEMU. See :class:`hyper.hypervisors.base.Vmm` for what each method promises."""

    def __init__(
        self,
        process: Process,
        qmp: Qmp,
        belongings: Belongings,
        spec: MachineSpec,
        attached: Iterable[tuple[DiskSpec, Slot]] = (),
    ) -> None:
        self.identity = VmmIdentity(process.pid, process.start_time, process.boot_id)
        self.agent_socket = belongings.runtime_dir / AGENT_SOCKET
        self._process = process
        self._qmp = qmp
        self._belongings = belongings
        self._spec = spec
        self._disks: dict[str, Slot] = {}
        for disk, slot in attached:
            self._disks[disk.disk_id] = slot
        self._last_slot = max((slot.number for slot in self._disks.values()), default=-1)
        self._exit: VmmExit | None = None
        self._ending = asyncio.Lock()
        self._words = ""

    async def attach_disk(self, disk: DiskSpec) -> DiskAddress:
        self._check_alive()
        if disk.disk_id in self._disks:
            raise AlreadyExists(f"disk {disk.disk_id} is attached already")
        slot = disks.next_free({slot.number for slot in self._disks.values()}, self._last_slot)
        self._last_slot = slot.number
        self._disks[disk.disk_id] = slot  # before the first await: parallel calls get other slots
        try:
            await disks.plug(self._qmp, disk, slot)
        except BaseException as error:
            await self._undo_attach(disk.disk_id, slot)
            if isinstance(error, HyperError):
                self._check_alive()
            raise
        return slot.address

    async def detach_disk(self, disk_id: str) -> None:
        self._check_alive()
        slot = self._disks.get(disk_id)
        if slot is None:
            raise NotFound(f"disk {disk_id} is not attached")
        await disks.unplug(self._qmp, slot)
        self._disks.pop(disk_id, None)

    async def save(self, state_fd: int) -> None:
        self._check_alive()
        await snapshots.save(self._qmp, state_fd)

    async def grow_memory(self, memory_bytes: int) -> None:
        self._check_alive()
        base, block = self._spec.memory_bytes, command_line.GUEST_BLOCK_MIB << 20
        most = base + (command_line.growth_mib(self._spec) << 20)
        await growth.grow_memory(self._qmp, base, memory_bytes, most, block)

    async def add_cpus(self, cpus: int) -> None:
        self._check_alive()
        await growth.add_cpus(self._qmp, cpus)

    async def attach_share(self, tag: str, socket_fd: int) -> None:
        self._check_alive()
        await shares.plug(self._qmp, tag, socket_fd)

    def bound(self, memory_bytes: int, cpus: int) -> None:
        self._belongings.cgroup.apply(limits(self._spec, memory_bytes, cpus))

    def defer(self, deferred: bool) -> None:
        self._belongings.cgroup.set_background(deferred)

    async def wait(self) -> VmmExit:
        if self._exit is None:
            await self._process.wait()
            await self._finish()
        assert self._exit is not None
        return self._exit

    def last_words(self) -> str:
        return self._words or self._belongings.logs.last_words()

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()
        await self._finish()

    async def release(self) -> None:
        await self._qmp.close()
        self._process.close()
        self._belongings.logs.close()

    def _check_alive(self) -> None:
        if self._process.ended:
            raise Unavailable(f"the VM has ended: {self._exit.reason if self._exit else 'its QEMU is gone'}")

    async def _undo_attach(self, disk_id: str, slot: Slot) -> None:
        try:
            await disks.unplug(self._qmp, slot)
        except Unavailable:
            return  # hung or dead: the slot stays taken, and its end frees the file
        self._disks.pop(disk_id, None)

    async def _finish(self) -> None:
        """After the process's death: learn why, then free everything. Once."""
        async with self._ending:
            if self._exit is not None:
                return
            status = await self._process.wait()
            await self._qmp.drain(_DRAIN_S)
            self._words = self._belongings.logs.last_words()
            self._exit = self._explain(str(status), status.signal is not None)
            await self._qmp.close()
            self._process.close()
            await self._belongings.free()

    def _explain(self, status: str, killed: bool) -> VmmExit:
        cause = self._qmp.shutdown_reason
        if cause in _POWERED_OFF:
            return VmmExit(True, "powered off")
        if killed:
            return VmmExit(False, f"QEMU was {status}")
        what = (
            "the guest's kernel panicked or reset the machine"
            if cause in ("guest-reset", "guest-panic")
            else f"QEMU {status}"
        )
        return VmmExit(False, f"{what}; last words: {self._words}" if self._words else what)
