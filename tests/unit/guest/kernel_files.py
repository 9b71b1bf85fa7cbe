"""Small but real kernel files for tests: ELF with a PVH note, bzImage, modules."""

from __future__ import annotations

import gzip
import struct

_PVH_NOTE = struct.pack("<III", 4, 4, 18) + b"Xen\0" + struct.pack("<I", 0x1000000)


def elf(*, pvh: bool = True, text: bytes = b"") -> bytes:
    """A 64-bit ELF file with one note segment, and ``text`` somewhere in it."""
    note = _PVH_NOTE if pvh else struct.pack("<III", 4, 4, 1) + b"GNU\0" + bytes(4)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    program = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(note), len(note), 4)
    return header + program + note + text


def vmlinux(release: str = "6.1.0-test", *, pvh: bool = True, config: str | None = None) -> bytes:
    """A kernel's ELF file, as far as anyone looks into it; ``config`` is embedded as CONFIG_IKCONFIG does."""
    text = f"Linux version {release} (someone@somewhere) #1 SMP\0".encode()
    if config is not None:
        text += b"IKCFG_ST" + gzip.compress(config.encode()) + b"IKCFG_ED"
    return elf(pvh=pvh, text=text)


def bzimage(release: str, payload: bytes) -> bytes:
    """A bzImage with a compressed payload, version string and setup header where boot.rst says."""
    setup = bytearray(1024)  # boot sector and one setup sector
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x20E, 0x300 - 0x200)
    struct.pack_into("<II", setup, 0x248, 16, len(payload))
    version = f"{release} (someone@somewhere) #1 SMP".encode()
    setup[0x300 : 0x300 + len(version)] = version
    return bytes(setup) + bytes(16) + payload


def module(*, depends: str = "", softdep: str = "", signature: bytes = b"") -> bytes:
    """A kernel module: ELF with a .modinfo section; signed when ``signature`` is given."""
    info = f"license=GPL\0depends={depends}\0".encode()
    if softdep:
        info += f"softdep={softdep}\0".encode()
    names = b"\0.shstrtab\0.modinfo\0"
    offset = 64 + len(info) + len(names)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 1, 62, 1, 0, 0, offset, 0, 64, 56, 0, 64, 3, 1)
    sections = struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    sections += struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, 64 + len(info), len(names), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 11, 1, 0, 0, 64, len(info), 0, 0, 1, 0)
    made = header + info + names + sections
    if signature:
        made += signature + bytes(8) + struct.pack(">I", len(signature)) + b"~Module signature appended~\n"
    return made
