"""Cgroups of VMMs over made-up hierarchies: version 1, version 2, both, none."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyper.system.cgroups import Cgroup, CgroupLimits, Cgroups

LIMITS = CgroupLimits(memory_bytes=1 << 30, processes=100, cpus=1.5)


def mountinfo(folder: Path, *rows: tuple[Path, str, str]) -> Path:
    path = folder / "mountinfo"
    lines = [f"30 20 0:1 / {mount} rw - {kind} cgroup rw,{options}\n" for mount, kind, options in rows]
    path.write_text("".join(lines))
    return path


def test_version_1_gets_a_directory_per_controller(tmp_path: Path) -> None:
    rows = [(tmp_path / name, "cgroup", name) for name in ("memory", "pids", "cpu", "freezer")]
    for mount, _, _ in rows:
        mount.mkdir()
    cgroups = Cgroups("root", mountinfo(tmp_path, *rows))
    cgroup = cgroups.create("vm", LIMITS)
    assert cgroups.notes == ()
    assert (tmp_path / "memory/hyper/root/vm/memory.limit_in_bytes").read_text() == str(1 << 30)
    assert (tmp_path / "pids/hyper/root/vm/pids.max").read_text() == "100"
    assert (tmp_path / "cpu/hyper/root/vm/cpu.cfs_quota_us").read_text() == "150000"
    assert not (tmp_path / "freezer/hyper").exists()
    cgroup.add(42)
    assert (tmp_path / "memory/hyper/root/vm/cgroup.procs").read_text() == "42"
    assert cgroups.names() == {"vm"}


def test_version_2_enables_the_controllers_down_the_tree(tmp_path: Path) -> None:
    mount = tmp_path / "unified"
    mount.mkdir()
    (mount / "cgroup.controllers").write_text("cpu io memory")
    for level in (mount / "hyper", mount / "hyper/root"):
        level.mkdir()
        (level / "cgroup.subtree_control").touch()
    cgroups = Cgroups("root", mountinfo(tmp_path, (mount, "cgroup2", "")))
    assert (mount / "cgroup.subtree_control").read_text().startswith("+")
    assert cgroups.notes != () and "pids" in cgroups.notes[0]


def test_a_host_without_cgroups_is_a_note_and_no_failure(tmp_path: Path) -> None:
    cgroups = Cgroups("root", mountinfo(tmp_path))
    assert "memory, pids, cpu" in cgroups.notes[0]
    cgroup = cgroups.create("vm", LIMITS)
    cgroup.add(42)
    assert cgroup.directories == () and cgroups.names() == frozenset()


async def test_real_cgroups_of_this_host_are_made_and_removed() -> None:
    cgroups = Cgroups("unit-test")
    if not cgroups.create("vm", LIMITS).directories:
        pytest.skip("no cgroup controller can be used on this host")
    assert cgroups.names() == {"vm"}
    await cgroups.find("vm").remove()
    await cgroups.find("vm").remove()
    assert cgroups.names() == frozenset()
    cgroups.remove_group()


def test_new_limits_are_written_to_whichever_version_there_is(tmp_path: Path) -> None:
    first, second = tmp_path / "v1", tmp_path / "v2"
    for folder, names in (
        (first, ("memory.limit_in_bytes", "cpu.cfs_quota_us")),
        (second, ("memory.max", "pids.max", "cpu.max")),
    ):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    Cgroup((first, second)).apply(CgroupLimits(memory_bytes=2 << 30, processes=50, cpus=3))
    assert (first / "memory.limit_in_bytes").read_text() == (second / "memory.max").read_text() == str(2 << 30)
    assert (first / "cpu.cfs_quota_us").read_text() == "300000"
    assert (second / "cpu.max").read_text() == "300000 100000"
    assert (second / "pids.max").read_text() == "50"


def test_the_background_and_back(tmp_path: Path) -> None:
    for name in ("cpu.shares", "cpu.weight"):
        (tmp_path / name).touch()
    cgroup = Cgroup((tmp_path,))
    cgroup.set_background(True)
    assert ((tmp_path / "cpu.shares").read_text(), (tmp_path / "cpu.weight").read_text()) == ("2", "1")
    cgroup.set_background(False)
    assert ((tmp_path / "cpu.shares").read_text(), (tmp_path / "cpu.weight").read_text()) == ("1024", "100")


def test_what_the_host_refuses_or_has_taken_away_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "pids.max").mkdir()  # which cannot be written to
    cgroup = Cgroup((tmp_path, tmp_path / "gone"))
    cgroup.apply(LIMITS)
    cgroup.set_background(True)
    assert not (tmp_path / "gone").exists()


async def test_limits_and_background_arrive_in_this_hosts_kernel() -> None:
    cgroups = Cgroups("unit-test-limits")
    cgroup = cgroups.create("vm", LIMITS)
    try:
        if not cgroup.directories:
            pytest.skip("no cgroup controller can be used on this host")

        def value(*names: str) -> set[str]:
            files = (directory / name for directory in cgroup.directories for name in names)
            return {file.read_text().strip() for file in files if file.exists()}

        cgroup.apply(CgroupLimits(memory_bytes=2 << 30, processes=60, cpus=2))
        assert value("memory.limit_in_bytes", "memory.max") <= {str(2 << 30)}
        assert value("pids.max") <= {"60"}
        assert value("cpu.cfs_quota_us", "cpu.max") <= {"200000", "200000 100000"}
        for background, shares in ((True, {"2", "1"}), (False, {"1024", "100"})):
            cgroup.set_background(background)
            assert value("cpu.shares", "cpu.weight") <= shares
        assert value("memory.limit_in_bytes", "memory.max", "pids.max", "cpu.shares", "cpu.weight")
    finally:
        await cgroup.remove()
        cgroups.remove_group()
