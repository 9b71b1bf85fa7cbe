from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest

from hyper.cli import doctor
from hyper.errors import Unavailable

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "verdict"), [(500_000_000, "FAIL"), (5_000_000_000, "warn"), (50_000_000_000, "ok")])
def test_space_is_judged(free: int, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(0, 0, free))
    finding = doctor.space("/nowhere/at/all")
    assert finding.verdict == verdict
    assert "in /" in finding.text


def test_kvm_that_exists_and_does_not_work_is_explained() -> None:
    info = {"accelerator": "tcg", "accelerator_reason": "/dev/kvm: the test guest did not boot within 5 s"}
    line = doctor.kvm(info, exists=lambda path: True).line()
    assert line.startswith("warn  KVM          not used, /dev/kvm: the test guest did not boot within 5 s: ")
    assert "no /dev/kvm" in doctor.kvm(info, exists=lambda path: False).text
    assert doctor.kvm({"accelerator": "kvm", "accelerator_reason": "booted"}).verdict == "ok"
    assert "not tried to the end" in doctor.kvm({"accelerator": "", "accelerator_reason": ""}).text


def test_missing_qemu_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    finding = doctor.qemu()
    assert finding.verdict == "FAIL"
    assert "apt-get install" in finding.advice


def test_busybox_image_is_looked_for() -> None:
    def images(*names: str) -> Any:
        return lambda method, path: [{"RepoTags": list(names)}]

    assert doctor.busybox(images("busybox:latest")).verdict == "ok"
    assert doctor.busybox(images("debian:12")).verdict == "warn"

    def broken(method: str, path: str) -> list[dict[str, Any]]:
        raise Unavailable("gone")

    assert doctor.busybox(broken).verdict == "FAIL"


@pytest.mark.parametrize(
    ("mounts", "verdict"),
    [
        ("14 35 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory", "ok"),
        ("14 35 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu", "warn"),
        ("", "warn"),
    ],
)
def test_cgroups_are_judged(mounts: str, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_read", lambda path: mounts if path.endswith("mountinfo") else "")
    assert doctor.cgroups().verdict == verdict


def test_every_system_check_gives_a_line() -> None:
    checks = (doctor.permissions, doctor.tun, doctor.nf_tables, doctor.cgroups, doctor.memory, doctor.open_files)
    for check in checks:
        finding = check()
        assert finding.verdict in (doctor.OK, doctor.WARN, doctor.FAIL)
        assert finding.verdict == doctor.OK or finding.advice
