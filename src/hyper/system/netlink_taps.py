"""Taps: the host's end of a VM's network card, handed to the VMM as an open descriptor.

Non-persistent: a tap lives as long as somebody holds its descriptor, so it cannot outlive its VMM, whatever happens to
the daemon. Source: the kernel's Documentation/networking/tuntap.rst.

Neighbours: ``netlink.py`` (puts the tap into a bridge), ``hyper.networks.bridge``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from hyper.errors import FailedPrecondition
from hyper.system.netlink import MAX_NAME_BYTES

DEVICE = "/dev/net/tun"

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_TUN_EXCL = 0x0002, 0x1000, 0x4000, 0x8000


def open_tap(name: str, *, device: str = DEVICE) -> int:
    """A new tap of that name, as a close-on-exec descriptor which the caller owns.

    IFF_VNET_HDR lets guest and host leave checksums and segmentation undone between them. FileExistsError when the name
    is taken (by a tap that still has a holder); FailedPrecondition when this machine or our privileges do not allow
    taps.
    """
    encoded = name.encode()
    if not 0 < len(encoded) <= MAX_NAME_BYTES:
        raise ValueError(f"tap name {name!r} is not 1 to {MAX_NAME_BYTES} bytes long")
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise FailedPrecondition(
            f"{device} is missing, so no network card can be made for a container: "
            "load the kernel's tun module (modprobe tun), "
            f"give this machine or container the device (--device {device}), or run with --network none"
        ) from error
    except OSError as error:
        raise FailedPrecondition(
            f"{device} cannot be opened ({error.strerror}), so no network card can be made for a container: "
            "run hyperd as root, load the kernel's tun module (modprobe tun), or run with --network none"
        ) from error
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_TUN_EXCL
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("=16sH22x", encoded, flags))
    except OSError as error:
        os.close(descriptor)
        if error.errno == errno.EBUSY:
            raise FileExistsError(errno.EEXIST, "a network interface of that name exists", name) from error
        if error.errno == errno.EPERM:
            raise FailedPrecondition(
                "making a tap needs the capability CAP_NET_ADMIN, which hyperd does not have: "
                "run it as root or grant the capability, or run with --network none"
            ) from error
        raise
    return descriptor
