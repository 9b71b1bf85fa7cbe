"""The emulated host's disk: an ext4 file system with what hyperd needs, each file at the path it has on this machine.

Made from this machine's own QEMU, Python and libraries and this source tree, so that what is tested is what is
installed, and only a kernel has to be fetched for it. Neighbours: ``machine`` boots it, ``inside`` is what runs there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from tests.kvm.inside.reports import JOB, PORT

from hyper.daemon.agent_binary import find_agent
from hyper.daemon.main import SHARED
from hyper.guest.initramfs import LATER_MODULES
from hyper.guest.kernel import KernelSettings, find_kernel
from hyper.guest.modules import BOOT_MODULES, ModuleTree

ROOT = Path(__file__).resolve().parents[2]
SIZE_BYTES = 2 << 30
"""Sparse: room for containers' disks."""
PROGRAMS = ("qemu-system-x86_64", "docker", "mke2fs", "busybox")

_INIT = """#!/usr/bin/busybox sh
# Process 1 of the emulated host; as such it takes care of VMs whose hyperd was killed.
export PATH='{path}' LC_ALL=C.UTF-8 HOME=/root
busybox mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/console 2>&1
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t tmpfs -o mode=755 tmpfs /run
busybox mkdir /dev/pts /dev/shm
busybox mount -t devpts devpts /dev/pts
busybox mount -t tmpfs -o mode=1777 tmpfs /dev/shm
busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo '{{"phase": "kernel"}}' >{port}
for module in {modules}; do busybox insmod $module; done
# As udev's rules do it.
busybox chgrp kvm /dev/kvm
busybox chmod 660 /dev/kvm
busybox ip link set lo up
echo '{{"phase": "modules"}}' >{port}
cd '{root}'
'{python}' -m tests.kvm.inside
busybox poweroff -f
"""

_LIBRARIES = ("libnftables.so.1", "libgcc_s.so.1")
"""Loaded by name, so that no program's list has them: by hyperd, and by Python to end a thread."""
_FIRMWARE = ("qboot.rom", "bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "pvh.bin")
_MODULES = (
    *("kvm_amd", "tun", "bridge", "veth"),
    *("nf_tables", "nft_chain_nat", "nft_nat", "nft_masq", "nft_ct", "nft_fib_ipv4"),
    *("nft_meta_bridge", "nf_conntrack_netlink"),
)
"""All that the emulated host's kernel needs of its modules: it is given no modprobe that could load more."""
_NOT_OF_PYTHON = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "pydoc_data", "dist-packages"}
)


class Tree:
    """A folder that is filled with files at the paths they have on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, path: Path, *, without: Collection[str] = ()) -> None:
        """The file, or the folder with all in it but what has one of these names; symbolic links on the way and in it
        with what they lead to."""
        real = self._place(path)
        target = self._inside(real)
        if real.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            for name in os.listdir(real):
                if name not in without:
                    self.add(real / name, without=without)
        elif not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(real, target)
            except OSError:  # on another file system
                shutil.copy2(real, target)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        target = self._inside(Path(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def folder_at(self, path: str, mode: int = 0o755) -> None:
        target = self._inside(Path(path))
        target.mkdir(parents=True, exist_ok=True)
        target.chmod(mode)

    def link(self, path: Path, leads_to: Path) -> None:
        if path != leads_to:
            self._inside(path).parent.mkdir(parents=True, exist_ok=True)
            self._inside(path).symlink_to(leads_to)

    def programs_and_libraries(self) -> Iterator[Path]:
        """The ELF files in it, by their paths here."""
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = Path(folder, name)
                if not path.is_symlink() and (os.access(path, os.X_OK) or ".so" in name):
                    with path.open("rb") as file:
                        if file.read(4) == b"\x7fELF":
                            yield Path("/") / path.relative_to(self.folder)

    def _inside(self, path: Path) -> Path:
        return self.folder / path.relative_to("/")

    def _place(self, path: Path) -> Path:
        """Make the links on the way to a path as they are here, and follow them to the real one."""
        real, rest = Path("/"), list(path.parts[1:])
        while rest:
            part = rest.pop(0)
            if part == "..":
                real = real.parent
            elif (real / part).is_symlink():
                leads_to = Path(os.readlink(real / part))
                link = self._inside(real / part)
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.is_symlink():
                    link.symlink_to(leads_to)
                if leads_to.is_absolute():
                    real, leads_to = Path("/"), leads_to.relative_to("/")
                rest = [*leads_to.parts, *rest]
            else:
                real = real / part
        return real


def make(folder: Path, *, host_kernel: Path, guest_kernels: Path, cases: Sequence[str]) -> Path:
    """The disk's image in ``folder``, of a host that runs these cases and then powers off.

    ``host_kernel`` and ``guest_kernels`` are folders as ``hyper.guest.fetch_kernel`` and ``hyper.guest.kernel`` know
    them."""
    tree = Tree(folder / "tree")
    tree.folder.mkdir()
    for name in ("bin", "sbin", "lib", "lib64"):
        tree.add(Path("/", name), without=os.listdir(Path("/", name)))  # links, where /usr is merged
    programs = [Path(shutil.which(program) or f"/no {program} on PATH") for program in PROGRAMS]
    for program in programs:
        tree.add(program)
    _qemu(tree)
    _python(tree)
    for part in ("src", "tests/kvm"):
        tree.add(ROOT / part)
    tree.add(find_agent(None))
    _guest_kernel(tree, guest_kernels)
    modules = ModuleTree(host_kernel / "modules")
    to_load = [modules.folder / module.path for module in modules.closure(_MODULES)]
    for path in to_load:
        tree.add(path)
    for library in _libraries([*tree.programs_and_libraries(), *_loaded_by_name()]):
        tree.add(library)
    tree.add(Path("/etc/ld.so.cache"))
    _settings(tree)
    init = _INIT.format(
        path=":".join(dict.fromkeys(str(program.parent) for program in programs)),
        port=PORT,
        modules=" ".join(map(str, to_load)),
        root=ROOT,
        python=Path(sys.prefix, "bin/python"),
    )
    tree.write("/init", init, 0o755)
    tree.write(JOB, json.dumps(cases))
    image = folder / "disk"
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    # No journal: this file system does not outlive its host.
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", str(tree.folder), str(image)],
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    shutil.rmtree(tree.folder)
    return image


def _qemu(tree: Tree) -> None:
    said = subprocess.run(["qemu-system-x86_64", "-L", "help"], capture_output=True, text=True, check=True).stdout
    folders = [Path(os.path.normpath(line)) for line in said.splitlines()]
    for name in _FIRMWARE:
        tree.add(next((folder / name for folder in folders if (folder / name).exists()), Path(f"/no {name} of QEMU")))


def _python(tree: Tree) -> None:
    """The interpreter, its library, and of the environment what hyperd needs (not what its tests need)."""
    library = Path(sysconfig.get_path("stdlib"))
    tree.add(library, without=[*_NOT_OF_PYTHON, *(path.name for path in library.glob("config-*"))])
    environment = Path(sys.prefix)
    for name in ("pyvenv.cfg", "bin/python", "bin/hyper", "bin/hyperd"):
        tree.add(environment / name)
    for distribution in _distributions("hyper").values():
        for file in distribution.files or ():
            path = Path(os.path.normpath(str(distribution.locate_file(file))))
            if path.is_relative_to(environment) and path.exists():
                tree.add(path)


def _distributions(name: str) -> dict[str, metadata.Distribution]:
    """An installed one and all that it requires here, extras aside."""
    found: dict[str, metadata.Distribution] = {}
    wanted = [name]
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = metadata.distribution(name)
            for requirement in map(Requirement, found[name].requires or ()):
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    wanted.append(requirement.name)
    return found


def _guest_kernel(tree: Tree, kernels: Path) -> None:
    kernel = find_kernel(KernelSettings(kernels))
    tree.link(SHARED / "kernels", kernels)
    tree.add(kernel.vmlinux)
    for name in ("config", "release"):
        if (kernel.vmlinux.parent / name).exists():
            tree.add(kernel.vmlinux.parent / name)
    if kernel.modules is not None:
        modules = ModuleTree(kernel.modules)
        for module in modules.closure(name for name in (*BOOT_MODULES, *LATER_MODULES) if modules.has(name)):
            tree.add(next((kernel.modules / module.path).parent.glob(f"{Path(module.path).name}*")))
        for path in kernel.modules.glob("modules.builtin*"):
            tree.add(path)


def _loaded_by_name() -> Iterator[Path]:
    said = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    for name in _LIBRARIES:
        found = re.search(rf"^\s*{re.escape(name)} \(.*x86-64.*=> (\S+)$", said, re.MULTILINE)
        yield Path(found.group(1) if found else f"/no {name} on this machine")


def _libraries(programs: Iterable[Path]) -> set[Path]:
    """All that the dynamic linker would load for them, and themselves where they are libraries."""
    programs = list(programs)
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True).stdout  # 1: some are static
    needed = re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", said, re.MULTILINE)
    return {Path(path) for path in needed} | {path for path in programs if ".so" in path.name}


def _settings(tree: Tree) -> None:
    for path in ("/proc", "/sys", "/dev", "/run", "/etc", "/root", "/var/lib/hyper"):
        tree.folder_at(path)
    for path in ("/tmp", "/var/tmp"):
        tree.folder_at(path, 0o1777)
    tree.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    tree.write("/etc/group", "root:x:0:\nkvm:x:104:\nnogroup:x:65534:\n")
    tree.write("/etc/hosts", "127.0.0.1 localhost\n")
    tree.write("/etc/resolv.conf", "")
    tree.write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")
