"""QEMU as sandboxes use it, with real VMs: what confines it, how its end is seen, what it leaves behind.

The guest is a shell (tests/shell_guest.py). What all drivers promise is in tests/contract.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.shell_guest import Shell, answers, shell_image

from hyper.errors import FailedPrecondition, Unavailable
from hyper.hypervisors.base import Accelerator, DiskAddress, DiskSpec, KernelImage, MachineSpec, VmmIdentity
from hyper.hypervisors.qemu.command_line import sandbox_of
from hyper.hypervisors.qemu.driver import QemuHypervisor
from hyper.hypervisors.qemu.settings import AcceleratorChoice, QemuSettings
from hyper.system import processes
from hyper.system.cgroups import Cgroups
from hyper.system.identities import Identities, UidRange

pytestmark = pytest.mark.vm
MIB = 1 << 20


@dataclass
class Site:
    """A driver and a folder for its machines; knows what would be left behind."""

    settings: QemuSettings
    identities: Identities
    image: KernelImage
    folder: Path

    def driver(self, **changes: object) -> QemuHypervisor:
        settings = dataclasses.replace(self.settings, **changes)  # type: ignore[arg-type]
        return QemuHypervisor(settings, self.identities, lambda: self.image, answers)

    def spec(self, image: KernelImage | None = None, memory_bytes: int = 256 * MIB) -> MachineSpec:
        sandbox_id = secrets.token_hex(16)
        directory = self.folder / sandbox_id[:8]
        directory.mkdir(mode=0o711)
        uid = self.identities.allocate()
        return MachineSpec(sandbox_id, directory, image or self.image, memory_bytes, 1024 * MIB, 1, 2, uid)

    def leftovers(self, spec: MachineSpec) -> list[str]:
        """Processes, cgroups and files of a machine that should be gone."""
        root = self.settings.root_id
        found = [
            f"process {pid}"
            for pid in processes.all_pids()
            if sandbox_of(processes.command_line(pid), root) == spec.sandbox_id
        ]
        found += [f"cgroup {name}" for name in Cgroups(root).names() if name == spec.sandbox_id]
        return found + [f"file {path.name}" for path in spec.runtime_dir.iterdir()]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> KernelImage:
    return shell_image(tmp_path_factory.mktemp("shell-guest"))


@pytest.fixture
async def site(tmp_path: Path, image: KernelImage) -> AsyncIterator[Site]:
    settings = QemuSettings(
        root_id=f"test-{secrets.token_hex(4)}",
        state_dir=tmp_path,
        runtime_dir=tmp_path,
        accelerator=AcceleratorChoice.TCG,
        qmp_timeout_s=20,
    )
    identities = Identities(tmp_path / "uids", UidRange())
    yield Site(settings, identities, image, tmp_path)
    await QemuHypervisor(settings, identities, lambda: image, answers).reap_strays(frozenset())
    Cgroups(settings.root_id).remove_group()
    identities.close()


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


def open_for_writing(pid: int) -> set[str]:
    """Files that a process could write through its descriptors; bounded logs and devices aside."""
    found: set[str] = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        target = str(entry.readlink())
        flags = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text().split("flags:")[1].split()[0]
        if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY and target.startswith("/"):
            found.add(target)
    return {path for path in found if not path.startswith(("/memfd:hyper-", "/dev/"))}


def read_as(uid: int, path: Path) -> str:
    """What a process of that user is told when it opens the file."""
    attempt = subprocess.run(["cat", path], user=uid, group=uid, extra_groups=[], capture_output=True, check=False)
    return attempt.stderr.decode()


async def test_each_vmm_has_its_own_user_no_rights_and_a_seccomp_filter(site: Site) -> None:
    driver = site.driver()
    specs = [site.spec(), site.spec()]
    vmms = [await driver.launch(spec) for spec in specs]
    states = [status_of(vmm.identity.pid) for vmm in vmms]
    assert [set(state["Uid"].split()) for state in states] == [{str(spec.uid)} for spec in specs]
    assert states[0]["Uid"] != states[1]["Uid"]
    for state in states:
        assert state["Seccomp"] == "2" and state["NoNewPrivs"] == "1" and state["Groups"] == ""
        assert {state[name] for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {"0" * 16}
    for vmm in vmms:
        await vmm.kill()


async def test_a_vmm_is_in_its_cgroup_with_limits(site: Site) -> None:
    if Cgroups(site.settings.root_id).notes:
        pytest.skip("this host lacks a cgroup controller")
    spec = site.spec()
    vmm = await site.driver().launch(spec)
    for directory in Cgroups(site.settings.root_id).find(spec.sandbox_id).directories:
        assert (directory / "cgroup.procs").read_text().split() == [str(vmm.identity.pid)]
        for file in ("memory.limit_in_bytes", "memory.max"):
            if (directory / file).exists():
                assert int((directory / file).read_text()) == spec.memory_bytes + 512 * MIB
    await vmm.kill()
    assert site.leftovers(spec) == []


async def test_a_vmm_holds_nothing_writable_but_its_own_disk(site: Site) -> None:
    spec = site.spec()
    vmm = await site.driver().launch(spec)
    disk, base = site.folder / "disk", site.folder / "base"
    for path in (disk, base):
        path.write_bytes(bytes(MIB))
        path.chmod(0o600)
    await vmm.attach_disk(DiskSpec("w", disk, readonly=False))
    await vmm.attach_disk(DiskSpec("r", base, readonly=True))
    assert open_for_writing(vmm.identity.pid) == {str(disk)}
    # And by name it can open neither.
    for path in (disk, base, spec.runtime_dir / "qmp.sock"):
        assert "denied" in read_as(spec.uid, path)
    await vmm.kill()


async def test_a_guest_writes_its_disk_and_cannot_write_a_readonly_one(site: Site) -> None:
    vmm = await site.driver().launch(site.spec())
    disk, base = site.folder / "disk", site.folder / "base"
    for path in (disk, base):
        path.write_bytes(b"unchanged".ljust(MIB, b"\0"))
    async with Shell(vmm.agent_socket) as shell:
        await shell.run("true")
        where = [
            await vmm.attach_disk(DiskSpec("w", disk, readonly=False)),
            await vmm.attach_disk(DiskSpec("r", base, readonly=True)),
        ]
        for address in where:
            path = f"/sys/class/scsi_device/*:{address.channel}:{address.target}:{address.lun}/device/block"
            await shell.run(f"until [ -e {path} ]; do usleep 10000; done")
            out = await shell.run(f"busybox dd if=/init of=/dev/$(busybox ls {path}) bs=512 count=1 conv=fsync")
            assert ("records out" in out) == (address == where[0])
    assert disk.read_bytes()[:2] == b"#!"
    assert base.read_bytes()[:9] == b"unchanged"
    await vmm.detach_disk("w")
    await vmm.kill()


async def test_a_killed_vmm_is_noticed_within_a_second(site: Site) -> None:
    spec = site.spec()
    vmm = await site.driver().launch(spec)
    os.kill(vmm.identity.pid, signal.SIGKILL)
    killed = time.monotonic()
    end = await vmm.wait()
    assert time.monotonic() - killed < 1
    assert end.reason == "QEMU was killed by signal 9 (SIGKILL)" and not end.clean
    assert site.leftovers(spec) == []


async def test_a_hung_vmm_is_unavailable_in_bounded_time_and_can_be_killed(site: Site) -> None:
    spec = site.spec()
    vmm = await site.driver(qmp_timeout_s=1.0).launch(spec)
    disk = site.folder / "disk"
    disk.write_bytes(bytes(MIB))
    os.kill(vmm.identity.pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(Unavailable, match="hangs"):
        await vmm.attach_disk(DiskSpec("d", disk, readonly=False))
    await vmm.kill()
    assert time.monotonic() - started < 8
    assert site.leftovers(spec) == []


async def test_a_hung_vmm_cannot_be_adopted_and_is_not_forgotten(site: Site) -> None:
    spec = site.spec()
    vmm = await site.driver().launch(spec)
    await vmm.release()
    os.kill(vmm.identity.pid, signal.SIGSTOP)
    with pytest.raises(Unavailable, match="does not answer"):
        await site.driver(qmp_timeout_s=1.0).adopt(spec, vmm.identity, ())
    assert await site.driver().reap_strays(frozenset()) == [spec.sandbox_id]


async def test_a_power_off_is_a_clean_end_and_a_panic_tells_the_kernels_last_words(site: Site) -> None:
    driver = site.driver()
    vmm = await driver.launch(site.spec())
    async with Shell(vmm.agent_socket) as shell:
        await shell.run("true")
        shell.send("busybox poweroff -f")
        end = await vmm.wait()
    assert end.clean and end.reason == "powered off"
    vmm = await driver.launch(site.spec())
    async with Shell(vmm.agent_socket) as shell:
        await shell.run("true")
        shell.send("panic")
        end = await vmm.wait()
    assert (
        not end.clean
        and "panicked" in end.reason
        and "Kernel panic - not syncing: Attempted to kill init" in end.reason
    )


async def test_a_guest_that_prints_without_end_stays_bounded_and_goes_on(site: Site) -> None:
    vmm = await site.driver().launch(site.spec())
    async with Shell(vmm.agent_socket) as shell:
        before = int(status_of(vmm.identity.pid)["RssShmem"].split()[0])
        await shell.run("busybox yes 'without end' | busybox head -c 400000 > /dev/ttyS0")
        assert await shell.run("echo alive") == "alive\n"
        after = int(status_of(vmm.identity.pid)["RssShmem"].split()[0])
    assert after - before < 1024, "KiB; the log is 128"
    assert 0 < len(vmm.last_words()) <= 1000
    await vmm.kill()


async def test_the_guest_has_the_memory_that_was_asked_for(site: Site) -> None:
    vmm = await site.driver().launch(site.spec(memory_bytes=512 * MIB))
    async with Shell(vmm.agent_socket) as shell:
        total_kib = int((await shell.run("grep MemTotal /proc/meminfo")).split()[1])
    # Debian's generic kernel keeps 55 MiB for itself, 8 of them for page structures.
    assert (512 - 64) * 1024 < total_kib <= 512 * 1024
    await vmm.kill()


async def test_the_guests_clock_does_not_depend_on_a_measurement_at_boot(site: Site) -> None:
    """On a busy host one in seven was wrong, by up to 80 times."""
    driver = site.driver()
    rate_khz = (await driver.probe()).tsc_khz
    if not rate_khz:
        pytest.skip("this host's processor has no time stamp counter with a constant rate")
    vmm = await driver.launch(site.spec())
    async with Shell(vmm.agent_socket) as shell:
        assert f"tsc: Detected {rate_khz / 1000:.3f} MHz" in await shell.run("busybox dmesg")
    await vmm.kill()


_DAEMON = """
import asyncio, json, sys
from pathlib import Path
from hyper.hypervisors.base import DiskSpec, KernelImage, MachineSpec
from hyper.hypervisors.qemu.driver import QemuHypervisor
from hyper.hypervisors.qemu.settings import AcceleratorChoice, QemuSettings
from hyper.system.identities import Identities, UidRange

async def main(root_id, folder, kernel, initrd, line, disk):
    folder = Path(folder)
    identities = Identities(folder / "uids", UidRange())
    settings = QemuSettings(root_id, folder, folder, accelerator=AcceleratorChoice.TCG, qmp_timeout_s=20)
    directory = folder / "vm"
    directory.mkdir(mode=0o711)
    uid = identities.allocate()
    image = KernelImage(Path(kernel), Path(initrd), line)
    spec = MachineSpec("ab" * 16, directory, image, 256 << 20, 1 << 30, 1, 2, uid)
    vmm = await QemuHypervisor(settings, identities, lambda: spec.image, None).launch(spec)
    where = await vmm.attach_disk(DiskSpec("d", Path(disk), readonly=False))
    one = vmm.identity
    print(json.dumps([uid, one.pid, one.start_time, one.boot_id, where.target]), flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_vmm_survives_its_daemons_kill_and_is_adopted_by_another(site: Site) -> None:
    disk = site.folder / "disk"
    disk.write_bytes(bytes(MIB))
    arguments = [
        site.settings.root_id,
        site.folder,
        site.image.kernel,
        site.image.initrd,
        site.image.command_line,
        disk,
    ]
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DAEMON, *map(str, arguments), stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert daemon.stdout is not None
    uid, pid, started, boot_id, target = json.loads(await daemon.stdout.readline())
    os.killpg(daemon.pid, signal.SIGKILL)  # as when its terminal goes: the whole process group
    await daemon.wait()

    assert site.identities.allocate() != uid
    spec = MachineSpec("ab" * 16, site.folder / "vm", site.image, 256 * MIB, 1024 * MIB, 1, 2, uid)
    known = ((DiskSpec("d", disk, readonly=False), DiskAddress(0, target, 0)),)
    vmm = await site.driver().adopt(spec, VmmIdentity(pid, started, boot_id), known)
    async with Shell(vmm.agent_socket) as shell:
        assert await shell.run("echo survived") == "survived\n"
    await vmm.detach_disk("d")
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    await vmm.wait()
    assert time.monotonic() - killed < 1, "the death of a process that is no child of ours is seen as well"
    assert site.leftovers(spec) == []


async def test_a_file_that_is_no_kernel_fails_with_qemus_words_and_leaves_nothing(site: Site) -> None:
    garbage = site.folder / "garbage"
    garbage.write_bytes(b"no kernel at all" * 64)
    spec = site.spec(image=KernelImage(garbage, site.image.initrd, ""))
    with pytest.raises(Unavailable, match=r"QEMU did not start: exited with status 1.*kernel"):
        await site.driver().launch(spec)
    assert site.leftovers(spec) == []


async def test_a_private_kernel_file_can_be_booted_all_the_same(site: Site) -> None:
    kernel = site.folder / "vmlinux"
    kernel.write_bytes(site.image.kernel.read_bytes())
    kernel.chmod(0o600)
    vmm = await site.driver().launch(site.spec(image=dataclasses.replace(site.image, kernel=kernel)))
    assert await answers(vmm.agent_socket)
    await vmm.kill()


async def test_without_qemu_the_error_names_the_package(site: Site) -> None:
    spec = site.spec()
    with pytest.raises(FailedPrecondition, match="apt-get install qemu-system"):
        await site.driver(binary="/nonexistent/qemu").launch(spec)
    assert site.leftovers(spec) == []


@pytest.mark.parametrize("after_ms", [0, 3, 10, 30, 60, 120])
async def test_a_launch_cancelled_at_any_moment_leaves_nothing(site: Site, after_ms: int) -> None:
    driver = site.driver()
    await driver.probe()
    spec = site.spec()
    task = asyncio.create_task(driver.launch(spec))
    await asyncio.sleep(after_ms / 1000)
    task.cancel()
    try:
        await (await task).kill()  # it was quicker
    except asyncio.CancelledError:
        pass
    assert site.leftovers(spec) == []


async def test_the_probe_boots_really_and_never_hangs(site: Site) -> None:
    """Whatever this machine's /dev/kvm does, in a bounded time there is an answer that a guest was booted for."""
    driver = site.driver(accelerator=AcceleratorChoice.AUTO)
    started = time.monotonic()
    info = await driver.probe()
    assert time.monotonic() - started < 5 + 5
    assert info.accelerator in (Accelerator.KVM, Accelerator.TCG) and "/dev/kvm" in info.reason
    again = time.monotonic()
    assert await site.driver(accelerator=AcceleratorChoice.AUTO).probe() == info
    assert time.monotonic() - again < 2
    assert not [path for path in site.folder.iterdir() if path.name.startswith("probe-")]
