"""What drivers promise that can save machines and make them bigger (hyper.hypervisors.base), over the fake and QEMU."""

from __future__ import annotations

import asyncio
import dataclasses
import mmap
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.contract.conftest import MIB, Rig

from hyper.errors import DataLoss, InvalidArgument, Unavailable
from hyper.hypervisors.base import DiskSpec, MachineSpec, MemoryFile, Nic, Resizable, Savable, SavedState, Vmm
from hyper.system import memory_files


@dataclass(frozen=True)
class Saved:
    """A machine that was saved: its sealed memory, and its state."""

    rig: Rig
    memory: int
    state: int

    def clone(self, *, own_copy: int | None = None) -> MachineSpec:
        """Another machine that goes on from it; with memory of its own when that is given."""
        state = os.open(f"/proc/self/fd/{self.state}", os.O_RDONLY | os.O_CLOEXEC)
        shared = own_copy is not None
        memory = MemoryFile(self.memory if own_copy is None else own_copy, shared=shared)
        return dataclasses.replace(self.rig.spec(), memory_file=memory, restore=SavedState(state))

    async def launch(self, spec: MachineSpec) -> Vmm:
        assert spec.restore is not None
        try:
            return await self.rig.hypervisor.launch(spec)
        finally:
            os.close(spec.restore.fd)

    def digest(self) -> str:
        return memory_files.digest(self.memory, [(0, os.fstat(self.memory).st_size)])


async def seal(fd: int) -> None:
    """The VMM has ended, but its mappings may still be being taken apart."""
    while True:
        try:
            return memory_files.seal(fd)
        except OSError:
            await asyncio.sleep(0.001)


@pytest.fixture
async def saved(rig: Rig) -> AsyncIterator[Saved]:
    """Of a machine whose guest was told "template"."""
    spec = rig.spec()
    memory, state = memory_files.create("memory", spec.memory_bytes), memory_files.create("state", 0)
    vmm = await rig.hypervisor.launch(dataclasses.replace(spec, memory_file=MemoryFile(memory, shared=True)))
    assert isinstance(vmm, Savable)
    await rig.remember(vmm, "template")
    await vmm.save(state)
    await vmm.kill()
    for fd in (memory, state):
        await seal(fd)
    yield Saved(rig, memory, state)
    os.close(memory)
    os.close(state)


async def test_clones_go_on_from_a_saved_machine_and_see_nothing_of_each_other(rig: Rig, saved: Saved) -> None:
    before = saved.digest()
    one, other = [await saved.launch(saved.clone()) for _ in range(2)]
    assert [await rig.recall(vmm) for vmm in (one, other)] == ["template", "template"]
    await rig.remember(one, "one")
    assert [await rig.recall(vmm) for vmm in (one, other)] == ["one", "template"]
    await rig.remember(other, "other")
    await one.kill()
    assert await rig.recall(other) == "other"
    last = await saved.launch(saved.clone())
    assert await rig.recall(last) == "template"
    assert saved.digest() == before
    await other.kill()
    await last.kill()


async def test_a_clone_is_a_vmm_like_any_other(rig: Rig, saved: Saved) -> None:
    spec = saved.clone()
    vmm = await saved.launch(spec)
    disk = DiskSpec("d", rig.disk("d"), readonly=False)
    address = await vmm.attach_disk(disk)
    assert isinstance(vmm, Resizable)
    await vmm.grow_memory(512 * MIB)
    await vmm.release()
    adopted = await rig.restarted().adopt(spec, vmm.identity, ((disk, address),))
    assert await rig.recall(adopted) == "template"
    assert isinstance(adopted, Resizable)
    await adopted.grow_memory(768 * MIB)
    await adopted.add_cpus(2)
    await adopted.detach_disk("d")
    await adopted.kill()
    assert list(spec.runtime_dir.iterdir()) == []


async def test_a_clone_may_own_a_copy_that_others_can_read(rig: Rig, saved: Saved) -> None:
    size = os.fstat(saved.memory).st_size
    copy = memory_files.create("copy", size)
    memory_files.copy(saved.memory, copy, memory_files.extents(saved.memory))
    before = saved.digest()
    vmm = await saved.launch(saved.clone(own_copy=copy))
    assert await rig.recall(vmm) == "template"
    await rig.remember(vmm, "a word of its own")
    with mmap.mmap(copy, size, mmap.MAP_SHARED, mmap.PROT_READ) as seen:
        assert seen.find(b"a word of its own") >= 0
    assert saved.digest() == before
    os.close(copy)
    assert await rig.recall(vmm) == "a word of its own"
    await vmm.kill()


async def test_a_state_that_cannot_be_is_data_loss_and_leaves_nothing(rig: Rig, saved: Saved) -> None:
    content = os.pread(saved.state, os.fstat(saved.state).st_size, 0)
    for bad in (b"", content[: len(content) // 2], b"QEVM, but no more" * 1000):
        state = memory_files.create("bad state", 0)
        os.write(state, bad)
        os.lseek(state, 0, os.SEEK_SET)
        spec = dataclasses.replace(saved.clone(), restore=SavedState(state))
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(DataLoss):
            await rig.hypervisor.launch(spec)
        assert list(spec.runtime_dir.iterdir()) == [] and len(os.listdir("/proc/self/fd")) == before
        os.close(state)


async def test_a_machine_grows_up_to_what_it_was_made_for_and_never_shrinks(rig: Rig) -> None:
    vmm = await rig.hypervisor.launch(rig.spec())
    assert isinstance(vmm, Resizable)
    for memory_bytes in (512 * MIB, 256 * MIB, 0, 1024 * MIB, 1024 * MIB):
        await vmm.grow_memory(memory_bytes)
    with pytest.raises(InvalidArgument, match="at most"):
        await vmm.grow_memory(1024 * MIB + 1)
    for cpus in (1, 0, 2, 2, 1):
        await vmm.add_cpus(cpus)
    with pytest.raises(InvalidArgument, match="at most"):
        await vmm.add_cpus(3)
    await vmm.kill()


async def test_bounds_never_fail(rig: Rig) -> None:
    spec = rig.spec()
    vmm = await rig.hypervisor.launch(spec)
    for memory_bytes in (1024 * MIB, 1, 1 << 62, 0):
        for cpus in (1, 10_000, 0):
            vmm.bound(memory_bytes, cpus)
    vmm.bound(256 * MIB, 1)
    for deferred in (True, True, False, False):
        vmm.defer(deferred)
    await rig.crash(vmm)
    await vmm.wait()
    vmm.bound(256 * MIB, 1)
    vmm.defer(True)


async def test_a_dead_machine_is_neither_saved_nor_made_bigger(rig: Rig) -> None:
    vmm = await rig.hypervisor.launch(rig.spec())
    assert isinstance(vmm, Savable) and isinstance(vmm, Resizable)
    await rig.crash(vmm)
    await vmm.wait()
    state = memory_files.create("state", 0)
    for attempt in (vmm.save(state), vmm.grow_memory(512 * MIB), vmm.add_cpus(2)):
        with pytest.raises(Unavailable, match="has ended"):
            await attempt
    os.close(state)


async def test_the_key_is_of_the_shape_and_of_nothing_else(rig: Rig) -> None:
    info = await rig.hypervisor.probe()
    spec = rig.spec()

    def key(**changes: object) -> str:
        return rig.hypervisor.template_key(dataclasses.replace(spec, **changes), info)  # type: ignore[arg-type]

    same = key()
    for unimportant in (
        {"sandbox_id": "b" * 32},
        {"uid": spec.uid + 1},
        {"runtime_dir": Path("/elsewhere")},
        {"memory_file": MemoryFile(5, shared=False)},
        {"restore": SavedState(6)},
        {"image": dataclasses.replace(spec.image, kernel=Path("/other"), initrd=Path("/one"))},
    ):
        assert key(**unimportant) == same, unimportant
    others = [
        key(**change)
        for change in (
            {"memory_bytes": 512 * MIB},
            {"max_memory_bytes": 2048 * MIB},
            {"cpus": 2},
            {"max_cpus": 4},
            {"nics": (Nic("02:00:00:00:00:01", -1),)},
            {"image": dataclasses.replace(spec.image, command_line="quiet")},
        )
    ]
    assert len({same, *others}) == 7
    newer = dataclasses.replace(info, version="99")
    assert rig.hypervisor.template_key(spec, newer) != same
