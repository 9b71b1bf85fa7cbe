"""The drivers that the contract suite runs over: each as a :class:`Rig` that can also play "another daemon"."""

from __future__ import annotations

import asyncio
import mmap
import os
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.shell_guest import Shell, answers, shell_image

from hyper.hypervisors.base import Hypervisor, KernelImage, MachineSpec, Vmm
from hyper.hypervisors.fake import FakeHost, FakeHypervisor
from hyper.hypervisors.qemu.driver import QemuHypervisor
from hyper.hypervisors.qemu.settings import AcceleratorChoice, QemuSettings
from hyper.system.cgroups import Cgroups
from hyper.system.identities import Identities, UidRange

MIB = 1 << 20
_WORD = 7 * MIB
"""Where the fake's guest keeps a word."""


@dataclass
class Rig:
    """A driver under test. ``restarted`` gives a driver as a daemon's next start would have it."""

    hypervisor: Hypervisor
    restarted: Callable[[], Hypervisor]
    crash: Callable[[Vmm], Awaitable[None]]
    remember: Callable[[Vmm, str], Awaitable[None]]
    """Has the guest keep a word in its memory."""
    recall: Callable[[Vmm], Awaitable[str]]
    identities: Identities
    image: KernelImage
    folder: Path

    def spec(self, sandbox_id: str | None = None, image: KernelImage | None = None) -> MachineSpec:
        """A small machine with a runtime directory of its own."""
        sandbox_id = sandbox_id or secrets.token_hex(16)
        directory = self.folder / "run" / sandbox_id[:8]
        directory.mkdir(mode=0o711, parents=True)
        return MachineSpec(
            sandbox_id, directory, image or self.image, 256 * MIB, 1024 * MIB, 1, 2, self.identities.allocate()
        )

    def disk(self, name: str, size: int = 8 * MIB) -> Path:
        path = self.folder / name
        with path.open("wb") as file:
            file.write(name.encode().ljust(512, b"."))
            file.truncate(size)
        return path


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The fake's guest: does what the shell guest does, for the one command that the suite uses."""
    while line := await reader.readline():
        mark, _, command = line.decode().strip().partition(" ")
        assert command.startswith("echo ")
        writer.write(f"{command[5:]}\n{mark}\n".encode())
        await writer.drain()


@pytest.fixture(scope="session")
def shell_guest(tmp_path_factory: pytest.TempPathFactory) -> KernelImage:
    return shell_image(tmp_path_factory.mktemp("shell-guest"))


@pytest.fixture(params=["fake", pytest.param("qemu", marks=pytest.mark.vm)])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    identities = Identities(tmp_path / "uids", UidRange())
    if request.param == "fake":
        kernel = tmp_path / "kernel"
        kernel.touch()
        host = FakeHost(_echo)
        image = KernelImage(kernel, kernel, "")

        async def crash(vmm: Vmm) -> None:
            await host.crash(host.machines[vmm.identity.pid].spec.sandbox_id, "it crashed")

        def memory(vmm: Vmm) -> mmap.mmap:
            found = host.machines[vmm.identity.pid].memory
            assert found is not None
            return found

        async def write(vmm: Vmm, word: str) -> None:
            memory(vmm)[_WORD : _WORD + 100] = word.encode().ljust(100, b"\0")

        async def read(vmm: Vmm) -> str:
            return memory(vmm)[_WORD : _WORD + 100].rstrip(b"\0").decode()

        hypervisor = FakeHypervisor(host)
        yield Rig(hypervisor, lambda: FakeHypervisor(host), crash, write, read, identities, image, tmp_path)
        await host.close()
        return
    image = request.getfixturevalue("shell_guest")
    settings = QemuSettings(
        root_id=f"contract-{secrets.token_hex(4)}",
        state_dir=tmp_path,
        runtime_dir=tmp_path,
        accelerator=AcceleratorChoice.TCG,
        qmp_timeout_s=20,
    )

    def make() -> QemuHypervisor:
        return QemuHypervisor(settings, identities, lambda: image, answers)

    async def kill(vmm: Vmm) -> None:
        os.kill(vmm.identity.pid, signal.SIGKILL)

    async def tell(vmm: Vmm, word: str) -> None:
        async with Shell(vmm.agent_socket) as shell:
            await shell.run(f"echo {word} > /word")

    async def ask(vmm: Vmm) -> str:
        async with Shell(vmm.agent_socket) as shell:
            return (await shell.run("cat /word")).strip()

    qemu = make()
    yield Rig(qemu, make, kill, tell, ask, identities, image, tmp_path)
    await qemu.reap_strays(frozenset())
    Cgroups(settings.root_id).remove_group()
    identities.close()
