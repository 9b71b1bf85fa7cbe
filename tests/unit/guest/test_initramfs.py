"""The initramfs: right for the cpio tool, in loading order, the same bytes for the same inputs."""

from __future__ import annotations

import io
import lzma
import shutil
import subprocess
from pathlib import Path

import pytest

from hyper.errors import FailedPrecondition, NotFound
from hyper.guest import initramfs
from hyper.guest.cpio import CpioWriter
from hyper.guest.kernel import FoundKernel
from hyper.guest.modules import BOOT_MODULES, ModuleTree

from .kernel_files import module


@pytest.fixture
def kernel(tmp_path: Path) -> FoundKernel:
    """A kernel whose ext4 is a compressed, signed module that depends on two others; sd_mod is built in."""
    folder = tmp_path / "modules"
    for name in (*BOOT_MODULES, "jbd2", "crc16", "crc32c_generic", "9p", "9pnet_virtio"):
        path = folder / "kernel" / name[0] / f"{name.replace('_', '-')}.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        if name != "sd_mod":
            path.write_bytes(module(signature=b"s" * 300))
    ext4 = folder / "kernel/e/ext4.ko"
    signed = module(depends="jbd2,crc16", softdep="pre: crc32c post: jbd2", signature=b"s" * 300)
    ext4.with_suffix(".ko.xz").write_bytes(lzma.compress(signed))
    ext4.unlink()
    (folder / "kernel/9/9p.ko").write_bytes(module(depends="9pnet-virtio"))
    (folder / "modules.builtin").write_text("kernel/drivers/scsi/sd_mod.ko\n")
    return FoundKernel("distribution", tmp_path / "vmlinux", "6.1.0-test", folder, {})


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "agent"
    path.write_bytes(b"\x7fELF agent" * 1_000)
    return path


def unpacked(archive: Path, into: Path) -> Path:
    if shutil.which("cpio") is None:
        pytest.skip("cpio is missing: apt-get install cpio")
    into.mkdir()
    with archive.open("rb") as source:
        subprocess.run(["cpio", "-id", "--quiet"], stdin=source, cwd=into, check=True, capture_output=True)
    return into


def test_cpio_unpacks_it_and_the_lists_name_what_is_there(kernel: FoundKernel, agent: Path, tmp_path: Path) -> None:
    root = unpacked(initramfs.build(agent, kernel, tmp_path / "cache"), tmp_path / "out")
    assert (root / "init").read_bytes() == agent.read_bytes()
    assert (root / "init").stat().st_mode & 0o777 == 0o755
    assert (root / "dev/console").is_char_device()
    boot = (root / "etc/hyper/modules").read_text().split()
    later = (root / "etc/hyper/modules.later").read_text().split()
    for path in (*boot, *later):
        assert path.startswith("/lib/modules/6.1.0-test/kernel/")
        assert (root / path[1:]).read_bytes() == module() or "ext4" in path or "9p.ko" in path
    names = [Path(path).stem.replace("-", "_") for path in boot]
    assert names.index("jbd2") < names.index("ext4")
    assert names.index("crc16") < names.index("ext4")
    assert names.index("crc32c_generic") < names.index("ext4")
    assert "sd_mod" not in names
    assert len(set(names)) == len(names)
    assert [Path(path).stem for path in later] == ["9pnet-virtio", "9p"]


def test_the_same_inputs_give_the_same_file_and_others_another(
    kernel: FoundKernel, agent: Path, tmp_path: Path
) -> None:
    first = initramfs.build(agent, kernel, tmp_path / "a")
    assert initramfs.build(agent, kernel, tmp_path / "a") == first
    again = initramfs.build(agent, kernel, tmp_path / "b")
    assert (again.name, again.read_bytes()) == (first.name, first.read_bytes())
    agent.write_bytes(b"\x7fELF another agent")
    assert initramfs.build(agent, kernel, tmp_path / "a") != first
    assert sorted(path.suffix for path in (tmp_path / "a").iterdir()) == [".cpio", ".cpio"]


def test_signatures_stay_where_the_kernel_insists(kernel: FoundKernel, agent: Path, tmp_path: Path) -> None:
    strict = FoundKernel("distribution", kernel.vmlinux, kernel.release, kernel.modules, {"MODULE_SIG_FORCE": "y"})
    loose = initramfs.build(agent, kernel, tmp_path / "cache").stat().st_size
    assert initramfs.build(agent, strict, tmp_path / "cache").stat().st_size > loose + 10 * 300


def test_a_kernel_without_modules_needs_none(agent: Path, tmp_path: Path) -> None:
    kernel = FoundKernel("tuned", tmp_path / "vmlinux", "6.1.9", None, {})
    root = unpacked(initramfs.build(agent, kernel, tmp_path / "cache"), tmp_path / "out")
    assert (root / "etc/hyper/modules").read_text() == ""


def test_a_missing_agent_and_missing_or_damaged_modules_say_what_to_do(
    kernel: FoundKernel, agent: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match="make agent"):
        initramfs.build(tmp_path / "none", kernel, tmp_path / "cache")
    assert kernel.modules is not None
    (kernel.modules / "kernel/j/jbd2.ko").write_bytes(b"\x7fELF")
    with pytest.raises(FailedPrecondition, match=r"jbd2\.ko is damaged"):
        initramfs.build(agent, kernel, tmp_path / "cache")
    (kernel.modules / "kernel/j/jbd2.ko").unlink()
    with pytest.raises(FailedPrecondition, match="lack jbd2, which ext4 depends on"):
        initramfs.build(agent, kernel, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_circular_dependencies_end(tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel/a.ko").write_bytes(module(depends="b"))
    (tmp_path / "kernel/b.ko").write_bytes(module(depends="a"))
    assert {entry.name for entry in ModuleTree(tmp_path).closure(["a"])} == {"a", "b"}


@pytest.mark.parametrize("path", ["/etc", "a/../b", ".."])
def test_the_writer_takes_only_paths_below_its_root(path: str) -> None:
    with pytest.raises(ValueError, match="relative"):
        CpioWriter(io.BytesIO()).file(path, b"")
