"""The choice of the accelerator: what is asked, what is remembered, what is said."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from hyper.errors import FailedPrecondition
from hyper.hypervisors.base import Accelerator, HypervisorInfo, KernelImage
from hyper.hypervisors.qemu import probe, tsc
from hyper.hypervisors.qemu.settings import AcceleratorChoice, QemuSettings


@dataclass
class Host:
    """A host with a "QEMU" that tells its version, and a "KVM" device that may work or not."""

    folder: Path
    outcome: str | None = None
    boots: list[bool] = field(default_factory=list)
    """For each boot tried: whether as root."""

    def __post_init__(self) -> None:
        self.binary = self.folder / "qemu"
        self.binary.write_text(
            f"#!/bin/sh\n[ $1 = -L ] && echo {self.folder} || echo 'QEMU emulator version 7.2.1 (test)'\n"
        )
        self.binary.chmod(0o755)
        self.device = self.folder / "kvm"
        self.device.touch()
        self.device.chmod(0o666)
        self.kernel = self.folder / "vmlinux"
        self.kernel.touch()
        self.settings = QemuSettings("r", self.folder / "state", self.folder, kvm_device=self.device)

    async def choose(self, settings: QemuSettings | None = None) -> HypervisorInfo:
        async def boots(info: HypervisorInfo, groups: tuple[int, ...], as_root: bool, timeout_s: float) -> str | None:
            assert info.accelerator is Accelerator.KVM and timeout_s == 5.0
            self.boots.append(as_root)
            return self.outcome

        image = KernelImage(self.kernel, self.kernel, "")
        return await probe.choose(settings or self.settings, self.binary, lambda: image, boots, ("a note",))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


async def test_kvm_is_chosen_when_a_guest_boots_with_it(host: Host) -> None:
    info = await host.choose()
    assert info.accelerator is Accelerator.KVM
    assert info.version == "7.2.1 (test)" and info.notes == ("a note",)
    assert host.boots == [False]


async def test_tcg_is_chosen_when_the_guest_hangs_and_the_reason_says_so(host: Host) -> None:
    host.outcome = "the guest did not start within 5 s"
    info = await host.choose()
    assert info.accelerator is Accelerator.TCG
    assert str(host.device) in info.reason and "did not start within 5 s" in info.reason
    assert "no security boundary" in info.reason


async def test_the_outcome_is_remembered_so_that_it_costs_its_seconds_once(host: Host) -> None:
    host.outcome = "it hangs"
    first = await host.choose()
    assert await host.choose() == first
    assert len(host.boots) == 1


@pytest.mark.parametrize("changed", ["qemu", "vmlinux"])
async def test_another_qemu_or_kernel_is_tried_anew(host: Host, changed: str) -> None:
    await host.choose()
    os.utime(host.folder / changed, ns=(1, 1))
    await host.choose()
    assert len(host.boots) == 2


async def test_a_damaged_memory_is_no_failure(host: Host) -> None:
    await host.choose()
    (host.folder / "state" / "accelerator.json").write_text('{"key": ')
    assert (await host.choose()).accelerator is Accelerator.KVM
    assert len(host.boots) == 2


async def test_without_a_device_nothing_is_booted(host: Host) -> None:
    host.device.unlink()
    info = await host.choose()
    assert info.accelerator is Accelerator.TCG and "no " + str(host.device) in info.reason
    assert host.boots == []


async def test_a_device_for_root_alone_is_tried_as_root_and_how_to_open_it_is_said(host: Host) -> None:
    host.device.chmod(0o600)
    info = await host.choose()
    assert host.boots == [True]
    assert info.accelerator is Accelerator.TCG and "chmod 660" in info.reason


async def test_a_device_for_a_group_is_opened_through_that_group(host: Host) -> None:
    host.device.chmod(0o660)
    os.chown(host.device, 0, 107)
    assert probe.kvm_access(host.device) == probe.KvmAccess(groups=(107,))
    assert (await host.choose()).accelerator is Accelerator.KVM


async def test_the_quick_firmware_is_used_where_a_vmm_may_read_it(host: Host) -> None:
    assert (await host.choose()).firmware is None
    quick = host.folder / "qboot.rom"
    quick.touch()
    quick.chmod(0o600)
    assert (await host.choose()).firmware is None
    quick.chmod(0o644)
    assert (await host.choose()).firmware == quick


async def test_tcg_on_demand_asks_nothing(host: Host) -> None:
    info = await host.choose(replace(host.settings, accelerator=AcceleratorChoice.TCG))
    assert info.accelerator is Accelerator.TCG and host.boots == []


async def test_only_guests_without_kvm_are_told_how_fast_their_counter_counts(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tsc, "rate_khz", lambda known: 2_596_123)
    assert (await host.choose()).tsc_khz == 0
    assert (await host.choose(replace(host.settings, accelerator=AcceleratorChoice.TCG))).tsc_khz == 2_596_123


async def test_kvm_on_demand_fails_when_it_does_not_work(host: Host) -> None:
    host.outcome = "it hangs"
    with pytest.raises(FailedPrecondition, match="it hangs"):
        await host.choose(replace(host.settings, accelerator=AcceleratorChoice.KVM))


async def test_what_is_no_qemu_is_refused(host: Host) -> None:
    host.binary.write_text("#!/bin/sh\necho hello\n")
    assert host.binary.stat().st_mode & stat.S_IXUSR
    with pytest.raises(FailedPrecondition, match="is no QEMU"):
        await host.choose()
