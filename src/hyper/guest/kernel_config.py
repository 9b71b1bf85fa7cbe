"""What a guest kernel must be able to do, and how to find out whether one can.

The truth is the kernel's configuration: embedded in the image (CONFIG_IKCONFIG), or a file beside it. Without either,
the modules folder tells of what can be a module; the rest cannot be known, and the caller says so instead of guessing.
Neighbours: ``kernel`` asks, ``kernel/config`` is the fragment that answers for our own kernel.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from hyper.guest.modules import ModuleTree

_IKCONFIG_START = b"IKCFG_ST"
_MAX_CONFIG_BYTES = 4 << 20


@dataclass(frozen=True)
class Requirement:
    """An option without which sandboxes do not work; ``module`` when it may also be a loadable module."""

    option: str
    purpose: str
    module: str | None = None


REQUIREMENTS = (
    Requirement("VIRTIO_PCI", "virtio devices", "virtio_pci"),
    Requirement("VIRTIO_CONSOLE", "the channel to the agent", "virtio_console"),
    Requirement("SCSI_VIRTIO", "disks", "virtio_scsi"),
    Requirement("BLK_DEV_SD", "disks", "sd_mod"),
    Requirement("VIRTIO_NET", "network cards", "virtio_net"),
    Requirement("HW_RANDOM_VIRTIO", "entropy", "virtio_rng"),
    Requirement("EROFS_FS", "image disks", "erofs"),
    Requirement("OVERLAY_FS", "container root file systems", "overlay"),
    Requirement("EXT4_FS", "writable disks", "ext4"),
    Requirement("BLK_DEV_INITRD", "booting the agent"),
    Requirement("DEVTMPFS", "device files"),
    Requirement("TMPFS", "/dev/shm and --tmpfs"),
    Requirement("PROC_FS", "/proc"),
    Requirement("SYSFS", "/sys"),
    Requirement("UNIX98_PTYS", "terminals"),
    Requirement("CGROUPS", "resource limits"),
    Requirement("MEMCG", "--memory"),
    Requirement("CGROUP_PIDS", "--pids-limit"),
    Requirement("CFS_BANDWIDTH", "--cpus"),
    Requirement("CPUSETS", "--cpuset-cpus"),
    Requirement("NAMESPACES", "containers"),
    Requirement("PID_NS", "containers"),
    Requirement("IPC_NS", "containers"),
    Requirement("UTS_NS", "containers"),
    Requirement("NET_NS", "containers"),
    Requirement("SECCOMP_FILTER", "the seccomp profile"),
    Requirement("UNIX", "unix sockets"),
    Requirement("INET", "networks"),
    Requirement("PACKET", "networks"),
    Requirement("EPOLL", "nearly every server"),
    Requirement("INOTIFY_USER", "tail -f and others"),
    Requirement("HOTPLUG_PCI_PCIE", "plugging cards and shares into a running sandbox"),
    Requirement("BINFMT_SCRIPT", "scripts"),
)


@dataclass(frozen=True)
class Verdict:
    """``missing``: what the kernel certainly lacks. ``unknown``: what nobody can tell without its configuration."""

    missing: tuple[str, ...]
    unknown: tuple[str, ...]


def parse(text: str) -> dict[str, str]:
    """A .config: option without ``CONFIG_`` → ``y``, ``m`` or its value; what is not set is absent."""
    options = {}
    for line in text.splitlines():
        if line.startswith("CONFIG_"):
            name, separator, value = line.removeprefix("CONFIG_").partition("=")
            if separator:
                options[name] = value.strip('"')
    return options


def embedded(image: bytes) -> dict[str, str] | None:
    """The configuration inside an uncompressed kernel image; None when it was built without CONFIG_IKCONFIG."""
    start = image.find(_IKCONFIG_START)
    if start < 0:
        return None
    decoder = zlib.decompressobj(wbits=31)
    try:
        window = memoryview(image)[start + len(_IKCONFIG_START) : start + _MAX_CONFIG_BYTES]
        text = decoder.decompress(window, _MAX_CONFIG_BYTES)
    except zlib.error:
        return None
    return parse(text.decode("utf-8", "replace"))


def judge(config: Mapping[str, str] | None, modules: ModuleTree | None) -> Verdict:
    """Hold the requirements against what is known. An option that is a module needs that module in the folder."""
    missing: list[str] = []
    unknown: list[str] = []
    for requirement in REQUIREMENTS:
        name = f"CONFIG_{requirement.option} ({requirement.purpose})"
        in_folder = modules is not None and requirement.module is not None and modules.has(requirement.module)
        if in_folder:
            continue
        if config is not None:
            value = config.get(requirement.option)
            if value == "m":
                missing.append(f"the module {requirement.module or requirement.option.lower()} of {name}")
            elif value != "y":
                missing.append(name)
        elif modules is not None and modules.builtin and requirement.module is not None:
            missing.append(name)  # neither built in nor a module: this one can be known without the configuration
        else:
            unknown.append(name)
    return Verdict(tuple(missing), tuple(unknown))
