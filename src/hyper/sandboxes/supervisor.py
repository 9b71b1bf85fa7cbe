"""One sandbox and its life: its VMM, its agent, its disks, its end.

Whoever gets a :class:`Sandbox` owns it until :meth:`Sandbox.destroy` or :meth:`Sandbox.release`. Made by
:mod:`hyper.sandboxes.source`; every change that a restarted daemon must know of is announced as a new record.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hyper.errors import Conflict, HyperError, NotFound, Unavailable, Unsupported
from hyper.guest.agent import Agent
from hyper.hypervisors.base import DiskSpec, Resizable, Sharing, Vmm
from hyper.sandboxes.model import DiskRecord, FileSystem, Rung, SandboxRecord
from hyper.sandboxes.sizing import Size
from hyper.system import blocking
from hyper.volumes.file_server import FileServer, SharedTree

Serve = Callable[[Path, Sequence[SharedTree]], Awaitable[tuple[FileServer, socket.socket]]]
SHARE_TAG = "hyper-share"

_log = logging.getLogger(__name__)
_SHUTDOWN_S = 5.0
"""Killing, syncing and unmounting in the guest; a big dirty page cache is what takes time."""
_POWER_OFF_S = 2.0
_SETTLE_S = 0.5


class Sandbox:
    """A running VM with an agent that answers."""

    def __init__(
        self,
        vmm: Vmm,
        agent: Agent,
        record: SandboxRecord,
        runtime_dir: Path,
        timings: dict[str, float],
        *,
        card: str,
        rung: Rung,
        size: Callable[[int | None, float | None], Size],
        on_end: Callable[[SandboxRecord, bool], None],
        serve: Serve = FileServer.start,
        file_server: FileServer | None = None,
    ) -> None:
        """``timings``: milliseconds by phase. ``card``: its tap, empty without one. ``on_end`` is called once all is
        freed (not after a release), with whether it had been given out."""
        self.id = record.sandbox_id
        self.agent = agent
        self.record = record
        self.timings = timings
        self.card = card
        self.rung = rung
        self._vmm = vmm
        self._runtime_dir = runtime_dir
        self._size = size
        self._on_record: Callable[[SandboxRecord], None] | None = None
        self._on_end = on_end
        self._serve = serve
        self._file_server = file_server
        self._resizing = asyncio.Lock()
        self._bound_bytes: int | None = None
        """The memory of the machine that the VMM is held to."""
        self._plugging: dict[Path, asyncio.Lock] = {}
        self._destroying: asyncio.Task[None] | None = None
        self._released = False

    @property
    def vmm(self) -> Vmm:
        return self._vmm

    def give_out(self, owner: str, on_record: Callable[[SandboxRecord], None]) -> None:
        """It is somebody's now: the record of it is announced, and so is each new one."""
        self._on_record = on_record
        self._change(msgspec.structs.replace(self.record, owner=owner))

    async def resize(self, memory_bytes: int | None, cpus: float | None) -> None:
        """Make room for a workload limited to this much; None: the default. A VM that is big enough already stays as
        it is: the guest's cgroup holds the limit. What the VMM may take from the host follows. InvalidArgument beyond
        what the host has, Unavailable or DeadlineExceeded when the guest does not follow."""
        async with self._resizing:
            size = self._size(memory_bytes, cpus)
            grow_memory = size.memory_bytes > self.record.memory_bytes + self.record.grown_bytes
            add_cpus = size.cpus > self.record.cpus
            have = max(size.memory_bytes, self.record.memory_bytes + self.record.grown_bytes)
            if self._bound_bytes is None and self._on_record is not None:
                self._bound_bytes = have  # an earlier daemon's: whatever it was held to, it was not more
            # Never less than before: the VMM keeps what its guest once used, and would be killed for it.
            self._bound_bytes = max(self._bound_bytes or 0, size.memory_bytes)
            self._vmm.bound(self._bound_bytes, max(size.cpus, self.record.cpus))
            if not (grow_memory or add_cpus):
                return
            if not isinstance(self._vmm, Resizable):
                raise Unsupported(
                    "this hypervisor cannot make a running VM bigger; stop the container and start it again"
                )
            if grow_memory:
                await self._vmm.grow_memory(size.memory_bytes)
            if add_cpus:
                await self._vmm.add_cpus(size.cpus)
            await self.agent.resize(
                cpus=size.cpus if add_cpus else None, memory_bytes=size.memory_bytes if grow_memory else None
            )
            self._change(
                msgspec.structs.replace(
                    self.record,
                    grown_bytes=have - self.record.memory_bytes,
                    cpus=max(size.cpus, self.record.cpus),
                )
            )

    async def attach_disk(self, path: Path, *, fs: FileSystem, readonly: bool) -> dict[str, Any]:
        """Plug in a disk by its absolute path; the protocol's Disk object says where the guest finds it. Attaching a
        read-only disk again counts and gives the same place; Conflict for a writable one."""
        async with self._plugging.setdefault(path, asyncio.Lock()):
            known = self._disk(path)
            if known is not None:
                if not (readonly and known.readonly):
                    raise Conflict(f"disk {path} is attached to sandbox {self.id} already")
                disk = msgspec.structs.replace(known, users=known.users + 1)
            else:
                spec = DiskSpec(f"d-{secrets.token_hex(6)}", path, readonly)
                where = await self._vmm.attach_disk(spec)
                disk = DiskRecord(
                    spec.disk_id, str(path), fs, readonly, channel=where.channel, target=where.target, lun=where.lun
                )
            self._put(path, disk)
        return {"scsi": {"channel": disk.channel, "target": disk.target, "lun": disk.lun}, "fs": disk.fs}

    async def detach_disk(self, path: Path) -> None:
        """Undo one attach; the last one unplugs it. The guest must have let go of it before. NotFound if not
        attached."""
        async with self._plugging.setdefault(path, asyncio.Lock()):
            disk = self._disk(path)
            if disk is None:
                raise NotFound(f"disk {path} is not attached to sandbox {self.id}")
            if disk.users > 1:
                self._put(path, msgspec.structs.replace(disk, users=disk.users - 1))
            else:
                await self._vmm.detach_disk(disk.disk_id)
                self._put(path, None)

    async def share(self, trees: Sequence[SharedTree]) -> str:
        """Have directories and files of the host served to it, as ``0``, ``1``, … of a virtio file system; its tag.
        Once in its life, and only for one that was asked for with shared memory. FailedPrecondition or InvalidArgument
        for sources that cannot be had."""
        if not isinstance(self._vmm, Sharing):
            raise Unsupported("this hypervisor cannot give a VM directories of the host")
        if self._file_server is not None:
            raise Conflict(f"sandbox {self.id} has its shared directories already")
        self._file_server, connection = await self._serve(self._runtime_dir, trees)
        with connection:
            await self._vmm.attach_share(SHARE_TAG, connection.fileno())
        self._change(msgspec.structs.replace(self.record, file_server=self._file_server.identity))
        return SHARE_TAG

    async def wait(self) -> str:
        """Why it ended, once the VMM is dead, the agent's link is lost for good, or nobody serves its shared
        directories any more. Any number of waiters."""
        ended = asyncio.create_task(self._vmm.wait())
        cut = asyncio.create_task(self.agent.closed())
        unserved = asyncio.create_task(self._unserved())
        try:
            await asyncio.wait((ended, cut, unserved), return_when=asyncio.FIRST_COMPLETED)
            # A dying VMM cuts the link first: its own reason is the better one.
            await asyncio.wait((ended,), timeout=_SETTLE_S)
            if ended.done():
                return ended.result().reason
            if unserved.done():
                return unserved.result()
            return f"the link to the guest's agent is lost: {cut.result()}"
        finally:
            for task in (ended, cut, unserved):
                task.cancel()
            await asyncio.gather(ended, cut, unserved, return_exceptions=True)

    async def _unserved(self) -> str:
        """Programs that use a directory which nobody serves hang for ever."""
        while self._file_server is None:
            await asyncio.get_running_loop().create_future()
        return await self._file_server.wait()

    async def destroy(self, *, graceful: bool) -> None:
        """End it and free everything. Idempotent; a caller that is cancelled does not stop it. ``graceful``: the agent
        kills its processes, syncs and unmounts first, for at most a few seconds."""
        if self._released:
            raise Unavailable(f"sandbox {self.id} was let go of")
        if self._destroying is None:
            self._destroying = asyncio.create_task(self._destroy(graceful), name=f"destroy-{self.id[:12]}")
        await asyncio.shield(self._destroying)

    async def release(self) -> None:
        """Let go of it without ending it, for a daemon that exits; a later one adopts it."""
        self._released = True
        if self._destroying is not None:
            await self._destroying
            return
        await self.agent.release()
        await self._vmm.release()
        if self._file_server is not None:
            self._file_server.release()

    async def _destroy(self, graceful: bool) -> None:
        if graceful:
            try:
                async with asyncio.timeout(_SHUTDOWN_S):
                    await self.agent.shutdown()
                async with asyncio.timeout(_POWER_OFF_S):
                    await self._vmm.wait()
            except (HyperError, TimeoutError) as error:
                _log.warning(
                    "sandbox %s did not shut down by itself (%s); killing it", self.id[:12], str(error) or "in time"
                )
        await self._vmm.kill()
        if self._file_server is not None:
            await self._file_server.stop()
        await self.agent.release()
        await blocking.run(shutil.rmtree, self._runtime_dir, ignore_errors=True)
        self._on_end(self.record, self._on_record is not None)

    def _disk(self, path: Path) -> DiskRecord | None:
        return next((disk for disk in self.record.disks if disk.path == str(path)), None)

    def _put(self, path: Path, disk: DiskRecord | None) -> None:
        """Record a disk's new state (None: gone)."""
        others = tuple(known for known in self.record.disks if known.path != str(path))
        self._change(msgspec.structs.replace(self.record, disks=others if disk is None else (*others, disk)))

    def _change(self, record: SandboxRecord) -> None:
        self.record = record
        if self._on_record is not None:
            self._on_record(record)
