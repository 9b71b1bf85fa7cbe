"""A guest whose "agent" is a shell: each line sent to it is run, and its output comes back.

It stands in for the agent in tests of what lies below the agent (hypervisors), and lets them look around inside. Made
of the same kernel and initramfs builder as the real one, with Debian's static busybox beside it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from hyper.errors import NotFound
from hyper.guest import initramfs
from hyper.guest.cpio import CpioWriter
from hyper.guest.kernel import FoundKernel, KernelSettings, find_kernel
from hyper.hypervisors.base import KernelImage

KERNELS = Path(os.environ.get("HYPER_TEST_KERNELS", "/var/lib/hyper/kernels"))
"""Where `make setup` puts them; the variable tries the tests on another kernel."""
BOOT_S = 60.0
_INIT = """#!/bin/busybox sh
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read -r module; do insmod $module; done < /etc/hyper/modules
until port=$(grep -l org.hyper.agent.0 /sys/class/virtio-ports/*/name); do usleep 10000; done
exec 3<>/dev/$(basename $(dirname $port))
while true; do
  while read -r mark line <&3; do
    [ "$line" = panic ] && exit 1
    ( eval "$line" ) </dev/null >&3 2>&1
    echo "$mark" >&3
  done
  usleep 10000
done
"""


def kernel_or_skip() -> FoundKernel:
    """The kernel that sandboxes boot; the test is skipped where none was set up."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("no qemu-system-x86_64 on this machine")
    try:
        return find_kernel(KernelSettings(KERNELS))
    except NotFound as error:
        pytest.skip(error.message)


def shell_image(folder: Path) -> KernelImage:
    """Kernel and initramfs of the shell guest, made in ``folder``."""
    kernel = kernel_or_skip()
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox on this machine (Debian: busybox-static)")
    init = folder / "init"
    init.write_text(_INIT)
    base = initramfs.build(init, kernel, folder / "cache")
    whole = folder / "shell.cpio"
    with whole.open("wb") as out:
        out.write(base.read_bytes())  # the kernel unpacks one archive after the other
        archive = CpioWriter(out)
        archive.directory("bin")
        archive.file("bin/busybox", Path(busybox).read_bytes(), 0o755)
        for name in ("sh", "mount", "insmod", "usleep", "grep", "basename", "dirname", "cat"):
            archive.symlink(f"bin/{name}", "busybox")
        archive.close()
    return KernelImage(kernel.vmlinux, whole, kernel.command_line(emulated=True))


class Shell:
    """The host's end of a shell guest's socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_unix_connection(self._socket)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            pass

    def send(self, command: str) -> str:
        """Start a command; what its end will be marked with."""
        mark = secrets.token_hex(8)
        self._writer.write(f"{mark} {command}\n".encode())
        return mark

    async def run(self, command: str, timeout_s: float = BOOT_S) -> str:
        """Its output. The first command waits for the boot; TimeoutError when the guest never answers."""
        mark = self.send(command)
        lines: list[str] = []
        async with asyncio.timeout(timeout_s):
            while True:
                line = (await self._reader.readline()).decode()
                if not line:
                    raise ConnectionError("the guest hung up")
                if line.strip() == mark:
                    return "".join(lines)
                lines.append(line)


async def answers(socket: Path) -> bool:
    """Whether a shell guest answers; waits for it (the caller sets the deadline)."""
    async with Shell(socket) as shell:
        return "up" in await shell.run("echo up")
