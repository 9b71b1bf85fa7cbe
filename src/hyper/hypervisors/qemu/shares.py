"""Shared directories: a virtio file system whose server is another process, plugged into the first spare root port.

Neighbours: ``vmm.py`` (user), ``command_line.py`` (the ports). QEMU only hands memory and queues to the server;
requests go from the guest to it past QEMU.
"""

from __future__ import annotations

from hyper.errors import Internal, Unavailable
from hyper.hypervisors.qemu.qmp import Qmp

_NAME = "share0"
_PORT = "spare1"


async def plug(qmp: Qmp, tag: str, socket_fd: int) -> None:
    """See :meth:`hyper.hypervisors.base.Sharing.attach_share`."""
    await qmp.get_fd(socket_fd, _NAME)
    address = {"type": "fd", "data": {"str": _NAME}}
    try:
        await qmp.execute(
            "chardev-add",
            {"id": _NAME, "backend": {"type": "socket", "data": {"addr": address, "server": False}}},
        )
        await qmp.execute(
            "device_add",
            {"driver": "vhost-user-fs-pci", "id": f"{_NAME}-fs", "chardev": _NAME, "tag": tag, "bus": _PORT},
        )
    except Internal as error:
        raise Unavailable(f"the shared directories cannot be plugged in: {error.message}") from error
