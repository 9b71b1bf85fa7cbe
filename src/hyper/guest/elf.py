"""Just enough ELF (64-bit, little-endian) for kernels and their modules: sections, notes, modinfo.

The files come from the distribution or from the user, not from a guest, but a truncated download is common enough:
every offset is checked, and what is damaged raises :class:`ElfError`. Written against the ELF-64 object file format and
Xen's public/elfnote.h. Neighbours: ``kernel_image`` (is there a PVH entry?), ``modules`` (what a module depends on).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"\x7fELF"
MACHINES = {62: "x86_64", 183: "aarch64"}

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_NOTE = struct.Struct("<III")
_PT_NOTE = 4
_SHT_NOBITS = 8


class ElfError(ValueError):
    """Not an ELF file that we can read, or a damaged one."""


@dataclass(frozen=True)
class Note:
    """An entry of a PT_NOTE segment."""

    name: str
    kind: int
    value: bytes


class Elf:
    """A whole ELF file in memory."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        if len(self._data) < _HEADER.size:
            raise ElfError("too short for an ELF header")
        (
            ident,
            _type,
            machine,
            _version,
            _entry,
            self._program_offset,
            self._section_offset,
            _flags,
            _header_size,
            self._program_size,
            self._program_count,
            self._section_size,
            self._section_count,
            self._names_index,
        ) = _HEADER.unpack_from(self._data)
        if ident[:4] != MAGIC:
            raise ElfError("no ELF magic")
        if ident[4] != 2 or ident[5] != 1:
            raise ElfError("not a 64-bit little-endian ELF file")
        self.machine = MACHINES.get(machine, f"ELF machine {machine}")

    def _slice(self, offset: int, size: int) -> memoryview:
        if offset + size > len(self._data):
            raise ElfError(f"truncated: {size} bytes at {offset} lie beyond the end")
        return self._data[offset : offset + size]

    def notes(self) -> Iterator[Note]:
        """All notes of all PT_NOTE segments."""
        for index in range(self._program_count):
            header = self._slice(self._program_offset + index * self._program_size, _PROGRAM.size)
            kind, _flags, offset, _vaddr, _paddr, size, _memory, align = _PROGRAM.unpack(header)
            if kind == _PT_NOTE:
                yield from _parse_notes(self._slice(offset, size), 8 if align == 8 else 4)

    def section(self, name: str) -> memoryview | None:
        """The bytes of the first section of that name; None when there is none."""
        if not self._section_count:
            return None
        names = self._section_at(self._names_index)[1]
        wanted = name.encode()
        for index in range(self._section_count):
            name_offset, content = self._section_at(index)
            tail = bytes(names[name_offset : name_offset + len(wanted) + 1])
            if tail == wanted + b"\0":
                return content
        return None

    def _section_at(self, index: int) -> tuple[int, memoryview]:
        header = self._slice(self._section_offset + index * self._section_size, _SECTION.size)
        name, kind, _flags, _address, offset, size, _link, _info, _align, _entry = _SECTION.unpack(header)
        return name, self._data[:0] if kind == _SHT_NOBITS else self._slice(offset, size)


def _parse_notes(data: memoryview, align: int) -> Iterator[Note]:
    position = 0
    while position + _NOTE.size <= len(data):
        name_size, value_size, kind = _NOTE.unpack_from(data, position)
        position += _NOTE.size
        name = bytes(data[position : position + name_size])
        position += -(-name_size // align) * align
        value = bytes(data[position : position + value_size])
        if len(name) < name_size or len(value) < value_size:
            raise ElfError("truncated note")
        position += -(-value_size // align) * align
        yield Note(name.rstrip(b"\0").decode("ascii", "replace"), kind, value)


def modinfo(module: bytes) -> list[tuple[str, str]]:
    """The ``key=value`` pairs of a kernel module's .modinfo section, in order; keys may repeat."""
    section = Elf(module).section(".modinfo")
    if section is None:
        raise ElfError("no .modinfo section: not a kernel module")
    pairs = []
    for entry in bytes(section).split(b"\0"):
        key, separator, value = entry.partition(b"=")
        if separator:
            pairs.append((key.decode("ascii", "replace"), value.decode("utf-8", "replace")))
    return pairs
