"""QEMU's command line against golden files: one argument pair per line, so that a difference reads well.

After a wanted change: ``GOLDEN=write pytest tests/unit/hypervisors`` and read the diff.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from hyper.hypervisors.base import Accelerator, HypervisorInfo, KernelImage, MachineSpec, MemoryFile, Nic, SavedState
from hyper.hypervisors.qemu.command_line import Descriptors, build, sandbox_of, shape

MIB = 1 << 20
GOLDEN = Path(__file__).parent / "golden"
IMAGE = KernelImage(Path("/k/vmlinux"), Path("/k/initrd"), "mitigations=off")


def machine(
    *, memory: int = 256 * MIB, most: int = 4096 * MIB, cpus: int = 1, max_cpus: int = 2, nics: tuple[Nic, ...] = ()
) -> MachineSpec:
    return MachineSpec("ab" * 16, Path("/run/hyper/vm"), IMAGE, memory, most, cpus, max_cpus, 1_900_000_007, nics)


def info(accelerator: Accelerator) -> HypervisorInfo:
    return HypervisorInfo(
        name="qemu",
        version="7.2",
        binary=Path("/usr/bin/qemu-system-x86_64"),
        accelerator=accelerator,
        reason="",
        firmware=Path("/usr/share/qemu/qboot.rom"),
        tsc_khz=2_596_123 if accelerator is Accelerator.TCG else 0,
    )


CASES = {
    "tcg": (machine(), Accelerator.TCG, Descriptors(10, 11, 12, 13)),
    "kvm": (machine(cpus=4, max_cpus=4), Accelerator.KVM, Descriptors(10, 11, 12, 13)),
    "two-nics": (
        machine(nics=(Nic("02:00:00:00:00:01", 20), Nic("02:00:00:00:00:02", 21))),
        Accelerator.TCG,
        Descriptors(10, 11, 12, 13, (20, 21)),
    ),
    "template": (
        dataclasses.replace(
            machine(memory=2048 * MIB, nics=(Nic("02:00:00:00:00:01", 20),)), memory_file=MemoryFile(14, shared=True)
        ),
        Accelerator.TCG,
        Descriptors(10, 11, 12, 13, (20,), 14),
    ),
    "clone": (
        dataclasses.replace(
            machine(memory=2048 * MIB, nics=(Nic("02:00:00:00:00:01", 21),)),
            memory_file=MemoryFile(15, shared=False),
            restore=SavedState(16),
        ),
        Accelerator.TCG,
        Descriptors(10, 11, 12, 13, (21,), 15),
    ),
    "fixed-size": (machine(memory=128 * MIB, most=128 * MIB, max_cpus=1), Accelerator.TCG, Descriptors(3, 4, 5, 6)),
}


@pytest.mark.parametrize("name", CASES)
def test_command_line_is_as_written_down(name: str) -> None:
    spec, accelerator, descriptors = CASES[name]
    argv = build(spec, info(accelerator), descriptors, "root-1")
    text = " ".join(argv).replace(" -", "\n-") + "\n"
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("name", CASES)
def test_every_machine_has_the_full_seccomp_sandbox_and_no_defaults(name: str) -> None:
    spec, accelerator, descriptors = CASES[name]
    argv = build(spec, info(accelerator), descriptors, "root-1")
    assert argv[argv.index("-sandbox") + 1] == (
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    )
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(argv)


def test_memory_is_rounded_up_to_whole_mebibytes() -> None:
    spec = machine(memory=256 * MIB + 1, most=256 * MIB + 1)
    argv = build(spec, info(Accelerator.TCG), Descriptors(3, 4, 5, 6), "r")
    assert argv[argv.index("-m") + 1] == "size=257M"


def test_a_tap_for_each_card_is_demanded() -> None:
    with pytest.raises(ValueError, match="shorter"):
        build(machine(nics=(Nic("02:00:00:00:00:01", 20),)), info(Accelerator.TCG), Descriptors(3, 4, 5, 6), "r")


def test_the_vmm_of_a_sandbox_is_known_by_its_command_line_and_by_no_other_root() -> None:
    argv = build(machine(), info(Accelerator.TCG), Descriptors(3, 4, 5, 6), "root-1")
    assert sandbox_of(argv, "root-1") == "ab" * 16
    assert sandbox_of(argv, "root-2") is None
    assert sandbox_of(argv, "root") is None
    assert sandbox_of(["sleep", "1"], "root-1") is None


def test_a_clone_has_the_shape_of_its_template_and_of_no_other_machine() -> None:
    template, clone = CASES["template"][0], CASES["clone"][0]
    tcg = info(Accelerator.TCG)
    assert shape(template, tcg) == shape(clone, tcg)
    others = [dataclasses.replace(clone, memory_bytes=1024 * MIB), dataclasses.replace(clone, cpus=2)]
    others += [dataclasses.replace(clone, nics=()), dataclasses.replace(clone, max_memory_bytes=8192 * MIB)]
    assert len({shape(spec, tcg) for spec in (clone, *others)} | {shape(clone, info(Accelerator.KVM))}) == 6
