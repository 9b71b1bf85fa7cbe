"""Fetches the distribution's kernel package and unpacks it into Hyper's own folder, without installing anything.

``python -m hyper.guest.fetch_kernel --into DIR`` leaves ``DIR/distribution/<release>/`` with ``vmlinux`` (the ELF that
boots directly) or, where that cannot be had, ``vmlinuz``; ``config``; and ``modules/`` (what is in
``lib/modules/<release>``, less the drivers of hardware that no VM has). apt checks the package's signature. A folder
appears whole or not at all, so that running it again is quick and an interrupted run leaves only a temporary folder
that the next one removes.

Which flavour and why: docs/adr/0002-guest-kernel.md. Neighbours: ``kernel`` finds what this leaves.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hyper.errors import DeadlineExceeded, FailedPrecondition, HyperError, Unavailable
from hyper.guest import x86_bzimage

META_PACKAGES = {
    "generic": {"x86_64": "linux-image-amd64", "aarch64": "linux-image-arm64"},
    "cloud": {"x86_64": "linux-image-cloud-amd64", "aarch64": "linux-image-cloud-arm64"},
}
"""By flavour and ``uname -m``: the package that depends on the newest kernel. Guests get the generic one. The cloud one
is for the emulated host of ``tests/kvm``: it has NVMe and ext4 built in, and its kvm-amd needs no other driver."""

_APT_TIMEOUT_S = 300.0
_PACKAGE = re.compile(r"^linux-image-[0-9][A-Za-z0-9.+-]*$")
_KEEP = re.compile(
    r"""^(
      modules\.(builtin|builtin\.modinfo|order)
    | kernel/(arch|block|crypto|fs|lib|mm|net|security|virt)/.*
    | kernel/drivers/(block|char/hw_random|dax|fuse|md|nvdimm|vdpa|vhost|virtio|virt|crypto/virtio)/.*
    | kernel/drivers/(net|scsi|char|nvme/host|net/vxlan|net/wireguard|net/bonding|net/ipvlan)/[^/]*
    )$""",
    re.VERBOSE,
)
"""What of ``lib/modules/<release>`` is kept: 100 MB instead of 390, half a minute less of unpacking."""


def fetch(into: Path, *, refresh: bool = False, machine: str | None = None, flavour: str = "generic") -> Path:
    """The folder of the distribution's kernel, fetched if there is none (or, with ``refresh``, if there is a newer
    one).

    ``machine`` is the host's own (``uname -m``) unless given; a folder is for one ``flavour``. Unavailable when the
    package cannot be had (offline); FailedPrecondition on a system without apt or an unknown machine."""
    machine = machine or os.uname().machine
    meta = META_PACKAGES[flavour].get(machine)
    if meta is None:
        raise FailedPrecondition(
            f"no distribution kernel is known for {machine} machines; give Hyper a kernel with --kernel"
        )
    target = into / "distribution"
    target.mkdir(parents=True, exist_ok=True)
    with _lock(target):
        for leftover in target.glob(".partial-*"):
            shutil.rmtree(leftover)
        present = installed(into)
        if present and not refresh:
            return present[0]
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=target) as work:
            return _fetch(meta, target, Path(work), machine)


def installed(into: Path) -> list[Path]:
    """The distribution kernels' folders that are there, newest release first."""
    folders = [path for path in (into / "distribution").glob("*") if path.is_dir() and not path.name.startswith(".")]
    return sorted(folders, key=lambda path: _version(path.name), reverse=True)


def _version(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release))


def _fetch(meta: str, target: Path, work: Path, machine: str) -> Path:
    options: list[str] = []
    package = _newest(meta, options)
    if package is None or not _download(package, work, options):
        # No package lists on this system, or stale ones: make our own, and leave the system's alone.
        options = _private_lists(work)
        update = _apt(["apt-get", *options, "-o", "APT::Update::Error-Mode=any", "update"])
        if update.returncode:
            raise Unavailable(f"{_offline(meta)} ({(update.stderr.strip().splitlines() or ['no message'])[-1]})")
        package = _newest(meta, options)
        if package is None:
            raise Unavailable(
                f"apt knows no package {meta}; check /etc/apt/sources.list, or give Hyper a kernel with --kernel"
            )
        if not _download(package, work, options):
            raise Unavailable(_offline(package))
    release = package.removeprefix("linux-image-")
    final = target / release
    if final.is_dir():
        return final
    folder = work / "kernel"
    folder.mkdir()
    _unpack(_downloaded(package, work), release, folder)
    if machine == "x86_64":
        bzimage = folder / "vmlinuz"
        if x86_bzimage.prepare(bzimage, folder / "vmlinux") != bzimage:
            bzimage.unlink()
    _sync_tree(folder)
    folder.rename(final)
    _sync_folder(target)
    return final


def _newest(meta: str, options: Sequence[str]) -> str | None:
    """The kernel package that the meta package depends on; None when apt does not know it."""
    if shutil.which("apt-cache") is None:
        raise FailedPrecondition(
            "there is no apt on this system to fetch Debian's kernel with; give Hyper a kernel with --kernel"
        )
    result = _apt(["apt-cache", *options, "depends", "--important", meta])
    for line in result.stdout.splitlines():
        name = line.strip().removeprefix("Depends:").strip()
        if _PACKAGE.match(name):
            return name
    return None


def _download(package: str, work: Path, options: Sequence[str]) -> bool:
    # Sandbox::User: apt's own user cannot write into our private folder; the signature is checked all the same.
    command = ["apt-get", *options, "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=2", "download", package]
    return _apt(command, cwd=work).returncode == 0 and any(work.glob("*.deb"))


def _downloaded(package: str, work: Path) -> Path:
    (path,) = work.glob(f"{package}_*.deb")
    return path


def _private_lists(work: Path) -> list[str]:
    for name in ("lists/partial", "cache/archives/partial"):
        (work / "apt" / name).mkdir(parents=True, exist_ok=True)
    return [
        "-o",
        f"Dir::State::lists={work}/apt/lists",
        "-o",
        f"Dir::Cache={work}/apt/cache",
        "-o",
        "APT::Sandbox::User=root",
    ]


def _unpack(deb: Path, release: str, folder: Path) -> None:
    """Stream the package's file tree and keep what a guest can use; refuses anything but plain files and folders."""
    prefix = f"lib/modules/{release}/"
    renamed = {f"boot/vmlinuz-{release}": "vmlinuz", f"boot/config-{release}": "config"}
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    name = member.name.removeprefix("./").removeprefix("usr/")
                    wanted = renamed.get(name)
                    if wanted is None and name.startswith(prefix) and _KEEP.match(name[len(prefix) :]):
                        wanted = "modules/" + name[len(prefix) :]
                    if wanted is None or not member.isfile() or ".." in wanted.split("/"):
                        continue
                    source = archive.extractfile(member)
                    assert source is not None
                    path = folder / wanted
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with source, path.open("wb") as out:
                        shutil.copyfileobj(source, out, 1 << 20)
        except tarfile.TarError as error:
            raise Unavailable(f"the package {deb.name} is damaged ({error}); run this again") from error
        finally:
            process.stdout.close()
    for path in (folder / "vmlinuz", folder / "config", folder / "modules/modules.builtin"):
        if not path.exists():
            raise Unavailable(f"the package {deb.name} has no {path.name}; give Hyper a kernel with --kernel")


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One fetch at a time in a folder; the others wait and then find its result."""
    descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    """Make all of it durable before it gets its final name (one syncfs is quicker than 2,000 fsyncs)."""
    subprocess.run(["sync", "--file-system", str(folder)], check=True, timeout=_APT_TIMEOUT_S)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _apt(command: Sequence[str], *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=_APT_TIMEOUT_S, env=_environment()
        )
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded(
            f"{' '.join(command)} took longer than {_APT_TIMEOUT_S:.0f} s; check the network and run this again"
        ) from error


def _offline(package: str) -> str:
    return (
        f"the kernel package {package} could not be downloaded; check the network and /etc/apt/sources.list "
        "and run this again, or give Hyper a kernel with --kernel"
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: prints the kernel's folder; 1 and a message on stderr when it cannot be had."""
    parser = argparse.ArgumentParser(
        prog="hyper.guest.fetch_kernel", description="Fetch the distribution's kernel for guests."
    )
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="Hyper's kernels folder")
    parser.add_argument("--refresh", action="store_true", help="look for a newer release even when there is one")
    parser.add_argument(
        "--flavour", choices=sorted(META_PACKAGES), default="generic", help="Debian's (default: generic)"
    )
    options = parser.parse_args(arguments)
    try:
        folder = fetch(options.into, refresh=options.refresh, flavour=options.flavour)
    except HyperError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
