"""Sandboxes with real VMs and the real agent: made, used, lost, taken over, ended."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest
from tests.shell_guest import KERNELS, kernel_or_skip

from hyper.errors import HyperError, NotFound, Unavailable
from hyper.guest.kernel import KernelSettings
from hyper.hypervisors.qemu.command_line import sandbox_of
from hyper.hypervisors.qemu.settings import AcceleratorChoice, QemuSettings
from hyper.sandboxes.boot_image import GuestSettings
from hyper.sandboxes.source import SandboxConfig, SandboxRecord, SandboxRequest, SandboxSettings, SandboxSource
from hyper.system import processes
from hyper.system.cgroups import Cgroups

pytestmark = pytest.mark.vm
MIB = 1 << 20
REPOSITORY = Path(__file__).parents[2]


def agent_or_skip() -> Path:
    for path in (REPOSITORY / "agent" / "target").glob("*/release/hyper-agent"):
        return path
    pytest.skip("the guest agent is not built (make agent)")


def settings_for(folder: Path, root_id: str) -> SandboxSettings:
    return SandboxSettings(
        runtime_dir=folder,
        guest=GuestSettings(KernelSettings(KERNELS), agent_or_skip(), folder / "cache"),
        qemu=QemuSettings(root_id, folder, folder, accelerator=AcceleratorChoice.TCG, qmp_timeout_s=20),
        uid_lock_file=folder / "uids",
        boot_timeout_s=60,
    )


@dataclass
class Site:
    """One daemon root. ``daemon`` gives the source of its next daemon."""

    folder: Path
    root_id: str
    records: dict[str, SandboxRecord] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    sources: list[SandboxSource] = field(default_factory=list)

    def daemon(self, settings: SandboxSettings | None = None) -> SandboxSource:
        source = SandboxSource(settings or self.settings)
        source.on_record = lambda record: self.records.update({record.sandbox_id: record})
        source.on_gone = self.gone.append
        self.sources.append(source)
        return source

    @property
    def settings(self) -> SandboxSettings:
        return settings_for(self.folder, self.root_id)

    def leftovers(self) -> list[str]:
        """Whatever a sandbox may leave behind: processes, cgroups, files."""
        found = [
            f"process {pid}" for pid in processes.all_pids() if sandbox_of(processes.command_line(pid), self.root_id)
        ]
        found += [f"cgroup {name}" for name in Cgroups(self.root_id).names()]
        return found + [f"file {path}" for path in (self.folder / "vm").iterdir()]


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    kernel_or_skip()
    agent_or_skip()
    with tempfile.TemporaryDirectory() as folder:  # short: sockets lie in it
        os.chmod(folder, 0o711)
        site = Site(Path(folder), f"test-{secrets.token_hex(4)}")
        yield site
        await site.daemon().reap_strays(frozenset())
        for source in site.sources:
            await source.close()
        Cgroups(site.root_id).remove_group()


def request(memory_bytes: int | None = 128 * MIB) -> SandboxRequest:
    return SandboxRequest("", memory_bytes, 1, SandboxConfig("box"))


def disk(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(bytes(MIB))
    return path


async def test_a_sandbox_boots_answers_and_is_gone_without_a_trace(site: Site) -> None:
    source = site.daemon()
    sandbox = await source.acquire(request())
    state = await sandbox.agent.state()
    assert state.kernel != os.uname().release and state.containers == []
    assert abs(await sandbox.agent.ping() - time.time_ns()) < 5e9, "its clock was set"
    assert set(sandbox.timings) == {"vmm", "boot", "configure"}
    info = source.describe()
    assert info.kernel_release == state.kernel and info.agent_version and info.accelerator == "tcg"
    await sandbox.destroy(graceful=True)
    assert await sandbox.wait() == "powered off"
    assert site.leftovers() == [] and site.gone == [sandbox.id]


@pytest.mark.parametrize("limit", [6 * MIB, 128 * MIB, 1024 * MIB])
async def test_the_memory_limit_can_be_used_to_the_full(site: Site, limit: int) -> None:
    sandbox = await site.daemon().acquire(request(memory_bytes=limit))
    memory = (await sandbox.agent.state()).memory
    assert memory.available_bytes > limit, "beside kernel and agent there is room for all of it"
    await sandbox.destroy(graceful=False)


async def test_several_sandboxes_at_once_are_apart(site: Site) -> None:
    source = site.daemon()
    sandboxes = await asyncio.gather(*(source.acquire(request()) for _ in range(3)))
    assert len({sandbox.agent.boot_id for sandbox in sandboxes}) == 3
    assert len({sandbox.record.uid for sandbox in sandboxes}) == 3
    await asyncio.gather(*(sandbox.destroy(graceful=True) for sandbox in sandboxes))
    assert site.leftovers() == []


async def test_a_killed_vm_is_noticed_within_a_second_and_its_agent_is_unavailable(site: Site) -> None:
    sandbox = await site.daemon().acquire(request())
    waiter = asyncio.create_task(sandbox.wait())
    os.kill(sandbox.record.pid, signal.SIGKILL)
    killed = time.monotonic()
    assert await waiter == "QEMU was killed by signal 9 (SIGKILL)"
    assert time.monotonic() - killed < 1
    with pytest.raises(Unavailable):
        await sandbox.agent.state()
    await sandbox.destroy(graceful=True)
    assert site.leftovers() == []


async def test_a_hung_vm_is_ended_in_bounded_time(site: Site) -> None:
    sandbox = await site.daemon().acquire(request())
    os.kill(sandbox.record.pid, signal.SIGSTOP)
    started = time.monotonic()
    await sandbox.destroy(graceful=True)
    assert time.monotonic() - started < 10
    assert site.leftovers() == []


_DAEMON = """
import asyncio, sys
from pathlib import Path
from tests.integration.test_sandboxes import disk, request, settings_for
from hyper.sandboxes.source import SandboxSource

async def main(folder, root_id):
    source = SandboxSource(settings_for(Path(folder), root_id))
    sandbox = await source.acquire(request())
    await sandbox.attach_disk(disk(Path(folder), "top"), fs="ext4", readonly=False)
    print(sandbox.record.encode().decode(), sandbox.agent.boot_id, flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_sandbox_survives_kill_9_of_its_daemon(site: Site) -> None:
    daemon = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _DAEMON,
        str(site.folder),
        site.root_id,
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    assert daemon.stdout is not None
    line, _, boot_id = (await daemon.stdout.readline()).decode().strip().rpartition(" ")
    os.killpg(daemon.pid, signal.SIGKILL)
    await daemon.wait()
    record = msgspec.json.decode(line, type=SandboxRecord)

    next_daemon = site.daemon()
    assert await next_daemon.reap_strays(frozenset({record.sandbox_id})) == []
    sandbox = await next_daemon.adopt(record)
    assert sandbox.agent.boot_id == boot_id, "the same machine, not another boot"
    await sandbox.agent.ping()
    await sandbox.detach_disk(site.folder / "top")
    waiter = asyncio.create_task(sandbox.wait())
    await sandbox.destroy(graceful=True)
    assert await waiter == "powered off"
    assert site.leftovers() == []
    with pytest.raises(NotFound):
        await site.daemon().adopt(record)


async def test_a_sandbox_that_nobody_keeps_is_reaped_at_the_next_start(site: Site) -> None:
    first = site.daemon()
    sandbox = await first.acquire(request())
    await first.close()
    assert await site.daemon().reap_strays(frozenset()) == [sandbox.id]
    assert site.leftovers() == []


def broken_agent(site: Site) -> SandboxSettings:
    """The kernel's first process ends at once: it panics."""
    agent = site.folder / "agent"
    agent.write_bytes(b"#!/nothing\n")
    return replace(site.settings, guest=replace(site.settings.guest, agent=agent))


async def test_a_guest_that_panics_at_boot_tells_so_and_leaves_nothing(site: Site) -> None:
    with pytest.raises(Unavailable, match="Kernel panic"):
        await site.daemon(broken_agent(site)).acquire(request())
    assert site.leftovers() == []


async def test_a_guest_that_does_not_boot_in_time_leaves_nothing(site: Site) -> None:
    with pytest.raises(Unavailable, match=r"did not answer within 0\.1 s"):
        await site.daemon(replace(site.settings, boot_timeout_s=0.1)).acquire(request())
    assert site.leftovers() == []


@pytest.mark.parametrize("part", ["kernel", "agent", "qemu"])
async def test_a_missing_part_is_named_and_leaves_nothing(site: Site, part: str) -> None:
    settings = site.settings
    nowhere = Path("/nonexistent")
    if part == "kernel":
        settings = replace(settings, guest=replace(settings.guest, kernel=KernelSettings(nowhere)))
    elif part == "agent":
        settings = replace(settings, guest=replace(settings.guest, agent=nowhere))
    else:
        settings = replace(settings, qemu=replace(settings.qemu, binary="/nonexistent/qemu"))
    source = site.daemon(settings)
    await source.open()
    assert any(part in warning.lower() for warning in source.describe().warnings)
    with pytest.raises(HyperError, match="(?i)" + part):
        await source.acquire(request())
    assert site.leftovers() == []


@pytest.mark.parametrize("after_s", [0.02, 0.1, 0.5, 1.5])
async def test_an_acquire_cancelled_at_any_moment_leaves_nothing(site: Site, after_s: float) -> None:
    source = site.daemon()
    await source.open()
    task = asyncio.create_task(source.acquire(request()))
    await asyncio.wait((task,), timeout=after_s)
    task.cancel()
    try:
        await (await task).destroy(graceful=False)  # it was quicker
    except asyncio.CancelledError:
        pass
    assert site.leftovers() == []


async def test_a_full_disk_is_said_and_leaves_nothing(site: Site) -> None:
    mount = site.folder / "full"
    mount.mkdir()
    process = await asyncio.create_subprocess_exec("mount", "-t", "tmpfs", "-o", "nr_inodes=2", "tmpfs", str(mount))
    assert await process.wait() == 0
    try:
        source = site.daemon(replace(site.settings, runtime_dir=mount))
        with pytest.raises(HyperError, match="No space left"):
            await source.acquire(request())
        await source.close()
        assert list((mount / "vm").iterdir()) == []
    finally:
        process = await asyncio.create_subprocess_exec("umount", str(mount))
        assert await process.wait() == 0
