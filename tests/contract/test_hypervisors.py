"""What every hypervisor driver promises (hyper.hypervisors.base), run over the fake and over QEMU."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest
from tests.contract.conftest import Rig
from tests.shell_guest import Shell

from hyper.errors import AlreadyExists, Conflict, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from hyper.hypervisors.base import DiskSpec, Hypervisor, KernelImage, Vmm


async def test_a_driver_says_what_it_is(rig: Rig) -> None:
    info = await rig.hypervisor.probe()
    assert isinstance(rig.hypervisor, Hypervisor)
    assert info.name and info.version and info.reason
    assert await rig.hypervisor.probe() == info


async def test_the_agent_socket_takes_one_connection_after_the_other(rig: Rig) -> None:
    vmm = await rig.hypervisor.launch(rig.spec())
    for number in range(3):
        async with Shell(vmm.agent_socket) as shell:
            assert await shell.run(f"echo {number}") == f"{number}\n"
    await vmm.kill()


async def test_the_agent_socket_is_roots_alone(rig: Rig) -> None:
    vmm = await rig.hypervisor.launch(rig.spec())
    assert vmm.agent_socket.stat().st_mode & 0o777 == 0o600
    assert vmm.agent_socket.stat().st_uid == 0
    await vmm.kill()


async def test_disks_get_addresses_of_their_own_even_when_plugged_at_once(rig: Rig) -> None:
    vmm = await rig.hypervisor.launch(rig.spec())
    disks = [DiskSpec(f"disk-{n}", rig.disk(f"disk-{n}"), readonly=n % 2 == 0) for n in range(6)]
    addresses = await asyncio.gather(*(vmm.attach_disk(disk) for disk in disks))
    assert len(set(addresses)) == len(disks)
    await asyncio.gather(*(vmm.detach_disk(disk.disk_id) for disk in disks))
    await vmm.kill()


async def test_a_disk_id_is_taken_until_it_is_detached(rig: Rig) -> None:
    vmm = await rig.hypervisor.launch(rig.spec())
    disk = DiskSpec("d", rig.disk("d"), readonly=True)
    first = await vmm.attach_disk(disk)
    with pytest.raises(AlreadyExists):
        await vmm.attach_disk(disk)
    await vmm.detach_disk("d")
    with pytest.raises(NotFound):
        await vmm.detach_disk("d")
    again = await vmm.attach_disk(disk)
    assert again != first, "an address used again at once confuses a guest that has not forgotten the old disk"
    await vmm.kill()


async def test_a_missing_disk_is_not_found_and_takes_nothing(rig: Rig) -> None:
    vmm = await rig.hypervisor.launch(rig.spec())
    with pytest.raises(NotFound, match="does not exist"):
        await vmm.attach_disk(DiskSpec("d", rig.folder / "missing", readonly=True))
    await vmm.attach_disk(DiskSpec("d", rig.disk("d"), readonly=True))
    await vmm.kill()


async def test_a_writable_disk_belongs_to_one_vm_at_a_time(rig: Rig) -> None:
    one = await rig.hypervisor.launch(rig.spec())
    other = await rig.hypervisor.launch(rig.spec())
    path = rig.disk("d")
    await one.attach_disk(DiskSpec("d", path, readonly=False))
    for readonly in (True, False):
        with pytest.raises(Conflict, match="in use"):
            await other.attach_disk(DiskSpec("d", path, readonly=readonly))
    await one.kill()
    await other.attach_disk(DiskSpec("d", path, readonly=False))
    await other.kill()


async def test_a_readonly_disk_is_shared_by_many(rig: Rig) -> None:
    vmms = [await rig.hypervisor.launch(rig.spec()) for _ in range(2)]
    path = rig.disk("d")
    for vmm in vmms:
        await vmm.attach_disk(DiskSpec("d", path, readonly=True))
    for vmm in vmms:
        await vmm.kill()


async def test_the_end_is_the_same_for_every_waiter_and_ever_after(rig: Rig) -> None:
    vmm = await rig.hypervisor.launch(rig.spec())
    waiters = [asyncio.create_task(vmm.wait()) for _ in range(3)]
    await rig.crash(vmm)
    async with asyncio.timeout(1.5):
        ends = await asyncio.gather(*waiters)
    assert set(ends) == {await vmm.wait()}
    assert not ends[0].clean and ends[0].reason


async def test_a_dead_vmm_is_unavailable_and_leaves_no_socket(rig: Rig) -> None:
    spec = rig.spec()
    vmm = await rig.hypervisor.launch(spec)
    await rig.crash(vmm)
    await vmm.wait()
    with pytest.raises(Unavailable, match="has ended"):
        await vmm.attach_disk(DiskSpec("d", rig.disk("d"), readonly=True))
    with pytest.raises(Unavailable, match="has ended"):
        await vmm.detach_disk("d")
    assert list(spec.runtime_dir.iterdir()) == []


async def test_kill_is_idempotent_and_frees_everything(rig: Rig) -> None:
    spec = rig.spec()
    vmm = await rig.hypervisor.launch(spec)
    await asyncio.gather(vmm.kill(), vmm.kill())
    await vmm.kill()
    assert list(spec.runtime_dir.iterdir()) == []
    assert "signal 9" in (await vmm.wait()).reason


async def test_a_missing_kernel_fails_and_leaves_nothing(rig: Rig) -> None:
    nowhere = Path("/nonexistent/kernel")
    spec = rig.spec(image=KernelImage(nowhere, nowhere, ""))
    with pytest.raises(FailedPrecondition, match="/nonexistent/kernel"):
        await rig.hypervisor.launch(spec)
    assert list(spec.runtime_dir.iterdir()) == []


async def test_a_released_vmm_is_adopted_by_the_next_daemon(rig: Rig) -> None:
    spec = rig.spec()
    vmm = await rig.hypervisor.launch(spec)
    path = rig.disk("d")
    disk = DiskSpec("d", path, readonly=False)
    address = await vmm.attach_disk(disk)
    await vmm.release()

    adopted = await rig.restarted().adopt(spec, vmm.identity, ((disk, address),))
    assert adopted.identity == vmm.identity
    async with Shell(adopted.agent_socket) as shell:
        assert await shell.run("echo still here") == "still here\n"
    with pytest.raises(AlreadyExists):
        await adopted.attach_disk(disk)
    more = await adopted.attach_disk(DiskSpec("e", rig.disk("e"), readonly=True))
    assert more != address
    await adopted.detach_disk("d")
    await adopted.kill()
    assert list(spec.runtime_dir.iterdir()) == []


async def test_a_disk_that_nobody_recorded_is_unplugged_when_adopted(rig: Rig) -> None:
    spec = rig.spec()
    vmm = await rig.hypervisor.launch(spec)
    path = rig.disk("d")
    await vmm.attach_disk(DiskSpec("d", path, readonly=False))
    await vmm.release()

    adopted = await rig.restarted().adopt(spec, vmm.identity, ())
    other = await rig.hypervisor.launch(rig.spec())
    await other.attach_disk(DiskSpec("d", path, readonly=False))
    await adopted.attach_disk(DiskSpec("d", rig.disk("e"), readonly=False))
    await adopted.kill()
    await other.kill()


async def test_the_death_of_an_adopted_vmm_is_seen(rig: Rig) -> None:
    spec = rig.spec()
    vmm = await rig.hypervisor.launch(spec)
    await vmm.release()
    adopted = await rig.restarted().adopt(spec, vmm.identity, ())
    waiter = asyncio.create_task(adopted.wait())
    await rig.crash(adopted)
    async with asyncio.timeout(1.5):
        assert not (await waiter).clean


async def test_what_is_gone_or_another_is_not_adopted(rig: Rig) -> None:
    spec, other = rig.spec(), rig.spec()
    vmm = await rig.hypervisor.launch(spec)
    await vmm.release()
    next_daemon = rig.restarted()
    older = dataclasses.replace(vmm.identity, start_time=vmm.identity.start_time - 1)
    rebooted = dataclasses.replace(vmm.identity, boot_id="another")
    for which, identity in ((spec, older), (spec, rebooted), (other, vmm.identity)):
        with pytest.raises(NotFound):
            await next_daemon.adopt(which, identity, ())
    adopted: Vmm = await next_daemon.adopt(spec, vmm.identity, ())
    await adopted.kill()
    with pytest.raises(NotFound):
        await next_daemon.adopt(spec, vmm.identity, ())


async def test_strays_are_ended_and_the_kept_are_not(rig: Rig) -> None:
    kept, stray = rig.spec(), rig.spec()
    keeper = await rig.hypervisor.launch(kept)
    lost = await rig.hypervisor.launch(stray)
    await lost.release()
    await keeper.release()
    assert await rig.restarted().reap_strays(frozenset({kept.sandbox_id})) == [stray.sandbox_id]
    adopted = await rig.restarted().adopt(kept, keeper.identity, ())
    with pytest.raises(NotFound):
        await rig.restarted().adopt(stray, lost.identity, ())
    await adopted.kill()


async def test_a_path_too_long_for_a_socket_is_refused_and_leaves_nothing(rig: Rig) -> None:
    directory = rig.folder / ("x" * 120)
    directory.mkdir()
    with pytest.raises(InvalidArgument, match="too long"):
        await rig.hypervisor.launch(dataclasses.replace(rig.spec(), runtime_dir=directory))
    assert list(directory.iterdir()) == []
