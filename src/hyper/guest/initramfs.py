"""Makes the initramfs: the agent as /init, and the kernel modules that it loads before anything else.

Layout: ``/init`` (the agent), ``/lib/modules/<release>/…ko`` (decompressed: the guest has no decompressor to run, and
unpacking 5 MB takes it 30 ms), ``/etc/hyper/modules`` (absolute paths, one a line, in loading order),
``/etc/hyper/modules.later`` (modules that are there but loaded only when a feature needs them: loading them at every
boot would cost 0.1 s), mount points, and the two device nodes that a kernel without devtmpfs mounted needs.
Everything else the agent makes.

The archive is not compressed (measured: no gain in QEMU, see docs/adr/0002-guest-kernel.md). It is cached by a hash
of all that goes into it, and appears in the cache whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from hyper.errors import FailedPrecondition, NotFound
from hyper.guest.cpio import CpioWriter
from hyper.guest.kernel import FoundKernel
from hyper.guest.modules import BOOT_MODULES, Module, ModuleTree

LATER_MODULES = ("9pnet_virtio", "9p")
"""Shares. Left out for their size (2.5 MB together): nftables, bridge, veth, tun; the tuned kernel
has them."""

_LAYOUT_VERSION = 1  # part of the cache key: raise it when the archive's layout changes
_DIRECTORIES = ("dev", "etc", "etc/hyper", "lib", "lib/modules", "proc", "root", "run", "sys", "tmp")
_PROGRAMS = (b"\x7fELF", b"#!")
"""What a kernel can start as its first process."""
_SIGNATURE_MAGIC = b"~Module signature appended~\n"
_SIGNATURE_TRAILER = 12  # struct module_signature, whose last four bytes are the signature's length


def build(agent: Path, kernel: FoundKernel, cache: Path) -> Path:
    """The archive for this agent and kernel; made if the cache does not have it. Blocking, about 0.2 s when it has to
    be made.

    NotFound when there is no agent; FailedPrecondition when it is no program or the modules are incomplete."""
    try:
        init = agent.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"the guest agent {agent} does not exist; build it with `make agent`") from error
    except OSError as error:
        raise FailedPrecondition(f"the guest agent {agent} cannot be read: {error.strerror}") from error
    if not init.startswith(_PROGRAMS):
        raise FailedPrecondition(f"the guest agent {agent} is no program; build it with `make agent`")
    boot, later = _modules(kernel)
    boot, later = _unsigned(boot, kernel), _unsigned(later, kernel)
    path = cache / f"initramfs-{_key(init, kernel.release, boot, later)}.cpio"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        with partial.open("wb") as out:
            _write(CpioWriter(out), init, kernel.release, boot, later)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _modules(kernel: FoundKernel) -> tuple[list[Module], list[Module]]:
    if kernel.modules is None:
        return [], []
    tree = ModuleTree(kernel.modules)
    # A module that is not in the folder may be built in, which the finder has checked where it can be known.
    boot = tree.closure(name for name in BOOT_MODULES if tree.has(name))
    later = tree.closure((name for name in LATER_MODULES if tree.has(name)), without=boot)
    return boot, later


def _unsigned(modules: Sequence[Module], kernel: FoundKernel) -> list[Module]:
    """Without their signatures: checking 28 of them costs 0.15 s under TCG, and protects a guest's root from
    nothing."""
    if kernel.config is None or kernel.config.get("MODULE_SIG_FORCE") == "y":
        return list(modules)
    return [Module(module.name, module.path, _without_signature(module.data)) for module in modules]


def _without_signature(data: bytes) -> bytes:
    if not data.endswith(_SIGNATURE_MAGIC):
        return data
    end = len(data) - len(_SIGNATURE_MAGIC)
    length = int.from_bytes(data[end - 4 : end], "big")
    return data[: end - _SIGNATURE_TRAILER - length] if length < end - _SIGNATURE_TRAILER else data


def _key(init: bytes, release: str, boot: Sequence[Module], later: Sequence[Module]) -> str:
    digest = hashlib.sha256(f"{_LAYOUT_VERSION} {release} {len(boot)}\n".encode())
    for name, data in [("init", init), *((module.path, module.data) for module in (*boot, *later))]:
        digest.update(f"{name} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()[:32]


def _write(archive: CpioWriter, init: bytes, release: str, boot: Sequence[Module], later: Sequence[Module]) -> None:
    for name in _DIRECTORIES:
        archive.directory(name, 0o1777 if name == "tmp" else 0o755)
    archive.character_device("dev/console", 5, 1, 0o600)
    archive.character_device("dev/null", 1, 3, 0o666)
    archive.file("init", init, 0o755)
    root = f"lib/modules/{release}"
    made: set[str] = set()
    for module in (*boot, *later):
        path = f"{root}/{module.path}"
        for parent in reversed(Path(path).parents):
            if str(parent) not in (".", "lib", "lib/modules") and str(parent) not in made:
                made.add(str(parent))
                archive.directory(str(parent))
        archive.file(path, module.data)
    archive.file("etc/hyper/modules", _listing(root, boot))
    archive.file("etc/hyper/modules.later", _listing(root, later))
    archive.close()


def _listing(root: str, modules: Sequence[Module]) -> bytes:
    return "".join(f"/{root}/{module.path}\n" for module in modules).encode()
