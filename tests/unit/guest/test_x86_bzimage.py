"""Taking the ELF kernel out of a bzImage."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from hyper.guest import x86_bzimage
from hyper.guest.elf import ElfError

from .kernel_files import bzimage, elf, vmlinux

FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": zstandard.compress,
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_kernel_comes_out_of_every_compression(name: str) -> None:
    kernel = vmlinux()
    image = bzimage("6.1.0-test", FORMATS[name](kernel) + struct.pack("<I", len(kernel)))
    assert x86_bzimage.extract_vmlinux(image) == kernel
    assert x86_bzimage.release(image) == "6.1.0-test"
    assert x86_bzimage.has_pvh_entry(kernel)


def test_without_a_pvh_entry_the_image_itself_is_booted(tmp_path: Path) -> None:
    kernel = vmlinux(pvh=False)
    (tmp_path / "image").write_bytes(bzimage("1", gzip.compress(kernel)))
    assert x86_bzimage.prepare(tmp_path / "image", tmp_path / "vmlinux") == tmp_path / "image"
    assert not (tmp_path / "vmlinux").exists()


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"nothing of the kind" * 100,
        bzimage("1", b"\x02\x21\x4c\x18 lz4"),
        bzimage("1", gzip.compress(bytes(5_000))[:-20]),
        bzimage("1", lzma.compress(bytes(5_000))[:-20]),
        bzimage("1", gzip.compress(bytes(5_000)))[:-20],
        bzimage("1", b"\x28\xb5\x2f\xfd" + b"\xff" * 20),
    ],
)
def test_a_damaged_image_is_an_error(image: bytes) -> None:
    with pytest.raises(ElfError):
        x86_bzimage.extract_vmlinux(image)


def test_a_truncated_elf_file_is_an_error() -> None:
    for size in (10, 70, 125):
        with pytest.raises(ElfError):
            x86_bzimage.has_pvh_entry(elf()[:size])
