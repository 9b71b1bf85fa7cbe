"""Which kernel is found, and what is said about one that will not do."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Literal

import pytest

from hyper.errors import FailedPrecondition, InvalidArgument, NotFound
from hyper.guest.kernel import FoundKernel, KernelSettings, find_kernel
from hyper.guest.kernel_config import REQUIREMENTS

from .kernel_files import bzimage, module, vmlinux

COMPLETE = "".join(f"CONFIG_{requirement.option}=y\n" for requirement in REQUIREMENTS)
MODULAR = "".join(f"CONFIG_{need.option}={'m' if need.module else 'y'}\n" for need in REQUIREMENTS)


def distribution(folder: Path, release: str) -> Path:
    made = folder / "distribution" / release
    (made / "modules/kernel").mkdir(parents=True)
    (made / "vmlinux").write_bytes(vmlinux(release))
    (made / "config").write_text(MODULAR)
    return made


def tuned(folder: Path) -> Path:
    made = folder / "tuned"
    made.mkdir()
    for name, text in (("vmlinux", "x"), ("config", COMPLETE), ("release", "6.1.9-hyper\n")):
        (made / name).write_text(text)
    return made


def modules(folder: Path, *missing: str) -> Path:
    (folder / "kernel").mkdir(parents=True)
    (folder / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    for requirement in REQUIREMENTS:
        if requirement.module and requirement.module not in (*missing, "ext4"):
            (folder / f"kernel/{requirement.module}.ko").write_bytes(module())
    return folder


def test_without_any_it_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="make setup"):
        find_kernel(KernelSettings(tmp_path))


def test_the_newest_of_the_distributions_is_found(tmp_path: Path) -> None:
    for release in ("6.1.0-9-amd64", "6.1.0-50-amd64", "5.10.0-99-amd64"):
        distribution(tmp_path, release)
    (tmp_path / "distribution/.partial-x").mkdir()
    found = find_kernel(KernelSettings(tmp_path))
    assert (found.kind, found.release) == ("distribution", "6.1.0-50-amd64")
    assert found.modules == found.vmlinux.parent / "modules"


def test_the_tuned_goes_before_the_distributions(tmp_path: Path) -> None:
    distribution(tmp_path, "6.1.0-9-amd64")
    tuned(tmp_path)
    found = find_kernel(KernelSettings(tmp_path))
    assert (found.kind, found.release, found.modules) == ("tuned", "6.1.9-hyper", None)


def test_the_configured_goes_before_all_and_is_never_passed_over(tmp_path: Path) -> None:
    tuned(tmp_path)
    with pytest.raises(NotFound, match="nowhere does not exist"):
        find_kernel(KernelSettings(tmp_path, tmp_path / "nowhere"))
    (tmp_path / "mine").write_bytes(vmlinux("7.0.0", config=COMPLETE))
    found = find_kernel(KernelSettings(tmp_path, tmp_path / "mine"))
    assert (found.kind, found.release, found.unknown) == ("configured", "7.0.0", ())


def test_a_configured_bzimage_boots_as_its_vmlinux(tmp_path: Path) -> None:
    kernel = vmlinux("7.0.0", config=COMPLETE)
    (tmp_path / "bzImage").write_bytes(bzimage("7.0.0", gzip.compress(kernel)))
    settings = KernelSettings(tmp_path / "kernels", tmp_path / "bzImage")
    found = find_kernel(settings)
    assert found.vmlinux.read_bytes() == kernel
    assert find_kernel(settings).vmlinux == found.vmlinux


def test_all_that_a_kernel_lacks_is_named(tmp_path: Path) -> None:
    config = COMPLETE.replace("CONFIG_EROFS_FS=y\n", "# CONFIG_EROFS_FS is not set\n").replace("CONFIG_PID_NS=y\n", "")
    (tmp_path / "mine").write_bytes(vmlinux("7.0.0", config=config))
    with pytest.raises(FailedPrecondition, match=r"CONFIG_EROFS_FS \(image disks\); CONFIG_PID_NS") as caught:
        find_kernel(KernelSettings(tmp_path, tmp_path / "mine"))
    assert "CONFIG_EXT4_FS" not in caught.value.message


def test_modules_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(vmlinux("7.0.0"))
    (tmp_path / "mine.config").write_text(MODULAR.replace("CONFIG_EXT4_FS=m", "CONFIG_EXT4_FS=y"))
    folder = modules(tmp_path / "m/lib/modules/7.0.0", "erofs")
    with pytest.raises(FailedPrecondition, match="lacks: the module erofs of CONFIG_EROFS_FS"):
        find_kernel(KernelSettings(tmp_path, tmp_path / "mine", tmp_path / "m"))
    (folder / "kernel/erofs.ko").write_bytes(module())
    assert find_kernel(KernelSettings(tmp_path, tmp_path / "mine", tmp_path / "m")).modules == folder


def test_what_cannot_be_known_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(vmlinux("7.0.0"))
    folder = modules(tmp_path / "modules-7")
    found = find_kernel(KernelSettings(tmp_path, tmp_path / "mine", folder))
    assert "CONFIG_PID_NS (containers)" in found.unknown
    assert not any("EROFS" in name for name in found.unknown)


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n" * 100, vmlinux(pvh=False), vmlinux()[:100]])
def test_what_is_no_bootable_kernel_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine").write_bytes(content)
    with pytest.raises(InvalidArgument, match="mine"):
        find_kernel(KernelSettings(tmp_path, tmp_path / "mine"))


def test_a_folder_without_modules_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(vmlinux("7.0.0", config=COMPLETE))
    with pytest.raises(InvalidArgument, match="no modules of"):
        find_kernel(KernelSettings(tmp_path, tmp_path / "mine", tmp_path))


def test_mitigations_are_off_only_where_they_protect_nothing(tmp_path: Path) -> None:
    tuned(tmp_path)
    found = find_kernel(KernelSettings(tmp_path))
    assert "mitigations=off" in found.command_line(emulated=True)
    assert "mitigations" not in found.command_line(emulated=False)
    assert "rodata" not in found.command_line(emulated=False)


@pytest.mark.parametrize(("kind", "told"), [("distribution", True), ("configured", True), ("tuned", False)])
def test_only_kernels_that_are_not_ours_are_spared_their_own_checks(
    kind: Literal["configured", "tuned", "distribution"], told: bool
) -> None:
    words = FoundKernel(kind, Path("/k"), "6.1", None, None).command_line(emulated=True).split()
    assert ("rodata=off" in words, "cryptomgr.notests" in words) == (told, told)
