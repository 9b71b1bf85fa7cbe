"""Finds the guest kernel: the configured one, else our tuned one if it was built, else the distribution's.

A kernels folder (``/var/lib/hyper/kernels`` by default, made by ``make setup``) holds ``tuned/`` (left by
kernel/build.sh: vmlinux, config, release), ``distribution/<release>/`` (left by ``fetch_kernel``) and ``configured/``
(vmlinux files taken out of users' bzImages, so that they boot directly). A user's kernel is checked for what it
lacks, and refused with the whole list. Neighbours: ``initramfs`` packs its modules; a hypervisor driver boots it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hyper.errors import FailedPrecondition, InvalidArgument, NotFound
from hyper.guest import kernel_config, x86_bzimage
from hyper.guest.elf import MAGIC, ElfError
from hyper.guest.fetch_kernel import installed
from hyper.guest.modules import ModuleTree

_ARM64_MAGIC = b"ARM\x64"  # at 56 of an Image: Documentation/arm64/booting.rst
_BANNER = re.compile(rb"Linux version ([0-9][^\s]{0,100}) ")


@dataclass(frozen=True)
class KernelSettings:
    """Where to look. ``configured`` and ``modules`` are the user's ``--kernel`` and its modules folder, if given."""

    folder: Path
    configured: Path | None = None
    modules: Path | None = None


@dataclass(frozen=True)
class FoundKernel:
    """A kernel to boot. ``vmlinux`` is what the hypervisor is given: an ELF file with a direct (PVH) entry where
    possible, else the image as it came. ``unknown`` names requirements that nothing here can tell about."""

    kind: Literal["configured", "tuned", "distribution"]
    vmlinux: Path
    release: str
    modules: Path | None
    config: Mapping[str, str] | None
    unknown: tuple[str, ...] = ()

    def command_line(self, *, emulated: bool) -> str:
        """What this kernel should be told. ``emulated``: no KVM, so that mitigations against speculation protect
        nothing (translated code does not speculate as the guest thinks) and cost 0.2 s of patching at boot."""
        words = ["quiet", "reboot=t", "panic=-1"]
        if os.uname().machine == "x86_64":
            words += ["tsc=reliable", "no_timer_check"]
        if self.kind != "tuned":
            words.append("cryptomgr.notests")  # self-tests of ciphers cost 0.2 s at boot under TCG
        if emulated:
            words.append("mitigations=off")
            if self.kind != "tuned":
                # Write-protecting the kernel's own text, and then walking all page tables to prove it, costs 0.17 s
                # of CPU time; the tuned kernel does not do the second, and gains nothing.
                words.append("rodata=off")
        return " ".join(words)


def find_kernel(settings: KernelSettings) -> FoundKernel:
    """The first of the three that there is.

    NotFound says how to get one. A configured kernel is never passed over: when it does not exist (NotFound), is no
    kernel (InvalidArgument) or lacks something (FailedPrecondition, naming all of it), that is the answer."""
    if settings.configured is not None:
        return _configured(settings, settings.configured)
    tuned = settings.folder / "tuned"
    if (tuned / "vmlinux").exists() and (tuned / "release").exists():
        config = kernel_config.parse((tuned / "config").read_text())
        return FoundKernel("tuned", tuned / "vmlinux", (tuned / "release").read_text().strip(), None, config)
    for folder in installed(settings.folder):
        image = next((folder / name for name in ("vmlinux", "vmlinuz") if (folder / name).exists()), None)
        if image is not None:
            config = kernel_config.parse((folder / "config").read_text())
            return FoundKernel("distribution", image, folder.name, folder / "modules", config)
    raise NotFound(
        f"there is no guest kernel in {settings.folder}; run `make setup` (fetches Debian's) or `make kernel` "
        "(builds the tuned one), or start with --kernel FILE"
    )


def _configured(settings: KernelSettings, image: Path) -> FoundKernel:
    try:
        data = image.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"the configured kernel {image} does not exist; correct --kernel") from error
    except OSError as error:
        raise InvalidArgument(
            f"the configured kernel {image} cannot be read ({error.strerror}); correct --kernel"
        ) from error
    boot, plain = _bootable(settings, image, data)
    release = x86_bzimage.release(data) or _release_from_banner(plain)
    if release is None:
        raise InvalidArgument(f"{image} is not a Linux kernel that Hyper knows: it has no version banner")
    folder = _modules_folder(settings.modules, image, release)
    config = kernel_config.embedded(plain) or _config_beside(image, release, folder)
    tree = ModuleTree(folder) if folder is not None else None
    verdict = kernel_config.judge(config, tree)
    if verdict.missing:
        hint = (
            ""
            if folder is not None
            else " If they are modules, give their folder (lib/modules/" + release + ") as well."
        )
        raise FailedPrecondition(
            f"the configured kernel {image} ({release}) lacks: {'; '.join(verdict.missing)}. Build it with these (see "
            f"kernel/config), or leave --kernel out.{hint}"
        )
    return FoundKernel("configured", boot, release, folder, config, verdict.unknown)


def _bootable(settings: KernelSettings, image: Path, data: bytes) -> tuple[Path, bytes]:
    """The file to boot, and the uncompressed kernel to look into (the file itself, when it cannot be decompressed)."""
    if data.startswith(MAGIC):
        try:
            if not x86_bzimage.has_pvh_entry(data):
                raise InvalidArgument(
                    f"{image} is an ELF kernel without a PVH entry (CONFIG_PVH); give the bzImage instead"
                )
        except ElfError as error:
            raise InvalidArgument(f"{image} is damaged: {error}") from error
        return image, data
    if x86_bzimage.is_bzimage(data):
        try:
            vmlinux = x86_bzimage.extract_vmlinux(data)
            direct = x86_bzimage.has_pvh_entry(vmlinux)
        except ElfError:
            return image, data
        return (_kept_vmlinux(settings, data, vmlinux) if direct else image), vmlinux
    if data[56:60] == _ARM64_MAGIC:
        return image, data
    raise InvalidArgument(f"{image} is not a kernel: neither an ELF vmlinux, nor a bzImage, nor an arm64 Image")


def _kept_vmlinux(settings: KernelSettings, data: bytes, vmlinux: bytes) -> Path:
    folder = settings.folder / "configured"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"vmlinux-{hashlib.sha256(data).hexdigest()[:32]}"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            partial.write_bytes(vmlinux)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def _release_from_banner(plain: bytes) -> str | None:
    found = _BANNER.search(plain)
    return found.group(1).decode("ascii", "replace") if found else None


def _modules_folder(given: Path | None, image: Path, release: str) -> Path | None:
    if given is not None:
        for folder in (given, given / "lib/modules" / release, given / release):
            if (folder / "kernel").is_dir() or (folder / "modules.builtin").exists():
                return folder
        raise InvalidArgument(f"{given} has no modules of {release}: neither kernel/ nor modules.builtin in it")
    for folder in (image.parent / "modules", Path("/lib/modules") / release):
        if (folder / "kernel").is_dir():
            return folder
    return None


def _config_beside(image: Path, release: str, modules: Path | None) -> dict[str, str] | None:
    candidates = [
        image.with_name(f"{image.name}.config"),
        image.with_name(f"config-{release}"),
        image.with_name("config"),
    ]
    if modules is not None:
        candidates += [modules / "config", modules / "build" / ".config"]
    for path in candidates:
        if path.is_file():
            return kernel_config.parse(path.read_text(errors="replace"))
    return None
