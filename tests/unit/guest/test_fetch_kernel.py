"""Fetching the distribution's kernel with the real apt, from a package repository made here."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hyper.errors import FailedPrecondition, Unavailable
from hyper.guest import fetch_kernel

from .kernel_files import bzimage, module, vmlinux

RELEASE = "6.1.0-7-amd64"
VMLINUX = vmlinux(RELEASE)


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """apt sees no lists and only the repository in the folder that this returns; there is no network."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing: this is not a Debian")
    repository = tmp_path / "repository"
    (tmp_path / "lists/partial").mkdir(parents=True)
    repository.mkdir()
    (tmp_path / "sources").write_text(f"deb [trusted=yes] file:{repository} ./\n")
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources";\nDir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State::lists "{tmp_path}/lists";\nDir::Cache "{tmp_path}/aptcache";\nAPT::Architecture "amd64";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    return repository


def publish(
    repository: Path, release: str = RELEASE, *, kernel: bytes | None = None, meta: str = "linux-image-amd64"
) -> None:
    """Put a kernel package and its meta package into the repository."""
    tree = repository / "tree"
    kernel = kernel or bzimage(release, gzip.compress(VMLINUX))
    files = {
        f"boot/vmlinuz-{release}": kernel,
        f"boot/config-{release}": b"CONFIG_PVH=y\n",
        f"lib/modules/{release}/modules.builtin": b"",
        f"lib/modules/{release}/kernel/fs/erofs/erofs.ko": module(),
        f"lib/modules/{release}/kernel/drivers/gpu/drm/big.ko": module(),
        "DEBIAN/control": (
            f"Package: linux-image-{release}\nVersion: 1\nArchitecture: amd64\nMaintainer: T <t@example.org>\n"
            "Description: a test\n"
        ).encode(),
    }
    for name, data in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    name = f"linux-image-{release}_1_amd64.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", tree, repository / name], check=True, capture_output=True
    )
    shutil.rmtree(tree)
    data = (repository / name).read_bytes()
    with (repository / "Packages").open("w") as index:
        index.write(
            f"Package: linux-image-{release}\nVersion: 1\nArchitecture: amd64\nFilename: ./{name}\n"
            f"Size: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\nDescription: a test\n\n"
            f"Package: {meta}\nVersion: 1\nArchitecture: amd64\nDepends: linux-image-{release} (= 1)\n"
            "Filename: ./none.deb\nSize: 1\nDescription: a test\n"
        )


def test_the_package_is_unpacked_into_our_folder_and_only_what_guests_use(apt: Path, tmp_path: Path) -> None:
    publish(apt)
    folder = fetch_kernel.fetch(tmp_path / "kernels", machine="x86_64")
    assert folder == tmp_path / "kernels/distribution" / RELEASE
    assert (folder / "vmlinux").read_bytes() == VMLINUX
    assert (folder / "config").read_text() == "CONFIG_PVH=y\n"
    assert (folder / "modules/kernel/fs/erofs/erofs.ko").exists()
    assert not (folder / "modules/kernel/drivers/gpu").exists()
    assert sorted(path.name for path in folder.parent.iterdir()) == [".lock", RELEASE]


def test_again_is_quick_and_a_newer_one_comes_when_asked_for(
    apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(apt)
    first = fetch_kernel.fetch(tmp_path / "kernels", machine="x86_64")
    publish(apt, "6.1.0-8-amd64")
    with monkeypatch.context() as nothing:
        nothing.setenv("PATH", "")
        assert fetch_kernel.fetch(tmp_path / "kernels", machine="x86_64") == first
    newer = fetch_kernel.fetch(tmp_path / "kernels", refresh=True, machine="x86_64")
    assert newer.name == "6.1.0-8-amd64"
    assert fetch_kernel.installed(tmp_path / "kernels") == [newer, first]


def test_another_flavour_is_another_meta_packages(apt: Path, tmp_path: Path) -> None:
    publish(apt, "6.1.0-7-cloud-amd64", meta="linux-image-cloud-amd64")
    with pytest.raises(Unavailable):
        fetch_kernel.fetch(tmp_path / "kernels", machine="x86_64")
    folder = fetch_kernel.fetch(tmp_path / "kernels", machine="x86_64", flavour="cloud")
    assert folder.name == "6.1.0-7-cloud-amd64"


def test_an_interrupted_fetch_is_cleared_away(apt: Path, tmp_path: Path) -> None:
    publish(apt)
    left = tmp_path / "kernels/distribution/.partial-left"
    left.mkdir(parents=True)
    fetch_kernel.fetch(tmp_path / "kernels", machine="x86_64")
    assert not left.exists()


def test_offline_says_so_and_leaves_nothing(apt: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="could not be downloaded; check the network"):
        fetch_kernel.fetch(tmp_path / "kernels", machine="x86_64")
    assert [path.name for path in (tmp_path / "kernels/distribution").iterdir()] == [".lock"]


def test_a_package_that_does_not_match_its_checksum_is_refused(apt: Path, tmp_path: Path) -> None:
    publish(apt)
    (package,) = apt.glob("*.deb")
    package.write_bytes(package.read_bytes()[:-8] + b"tampered")
    with pytest.raises(Unavailable, match="could not be downloaded"):
        fetch_kernel.fetch(tmp_path / "kernels", machine="x86_64")
    assert fetch_kernel.installed(tmp_path / "kernels") == []


def test_a_kernel_that_cannot_boot_directly_is_kept_as_it_came(apt: Path, tmp_path: Path) -> None:
    image = bzimage(RELEASE, b"\x02\x21\x4c\x18 lz4, which is not known here")
    publish(apt, kernel=image)
    folder = fetch_kernel.fetch(tmp_path / "kernels", machine="x86_64")
    assert (folder / "vmlinuz").read_bytes() == image
    assert not (folder / "vmlinux").exists()


def test_no_apt_and_no_known_machine_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FailedPrecondition, match="vax"):
        fetch_kernel.fetch(tmp_path, machine="vax")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(FailedPrecondition, match="--kernel"):
        fetch_kernel.fetch(tmp_path, machine="x86_64")


def test_the_command_prints_the_error_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    assert fetch_kernel.main(["--into", str(tmp_path)]) == 1
