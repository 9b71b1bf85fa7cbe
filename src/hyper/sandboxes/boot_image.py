"""What a sandbox boots: the kernel that was found, and the initramfs with our agent made for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hyper.guest import initramfs
from hyper.guest.kernel import FoundKernel, KernelSettings, find_kernel
from hyper.hypervisors.base import KernelImage


@dataclass(frozen=True)
class GuestSettings:
    """``agent``: the static binary that becomes PID 1. ``cache``: where initramfs files are kept between starts."""

    kernel: KernelSettings
    agent: Path
    cache: Path


@dataclass(frozen=True)
class BootImage:
    """Kernel and initramfs, found and made."""

    kernel: FoundKernel
    initrd: Path

    @classmethod
    def prepare(cls, settings: GuestSettings) -> BootImage:
        """Blocking, up to 0.2 s when the initramfs has to be made. Errors say what is missing and how to get it."""
        kernel = find_kernel(settings.kernel)
        return cls(kernel, initramfs.build(settings.agent, kernel, settings.cache))

    def image(self, *, emulated: bool) -> KernelImage:
        """``emulated``: without KVM."""
        return KernelImage(self.kernel.vmlinux, self.initrd, self.kernel.command_line(emulated=emulated))
