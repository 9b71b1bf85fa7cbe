"""Which module files a guest needs, in the order in which they are loaded.

Debian's kernel package has no modules.dep (its postinst runs depmod, and Hyper unpacks without installing), so the
dependencies are read from the modules themselves: ``depends=`` and ``softdep=pre:`` of .modinfo. Names are the
kernel's: ``-`` and ``_`` are the same. Neighbours: ``initramfs`` packs the result, ``kernel`` asks what is built in.
"""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import zstandard

from hyper.errors import FailedPrecondition
from hyper.guest.elf import ElfError, modinfo

# What a sandbox cannot start a container without.
BOOT_MODULES = (
    "virtio_pci",
    "virtio_console",
    "virtio_rng",
    "virtio_scsi",
    "sd_mod",
    "virtio_net",
    "erofs",
    "ext4",
    "overlay",
    "virtio_mem",
    "virtiofs",
)


@dataclass(frozen=True)
class Module:
    """A module file as it goes into the initramfs: decompressed."""

    name: str
    path: str
    """Relative to the modules folder, without the compression's suffix: ``kernel/fs/erofs/erofs.ko``."""
    data: bytes


def canonical(name: str) -> str:
    """The kernel's own spelling of a module name."""
    return name.replace("-", "_")


class ModuleTree:
    """A ``lib/modules/<release>`` folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Path] = {}
        for path in sorted((folder / "kernel").rglob("*.ko*")):
            self._files.setdefault(canonical(path.name.split(".ko", 1)[0]), path)
        self.builtin = _builtin(folder / "modules.builtin")
        self._aliases = _builtin_aliases(folder / "modules.builtin.modinfo")
        self._loaded: dict[str, tuple[Module, tuple[str, ...], tuple[str, ...]]] = {}

    def has(self, name: str) -> bool:
        """Whether the kernel can do this: as a module here, or built in."""
        return canonical(name) in self._files or canonical(name) in self.builtin

    def closure(self, names: Iterable[str], *, without: Iterable[Module] = ()) -> list[Module]:
        """The modules and all that they depend on, dependencies first, each once; what is built in is left out.

        FailedPrecondition when a name, or something that it depends on, is neither there nor built in."""
        done = {module.name for module in without}
        order: list[Module] = []
        for name in names:
            self._visit(canonical(name), done, order, wanted_by=None)
        return order

    def _visit(self, name: str, done: set[str], order: list[Module], wanted_by: str | None) -> None:
        if name in done or name in self.builtin:
            return
        if name not in self._files:
            origin = f", which {wanted_by} depends on" if wanted_by else ""
            raise FailedPrecondition(
                f"the kernel modules in {self.folder} lack {name}{origin}; give Hyper a complete modules folder"
            )
        done.add(name)
        module, depends, soft = self._load(name)
        for dependency in depends:
            self._visit(dependency, done, order, wanted_by=name)
        for dependency in soft:
            # A soft dependency may be an alias of what is built in, or absent: the module works without it, or says
            # so itself.
            for provider in self._providers(dependency):
                self._visit(provider, done, order, wanted_by=name)
        order.append(module)

    def _providers(self, name: str) -> tuple[str, ...]:
        if name in self._files or name in self.builtin:
            return (name,)
        if f"crypto_{name}" in self._aliases:
            return ()
        generic = f"{name}_generic"  # the crypto API's habit: crc32c is provided by crc32c_generic
        return (generic,) if generic in self._files else ()

    def _load(self, name: str) -> tuple[Module, tuple[str, ...], tuple[str, ...]]:
        if name not in self._loaded:
            path = self._files[name]
            data = _decompressed(path)
            try:
                info = modinfo(data)
            except ElfError as error:
                raise FailedPrecondition(
                    f"the kernel module {path} is damaged ({error}); fetch the kernel again"
                ) from error
            depends: list[str] = []
            soft: list[str] = []
            for key, value in info:
                if key == "depends":
                    depends += [canonical(part) for part in value.split(",") if part]
                elif key == "softdep":
                    soft += _pre(value)
            relative = str(path.relative_to(self.folder)).split(".ko", 1)[0] + ".ko"
            self._loaded[name] = (Module(name, relative, data), tuple(depends), tuple(soft))
        return self._loaded[name]


def _pre(softdep: str) -> list[str]:
    """``pre: a b post: c`` → [a, b]."""
    names: list[str] = []
    taking = False
    for word in softdep.split():
        if word.endswith(":"):
            taking = word == "pre:"
        elif taking:
            names.append(canonical(word))
    return names


def _builtin(path: Path) -> frozenset[str]:
    if not path.exists():
        return frozenset()
    return frozenset(canonical(Path(line).name.removesuffix(".ko")) for line in path.read_text().splitlines() if line)


def _builtin_aliases(path: Path) -> frozenset[str]:
    """``module.alias=crypto-crc32c`` entries of what is built in."""
    if not path.exists():
        return frozenset()
    entries = (entry.decode("utf-8", "replace").partition("=") for entry in path.read_bytes().split(b"\0"))
    return frozenset(canonical(value) for key, _, value in entries if key.endswith(".alias"))


_DECOMPRESS: Mapping[str, str] = {".xz": "xz", ".gz": "gzip", ".zst": "zstd"}


def _decompressed(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        match _DECOMPRESS.get(path.suffix):
            case "xz":
                return lzma.decompress(data)
            case "gzip":
                return gzip.decompress(data)
            case "zstd":
                return zstandard.ZstdDecompressor().decompressobj().decompress(data)
            case _:
                return data
    except (OSError, EOFError, lzma.LZMAError, zstandard.ZstdError) as error:
        raise FailedPrecondition(f"the kernel module {path} is damaged ({error}); fetch the kernel again") from error
