"""A hypervisor without VMs, for tests of what stands on hypervisors: real sockets, files and memory, a scripted guest.

It passes the same contract suite as QEMU (tests/contract), which is what makes it a verified fake. Its "VMMs" live in a
:class:`FakeHost`, apart from the driver, so that another driver can adopt them as after a restart of the daemon.
"""

from __future__ import annotations

import asyncio
import itertools
import mmap
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hyper.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from hyper.hypervisors.base import (
    Accelerator,
    DiskAddress,
    DiskSpec,
    HypervisorInfo,
    MachineSpec,
    VmmExit,
    VmmIdentity,
)
from hyper.hypervisors.qemu.disks import next_free, open_locked
from hyper.system.unix_sockets import listen

Guest = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What answers on the agent's socket, once per connection."""

_BOOT_ID = "fake"


@dataclass
class FakeMachine:
    """A fake VMM: what would be a process."""

    spec: MachineSpec
    identity: VmmIdentity
    server: asyncio.Server
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    disks: dict[str, tuple[int, int]] = field(default_factory=dict)
    shares: list[str] = field(default_factory=list)
    """Disk id to (slot, open descriptor)."""
    last_slot: int = -1
    exit: VmmExit | None = None
    talks: set[asyncio.Task[None]] = field(default_factory=set)
    memory: mmap.mmap | None = None
    """Of a machine with a memory file; the test writes to it in the guest's place."""
    bounds: tuple[int, int] | None = None
    deferred: bool = False

    @property
    def socket(self) -> Path:
        return self.spec.runtime_dir / "agent.sock"

    async def end(self, exit: VmmExit) -> None:
        if self.exit is not None:
            return
        self.exit = exit
        self.server.close()
        for talk in self.talks:
            talk.cancel()
        await asyncio.gather(*self.talks, return_exceptions=True)
        for _, fd in self.disks.values():
            os.close(fd)
        self.disks.clear()
        if self.memory is not None:
            self.memory.close()
        self.socket.unlink(missing_ok=True)
        self.ended.set()


class FakeHost:
    """What outlives a daemon: the machines. ``guest`` scripts what answers in each."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._pids = itertools.count(1_000_000_000)  # above any real pid
        self.machines: dict[int, FakeMachine] = {}

    async def start(self, spec: MachineSpec) -> FakeMachine:
        talks: set[asyncio.Task[None]] = set()
        one_at_a_time = asyncio.Lock()  # as QEMU: the next connection waits

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            talks.add(task)
            try:
                async with one_at_a_time:
                    await self._guest(reader, writer)
            except (ConnectionError, asyncio.CancelledError):
                pass  # the host hung up, or the machine ends
            finally:
                talks.discard(task)
                writer.close()

        memory = _mapped(spec)
        server = await asyncio.start_unix_server(talk, sock=listen(spec.runtime_dir / "agent.sock"))
        pid = next(self._pids)
        machine = FakeMachine(spec, VmmIdentity(pid, pid, _BOOT_ID), server, talks=talks, memory=memory)
        self.machines[pid] = machine
        return machine

    async def crash(self, sandbox_id: str, reason: str) -> None:
        """The machine ends by itself."""
        for machine in tuple(self.machines.values()):
            if machine.spec.sandbox_id == sandbox_id:
                await machine.end(VmmExit(False, reason))

    async def close(self) -> None:
        for machine in tuple(self.machines.values()):
            await machine.end(VmmExit(False, "the fake host was closed"))


def _mapped(spec: MachineSpec) -> mmap.mmap | None:
    if spec.memory_file is None:
        return None
    flags = mmap.MAP_SHARED if spec.memory_file.shared else mmap.MAP_PRIVATE
    return mmap.mmap(spec.memory_file.fd, spec.memory_bytes, flags, mmap.PROT_READ | mmap.PROT_WRITE)


class FakeVmm:
    """See :class:`hyper.hypervisors.base.Vmm`."""

    def __init__(self, machine: FakeMachine) -> None:
        self.identity = machine.identity
        self.agent_socket = machine.socket
        self._machine = machine

    async def attach_disk(self, disk: DiskSpec) -> DiskAddress:
        self._check_alive()
        machine = self._machine
        if disk.disk_id in machine.disks:
            raise AlreadyExists(f"disk {disk.disk_id} is attached already")
        fd = open_locked(disk)
        slot = next_free({number for number, _ in machine.disks.values()}, machine.last_slot)
        machine.last_slot = slot.number
        machine.disks[disk.disk_id] = (slot.number, fd)
        return slot.address

    async def detach_disk(self, disk_id: str) -> None:
        self._check_alive()
        try:
            _, fd = self._machine.disks.pop(disk_id)
        except KeyError as error:
            raise NotFound(f"disk {disk_id} is not attached") from error
        os.close(fd)

    async def attach_share(self, tag: str, socket_fd: int) -> None:
        self._check_alive()
        os.fstat(socket_fd)  # an open one
        self._machine.shares.append(tag)

    async def save(self, state_fd: int) -> None:
        self._check_alive()
        os.write(state_fd, b"the fake's state")

    async def grow_memory(self, memory_bytes: int) -> None:
        self._check_alive()
        if memory_bytes > self._machine.spec.max_memory_bytes:
            raise InvalidArgument(f"this VM can have at most {self._machine.spec.max_memory_bytes} bytes of memory")

    async def add_cpus(self, cpus: int) -> None:
        self._check_alive()
        if cpus > self._machine.spec.max_cpus:
            raise InvalidArgument(f"this VM can have at most {self._machine.spec.max_cpus} processors")

    def bound(self, memory_bytes: int, cpus: int) -> None:
        self._machine.bounds = (memory_bytes, cpus)

    def defer(self, deferred: bool) -> None:
        self._machine.deferred = deferred

    async def wait(self) -> VmmExit:
        await self._machine.ended.wait()
        assert self._machine.exit is not None
        return self._machine.exit

    def last_words(self) -> str:
        return ""

    async def kill(self) -> None:
        await self._machine.end(VmmExit(False, "killed by signal 9 (SIGKILL)"))

    async def release(self) -> None:
        pass

    def _check_alive(self) -> None:
        if self._machine.exit is not None:
            raise Unavailable(f"the VM has ended: {self._machine.exit.reason}")


class FakeHypervisor:
    """See :class:`hyper.hypervisors.base.Hypervisor`."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def probe(self) -> HypervisorInfo:
        return HypervisorInfo("fake", "1", Path("/nonexistent"), Accelerator.NONE, "a test's")

    def template_key(self, spec: MachineSpec, info: HypervisorInfo) -> str:
        sizes = (spec.memory_bytes, spec.max_memory_bytes, spec.cpus, spec.max_cpus, len(spec.nics))
        return " ".join([info.version, *map(str, sizes), spec.image.command_line])

    async def launch(self, spec: MachineSpec) -> FakeVmm:
        try:
            if spec.restore is not None and os.read(spec.restore.fd, 100) != b"the fake's state":
                raise DataLoss("this is no state of the fake's")
            for path in (spec.image.kernel, spec.image.initrd):
                if not os.access(path, os.R_OK):
                    raise FailedPrecondition(f"{path} cannot be opened")
            return FakeVmm(await self._host.start(spec))
        finally:
            for nic in spec.nics:
                os.close(nic.tap_fd)

    async def adopt(
        self, spec: MachineSpec, identity: VmmIdentity, disks: tuple[tuple[DiskSpec, DiskAddress], ...]
    ) -> FakeVmm:
        machine = self._host.machines.get(identity.pid)
        if (
            machine is None
            or machine.exit
            or machine.identity != identity
            or machine.spec.sandbox_id != spec.sandbox_id
        ):
            raise NotFound(f"process {identity.pid} is gone")
        known = {disk.disk_id for disk, _ in disks}
        for disk_id in machine.disks.keys() - known:
            os.close(machine.disks.pop(disk_id)[1])
        return FakeVmm(machine)

    async def reap_strays(self, keep: frozenset[str]) -> list[str]:
        strays = [m for m in self._living() if m.spec.sandbox_id not in keep]
        for machine in strays:
            await machine.end(VmmExit(False, "reaped"))
        return [machine.spec.sandbox_id for machine in strays]

    async def close(self) -> None:
        """The fake has nothing beside its machines."""

    def _living(self) -> Iterable[FakeMachine]:
        return [machine for machine in self._host.machines.values() if machine.exit is None]
