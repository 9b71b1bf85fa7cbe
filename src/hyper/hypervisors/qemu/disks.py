"""Hot-plugged disks: opened and locked by us, handed over by descriptor, plugged into the virtio-scsi controller.

A disk's *slot* (0 to 255) is its SCSI target and gives every name QEMU knows it by, so that a restarted daemon can
tell from ``query-fdsets`` alone what is plugged. The lock is flock(2)'s, which belongs to the open file and so lives
as long as QEMU has it, daemon or not: exclusive for a writable disk, shared for a read-only one. (QEMU's own locking
is off: it would lock the same open file, which protects nothing.)
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
from dataclasses import dataclass

from hyper.errors import Conflict, Internal, InvalidArgument, NotFound, ResourceExhausted
from hyper.hypervisors.base import DiskAddress, DiskSpec
from hyper.hypervisors.qemu.qmp import Qmp

SLOTS = 256
_FIRST_FDSET = 100


@dataclass(frozen=True)
class Slot:
    """One SCSI target and the names derived from it."""

    number: int

    @property
    def address(self) -> DiskAddress:
        return DiskAddress(channel=0, target=self.number, lun=0)

    @property
    def fdset(self) -> int:
        return _FIRST_FDSET + self.number

    @property
    def node(self) -> str:
        return f"disk{self.number}"

    @property
    def device(self) -> str:
        return f"scsi-disk{self.number}"


def next_free(taken: set[int], last: int) -> Slot:
    """The first slot after ``last`` that is not taken. Going round keeps a slot from being used again at once, when the
    guest may still be busy forgetting the disk that was there before."""
    for step in range(1, SLOTS + 1):
        number = (last + step) % SLOTS
        if number not in taken:
            return Slot(number)
    raise ResourceExhausted(f"a sandbox can have at most {SLOTS} disks")


def open_locked(disk: DiskSpec) -> int:
    """An open and locked descriptor of the disk's file. NotFound, Conflict (in use elsewhere) or InvalidArgument."""
    try:
        fd = os.open(disk.path, (os.O_RDONLY if disk.readonly else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NotFound(f"disk {disk.path} does not exist") from error
    except OSError as error:
        raise InvalidArgument(f"disk {disk.path} cannot be opened: {error.strerror}") from error
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise InvalidArgument(f"disk {disk.path} is neither a file nor a block device")
        fcntl.flock(fd, (fcntl.LOCK_SH if disk.readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            raise Conflict(
                f"disk {disk.path} is in use by another sandbox that {'writes to' if disk.readonly else 'has'} it"
            ) from error
        raise
    except BaseException:
        os.close(fd)
        raise
    return fd


async def plug(qmp: Qmp, disk: DiskSpec, slot: Slot) -> None:
    """Open, lock, hand over, plug in. On failure the caller undoes with :func:`unplug`, which takes any partial
    state."""
    fd = open_locked(disk)
    try:
        block = stat.S_ISBLK(os.fstat(fd).st_mode)
        await qmp.add_fd(fd, slot.fdset, disk.disk_id)
    finally:
        os.close(fd)
    node: dict[str, object] = {
        "driver": "host_device" if block else "file",
        "node-name": slot.node,
        "filename": f"/dev/fdset/{slot.fdset}",
        "read-only": disk.readonly,
        "locking": "off",
        "aio": "threads",
        "discard": "ignore" if disk.readonly else "unmap",
    }
    device: dict[str, object] = {
        "driver": "scsi-hd",
        "bus": "scsi0.0",
        "id": slot.device,
        "channel": 0,
        "scsi-id": slot.number,
        "lun": 0,
        "drive": slot.node,
        # A full host disk is the guest's I/O error; QEMU's default would stop the whole VM for it.
        "rerror": "report",
        "werror": "report",
    }
    # Both at once: QEMU takes them one after the other, and a round trip is saved. Without its node the device fails.
    answers = await asyncio.gather(
        qmp.execute("blockdev-add", node), qmp.execute("device_add", device), return_exceptions=True
    )
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer


async def unplug(qmp: Qmp, slot: Slot) -> None:
    """Take out whatever of the slot is there: device, block node, descriptor."""
    for step in (
        lambda: qmp.unplug(slot.device),
        lambda: qmp.execute("blockdev-del", {"node-name": slot.node}),
        lambda: qmp.execute("remove-fd", {"fdset-id": slot.fdset}),
    ):
        try:
            await step()
        except Internal:
            continue  # "not found": it did not get that far


async def plugged(qmp: Qmp) -> dict[str, Slot]:
    """Disk ids and slots as QEMU has them."""
    found: dict[str, Slot] = {}
    for fdset in await qmp.execute("query-fdsets"):
        number = int(fdset["fdset-id"]) - _FIRST_FDSET
        if 0 <= number < SLOTS:
            for descriptor in fdset["fds"]:
                found[str(descriptor.get("opaque", ""))] = Slot(number)
    return found
