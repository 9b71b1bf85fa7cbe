"""The QEMU driver: launches VMMs, adopts those of an earlier daemon, and ends those that nobody knows any more.

Order of a launch, each step undone when a later one fails or the caller is cancelled: sockets and logs made by us,
QEMU started under its own uid with them as descriptors, moved into its cgroup, QMP negotiated. As the sockets listen
before QEMU exists there is no race to connect, and a later daemon connects to the same ones.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from hyper.errors import DataLoss, FailedPrecondition, NotFound, Unavailable
from hyper.hypervisors.base import (
    Accelerator,
    DiskAddress,
    DiskSpec,
    HypervisorInfo,
    KernelImage,
    MachineSpec,
    SavedState,
    VmmIdentity,
)
from hyper.hypervisors.qemu import command_line, disks, probe, snapshots
from hyper.hypervisors.qemu.command_line import Descriptors
from hyper.hypervisors.qemu.disks import Slot
from hyper.hypervisors.qemu.limits import limits
from hyper.hypervisors.qemu.qmp import Qmp
from hyper.hypervisors.qemu.settings import QemuSettings
from hyper.hypervisors.qemu.vmm import AGENT_SOCKET, CONSOLE_LOG, QMP_SOCKET, STDERR_LOG, Belongings, Logs, QemuVmm
from hyper.system import blocking, processes
from hyper.system.cgroups import Cgroup, Cgroups
from hyper.system.identities import Identities
from hyper.system.memfd import BoundedLog
from hyper.system.processes import ExitStatus, Process
from hyper.system.unix_sockets import listen

T = TypeVar("T")

_LOG_BYTES = 128 << 10
_ENDING_S = 1.0


class QemuHypervisor:
    """See :class:`hyper.hypervisors.base.Hypervisor`. ``image`` and ``is_alive`` serve the probe: what it boots, and
    how it knows that the guest's agent answers on the socket it is given (without a deadline of its own)."""

    def __init__(
        self,
        settings: QemuSettings,
        identities: Identities,
        image: Callable[[], KernelImage],
        is_alive: Callable[[Path], Awaitable[bool]],
    ) -> None:
        self._settings = settings
        self._identities = identities
        self._image = image
        self._is_alive = is_alive
        self._cgroups = Cgroups(settings.root_id)
        self._info: HypervisorInfo | None = None
        self._probing = asyncio.Lock()

    async def probe(self) -> HypervisorInfo:
        async with self._probing:
            if self._info is None:
                binary = self._binary()
                self._info = await probe.choose(self._settings, binary, self._image, self._boots, self._cgroups.notes)
            return self._info

    async def launch(self, spec: MachineSpec) -> QemuVmm:
        with ExitStack() as taps:
            for nic in spec.nics:
                taps.callback(os.close, nic.tap_fd)
            return await self._launch(spec, await self.probe())

    def template_key(self, spec: MachineSpec, info: HypervisorInfo) -> str:
        return "\n".join([command_line.shape(spec, info), *probe.host_facts(info)])

    async def adopt(
        self, spec: MachineSpec, identity: VmmIdentity, disks_known: tuple[tuple[DiskSpec, DiskAddress], ...]
    ) -> QemuVmm:
        try:
            return await self._adopt(spec, identity, disks_known)
        except NotFound:
            await self._cgroups.find(spec.sandbox_id).remove()  # nobody else knows of it any more
            raise

    async def _adopt(
        self, spec: MachineSpec, identity: VmmIdentity, disks_known: tuple[tuple[DiskSpec, DiskAddress], ...]
    ) -> QemuVmm:
        process = Process.open(identity.pid, identity.start_time, identity.boot_id)
        qmp: Qmp | None = None
        try:
            if command_line.sandbox_of(processes.command_line(identity.pid), self._settings.root_id) != spec.sandbox_id:
                raise NotFound(f"process {identity.pid} is not the VMM of sandbox {spec.sandbox_id}")
            qmp = await Qmp.connect(spec.runtime_dir / QMP_SOCKET, self._settings.qmp_timeout_s)
            await qmp.execute("cont")  # the daemon may have died while it stood still (growth.py)
            present = await disks.plugged(qmp)
            known = {disk.disk_id: (disk, Slot(address.target)) for disk, address in disks_known}
            for disk_id, slot in present.items():
                if disk_id not in known:  # the daemon died before it could record this one
                    await disks.unplug(qmp, slot)
        except BaseException as error:
            if qmp is not None:
                await qmp.close()
            gone = process.ended
            process.close()
            if gone and isinstance(error, Unavailable):
                raise NotFound(f"the VMM of sandbox {spec.sandbox_id} has ended") from error
            raise
        logs = Logs(
            BoundedLog.of_process(identity.pid, STDERR_LOG),
            BoundedLog.of_process(identity.pid, CONSOLE_LOG),
        )
        belongings = Belongings(spec.runtime_dir, self._cgroups.find(spec.sandbox_id), logs)
        return QemuVmm(process, qmp, belongings, spec, [known[disk_id] for disk_id in present if disk_id in known])

    async def reap_strays(self, keep: frozenset[str]) -> list[str]:
        killed: list[str] = []
        for pid in processes.all_pids():
            sandbox_id = command_line.sandbox_of(processes.command_line(pid), self._settings.root_id)
            if sandbox_id is None or sandbox_id in keep or not self._is_vmm(pid):
                continue
            started = processes.start_time(pid)
            if started is None:
                continue
            try:
                process = Process.open(pid, started, processes.host_boot_id())
            except NotFound:
                continue
            try:
                # Read again now that the pid is pinned.
                if command_line.sandbox_of(processes.command_line(pid), self._settings.root_id) == sandbox_id:
                    process.kill()
                    await process.wait()
                    killed.append(sandbox_id)
            finally:
                process.close()
        for name in self._cgroups.names() - keep:
            await self._cgroups.find(name).remove()
        return killed

    async def close(self) -> None:
        self._cgroups.remove_group()

    def _is_vmm(self, pid: int) -> bool:
        """Whether it runs under a VMM's uid: anybody can write our marker into a command line."""
        ids = processes.user_ids(pid)
        return bool(ids) and all(uid in self._identities.uids or uid == os.getuid() for uid in ids)

    def _binary(self) -> Path:
        found = shutil.which(self._settings.binary)
        if found is None:
            raise FailedPrecondition(
                f"no {self._settings.binary} on this machine; install QEMU (Debian: apt-get install qemu-system-x86) "
                "or name its path in the configuration"
            )
        return Path(found)

    async def _boots(
        self, info: HypervisorInfo, groups: tuple[int, ...], as_root: bool, timeout_s: float
    ) -> str | None:
        """Boot once with ``info``'s accelerator. None when the guest's agent answered, else what happened instead."""
        directory = Path(tempfile.mkdtemp(prefix="probe-", dir=self._settings.runtime_dir))
        uid = 0 if as_root else self._identities.allocate()
        size = 256 << 20
        spec = MachineSpec(f"probe-{os.getpid()}", directory, self._image(), size, size, 1, 1, uid)
        vmm: QemuVmm | None = None
        try:
            async with asyncio.timeout(timeout_s):
                vmm = await self._launch(spec, info, groups)
                if await self._is_alive(vmm.agent_socket):
                    return None
            return f"the guest did not start ({vmm.last_words() or 'nothing on its console'})"
        except TimeoutError:
            return f"the guest did not start within {timeout_s:g} s (--kvm-timeout gives it longer)"
        except Unavailable as error:
            return error.message
        finally:
            if vmm is not None:
                await vmm.kill()
            self._identities.free(uid)
            shutil.rmtree(directory, ignore_errors=True)

    async def _launch(self, spec: MachineSpec, info: HypervisorInfo, groups: tuple[int, ...] | None = None) -> QemuVmm:
        if groups is None:
            groups = probe.kvm_groups(self._settings.kvm_device) if info.accelerator is Accelerator.KVM else ()
        stderr, console = BoundedLog.create(STDERR_LOG, _LOG_BYTES), BoundedLog.create(CONSOLE_LOG, _LOG_BYTES)
        logs = Logs(stderr, console)
        belongings = Belongings(spec.runtime_dir, Cgroup(()), logs)
        process: Process | None = None
        qmp: Qmp | None = None
        try:
            with ExitStack() as ours:  # descriptors that only the new process keeps
                argv, passed = await self._prepare(spec, info, ours)
                process = await Process.spawn(
                    argv,
                    uid=spec.uid,
                    groups=groups,
                    pass_fds=passed,
                    stdout=console.writer,
                    stderr=stderr.writer,
                )
            console.close_writer()
            stderr.close_writer()
            belongings = Belongings(
                spec.runtime_dir,
                self._cgroups.create(spec.sandbox_id, limits(spec, spec.memory_bytes, spec.cpus)),
                logs,
            )
            self._confine(process, belongings.cgroup)
            qmp = await self._negotiate(process, spec, logs)
            if spec.restore is not None:
                await self._load(qmp, spec.restore, process, logs)
        except BaseException:
            if qmp is not None:
                await asyncio.shield(qmp.close())
            await asyncio.shield(_abandon(process, belongings))
            raise
        return QemuVmm(process, qmp, belongings, spec)

    async def _prepare(self, spec: MachineSpec, info: HypervisorInfo, ours: ExitStack) -> tuple[list[str], list[int]]:
        def keep(fd: int) -> int:
            ours.callback(os.close, fd)
            return fd

        fds = Descriptors(
            kernel=keep(await blocking.run(_readable, spec.image.kernel)),
            initrd=keep(await blocking.run(_readable, spec.image.initrd)),
            qmp=keep(listen(spec.runtime_dir / QMP_SOCKET).detach()),
            agent=keep(listen(spec.runtime_dir / AGENT_SOCKET).detach()),
            taps=tuple(nic.tap_fd for nic in spec.nics),
            memory=spec.memory_file.fd if spec.memory_file else None,
        )
        argv = command_line.build(spec, info, fds, self._settings.root_id)
        memory = [] if fds.memory is None else [fds.memory]
        return argv, [fds.kernel, fds.initrd, fds.qmp, fds.agent, *fds.taps, *memory]

    def _confine(self, process: Process, cgroup: Cgroup) -> None:
        try:
            cgroup.add(process.pid)
        except ProcessLookupError:
            pass  # it has ended already; negotiating will say why
        except OSError as error:
            raise Unavailable(f"the VMM cannot be moved into its cgroup: {error.strerror}") from error

    async def _negotiate(self, process: Process, spec: MachineSpec, logs: Logs) -> Qmp:
        connecting = Qmp.connect(spec.runtime_dir / QMP_SOCKET, self._settings.qmp_timeout_s)
        return await self._explained(connecting, process, logs)

    async def _load(self, qmp: Qmp, state: SavedState, process: Process, logs: Logs) -> None:
        try:
            await snapshots.load(qmp, state.fd)
        except Unavailable as error:
            status = await _end_of(process)
            if status is None or status.signal is not None:
                raise
            # It looked at the state and gave up.
            words = logs.last_words()
            raise DataLoss(f"QEMU did not take the saved machine: {words or f'it {status}'}") from error

    async def _explained(self, step: Awaitable[T], process: Process, logs: Logs) -> T:
        """``step``'s result; when it fails because QEMU has ended, why that was."""
        try:
            return await step
        except Unavailable as error:
            status = await _end_of(process)
            if status is None:
                raise
            words = logs.last_words()
            raise Unavailable(f"QEMU did not start: {status}{': ' + words if words else ''}") from error


async def _end_of(process: Process) -> ExitStatus | None:
    """How it ended, if it is ending; None when it lives on."""
    try:
        async with asyncio.timeout(_ENDING_S):
            return await process.wait()
    except TimeoutError:
        return None


def _readable(path: Path) -> int:
    """A descriptor that a VMM without any rights can open again through /proc/self/fd: the file, or a copy when it is
    private."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise FailedPrecondition(f"{path} cannot be opened: {error.strerror}") from error
    if os.fstat(fd).st_mode & stat.S_IROTH:
        return fd
    try:
        copy = os.memfd_create(path.name, os.MFD_CLOEXEC)
        try:
            while os.sendfile(copy, fd, None, 1 << 30):
                pass
        except BaseException:
            os.close(copy)
            raise
        return copy
    finally:
        os.close(fd)


async def _abandon(process: Process | None, belongings: Belongings) -> None:
    if process is not None:
        process.kill()
        await process.wait()
        process.close()
    await belongings.free()
