"""x86's bzImage: takes the ELF ``vmlinux`` out of it, so that QEMU enters the kernel directly (PVH).

A bzImage decompresses itself inside the guest, which costs seconds under TCG when it is xz; doing it once on the host
and booting the ELF by its PVH entry point skips that and the real-mode start. Written against the kernel's
Documentation/x86/boot.rst (setup header) and Xen's public/elfnote.h (XEN_ELFNOTE_PHYS32_ENTRY).

Everything that is true of x86 only is in this file; other machines (aarch64's Image) get a neighbour of it.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import zstandard

from hyper.guest.elf import Elf, ElfError

_XEN_ELFNOTE_PHYS32_ENTRY = 18
_MAX_VMLINUX_BYTES = 512 << 20
"""No kernel is near this; a damaged length or a decompression bomb is."""


def is_bzimage(data: bytes) -> bool:
    """Whether the file has the setup header's magic "HdrS"."""
    return data[0x202:0x206] == b"HdrS"


def release(data: bytes) -> str | None:
    """``uname -r`` of the kernel, as its setup header tells; None when it does not."""
    if not is_bzimage(data):
        return None
    (pointer,) = struct.unpack_from("<H", data, 0x20E)
    if not pointer:
        return None
    start = pointer + 0x200
    text = data[start : start + 256].split(b"\0", 1)[0]
    return text.split(b" ", 1)[0].decode("ascii", "replace") or None


def extract_vmlinux(data: bytes) -> bytes:
    """The ELF file inside; ElfError when there is none, it is damaged, or its compression (lz4, lzo) is not known
    here."""
    if not is_bzimage(data):
        raise ElfError("not a bzImage")
    setup_sectors = data[0x1F1] or 4
    payload_offset, payload_length = struct.unpack_from("<II", data, 0x248)
    start = (setup_sectors + 1) * 512 + payload_offset
    payload = data[start : start + payload_length]
    if not payload or len(payload) < payload_length:
        raise ElfError("truncated: the payload lies beyond the end")
    for magic, name, decompress in _FORMATS:
        if payload.startswith(magic):
            try:
                return decompress(payload)
            except (ValueError, EOFError, OSError, lzma.LZMAError, zlib.error, zstandard.ZstdError) as error:
                raise ElfError(f"its {name} payload is damaged: {error}") from error
    raise ElfError(f"its payload's compression (first bytes {payload[:4].hex()}) is not known")


def has_pvh_entry(vmlinux: bytes | memoryview) -> bool:
    """Whether QEMU can boot this ELF file directly (CONFIG_PVH)."""
    return any(note.name == "Xen" and note.kind == _XEN_ELFNOTE_PHYS32_ENTRY for note in Elf(vmlinux).notes())


def prepare(bzimage: Path, vmlinux: Path) -> Path:
    """Write ``vmlinux`` beside and return it; returns ``bzimage`` itself when it cannot be had or has no PVH entry."""
    try:
        elf = extract_vmlinux(bzimage.read_bytes())
        if not has_pvh_entry(elf):
            return bzimage
    except ElfError:
        return bzimage
    vmlinux.write_bytes(elf)
    return vmlinux


def _gzip(payload: bytes) -> bytes:
    decoder = zlib.decompressobj(wbits=31)
    return _checked(decoder.decompress(payload, _MAX_VMLINUX_BYTES), not decoder.eof)


def _xz(payload: bytes) -> bytes:
    decoder = lzma.LZMADecompressor()
    return _checked(decoder.decompress(payload, _MAX_VMLINUX_BYTES), not decoder.eof)


def _bzip2(payload: bytes) -> bytes:
    decoder = bz2.BZ2Decompressor()
    return _checked(decoder.decompress(payload, _MAX_VMLINUX_BYTES), not decoder.eof)


def _zstd(payload: bytes) -> bytes:
    decoder = zstandard.ZstdDecompressor().decompressobj()
    # The build appends the uncompressed size as four bytes; the decoder stops at the frame's end by itself.
    (size,) = struct.unpack_from("<I", payload, len(payload) - 4)
    if size > _MAX_VMLINUX_BYTES:
        raise ElfError(f"its payload claims {size} bytes")
    return _checked(decoder.decompress(payload), not decoder.eof)


def _checked(data: bytes, unfinished: bool) -> bytes:
    if unfinished:
        raise ElfError("its payload is truncated, or larger than any kernel")
    return data


_FORMATS: tuple[tuple[bytes, str, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", "gzip", _gzip),
    (b"\xfd7zXZ\x00", "xz", _xz),
    (b"\x5d\x00\x00", "lzma", _xz),
    (b"BZh", "bzip2", _bzip2),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
)
