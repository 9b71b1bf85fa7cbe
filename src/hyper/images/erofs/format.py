"""EROFS on disk, as packing functions: no state, no files.

Source: the layout tables of the EROFS project's documentation (core on-disk format) and of the kernel's
Documentation/filesystems/erofs.rst. Everything is little-endian. Block 0 holds the superblock at byte 1024; an inode's
number (nid) is its distance from the metadata area in 32-byte slots.

Neighbours: ``writer.py`` (file data and the whole), ``metadata.py`` (inodes and directories).
"""

from __future__ import annotations

import stat
import struct

from hyper.images.tree import Inode, Xattrs

BLOCK_BYTES = 4096
BLOCK_BITS = 12
SLOT_BYTES = 32
SUPER_OFFSET = 1024
MAGIC = 0xE0F5E1E2

COMPACT_BYTES = 32
EXTENDED_BYTES = 64

FLAT_PLAIN = 0
FLAT_INLINE = 2
CHUNK_BASED = 4

NO_BLOCK = 0xFFFFFFFF
BLOCKS_MAX = 0xFFFFFFFE
XATTR_VALUE_BYTES_MAX = 0xFFFF
XATTR_AREA_BYTES_MAX = 4 * 0xFFFF

_COMPAT_CHECKSUM = 0x1
_COMPAT_MTIME = 0x2
_INCOMPAT_CHUNKED_FILE = 0x4

_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
_COMPACT = struct.Struct("<HHHHIIIIHHI")
_EXTENDED = struct.Struct("<HHHHQIIIIQII16x")
DIRENT = struct.Struct("<QHBx")
_XATTR_HEADER = struct.Struct("<IB7x")
_XATTR_ENTRY = struct.Struct("<BBH")

# Longest first: "system.posix_acl_default" must not match a shorter one.
_XATTR_PREFIXES = (
    (b"system.posix_acl_default", 3),
    (b"system.posix_acl_access", 2),
    (b"security.", 6),
    (b"trusted.", 4),
    (b"user.", 1),
)
_FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}


def file_type(mode: int) -> int:
    """The type code in a directory entry."""
    return _FILE_TYPES[stat.S_IFMT(mode)]


def device_number(major: int, minor: int) -> int:
    """A device number in the kernel's 32-bit encoding."""
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def split_xattr(name: bytes) -> tuple[int, bytes] | None:
    """(namespace index, rest of the name), or None for a name EROFS has no namespace for."""
    for prefix, index in _XATTR_PREFIXES:
        if index in (2, 3):
            if name == prefix:
                return index, b""
        elif name.startswith(prefix) and 0 < len(name) - len(prefix) <= 255:
            return index, name[len(prefix) :]
    return None


def xattr_area(xattrs: Xattrs) -> bytes:
    """The inline area behind an inode; empty without attributes. Names were checked with :func:`split_xattr`."""
    if not xattrs:
        return b""
    parts = [_XATTR_HEADER.pack(0, 0)]
    for name, value in xattrs:
        split = split_xattr(name)
        assert split is not None, name
        index, suffix = split
        parts.append(_XATTR_ENTRY.pack(len(suffix), index, len(value)))
        parts.append(suffix)
        parts.append(value)
        parts.append(bytes(-(len(suffix) + len(value)) % 4))
    return b"".join(parts)


def xattr_area_bytes(xattrs: Xattrs) -> int:
    """What :func:`xattr_area` will measure."""
    if not xattrs:
        return 0
    total = _XATTR_HEADER.size
    for name, value in xattrs:
        split = split_xattr(name)
        suffix = split[1] if split else name
        total += (_XATTR_ENTRY.size + len(suffix) + len(value) + 3) & ~3
    return total


def pack_inode(inode: Inode, layout: int, location: int, xattr_bytes: int) -> bytes:
    """The inode's fixed part: 32 or 64 bytes, as ``inode.inode_bytes`` says. ``location``: the union's 32 bits."""
    xattr_count = (xattr_bytes - _XATTR_HEADER.size) // 4 + 1 if xattr_bytes else 0
    if inode.inode_bytes == COMPACT_BYTES:
        return _COMPACT.pack(
            layout << 1,
            xattr_count,
            inode.mode,
            inode.nlink,
            inode.size,
            0,
            location,
            inode.number,
            inode.uid,
            inode.gid,
            0,
        )
    return _EXTENDED.pack(
        (layout << 1) | 1,
        xattr_count,
        inode.mode,
        0,
        inode.size,
        location,
        inode.number,
        inode.uid,
        inode.gid,
        inode.mtime_s & 0xFFFFFFFFFFFFFFFF,
        inode.mtime_ns,
        inode.nlink,
    )


def pack_super_block(
    *, root_nid: int, inodes: int, time_s: int, time_ns: int, blocks: int, meta_block: int, uuid: bytes, chunked: bool
) -> bytes:
    """Block 0: 1024 unused bytes, the superblock with its checksum, zeros."""

    def pack(checksum: int) -> bytes:
        body = _SUPER.pack(
            MAGIC,
            checksum,
            _COMPAT_CHECKSUM | _COMPAT_MTIME,
            BLOCK_BITS,
            0,
            root_nid,
            inodes,
            time_s & 0xFFFFFFFFFFFFFFFF,
            time_ns,
            blocks,
            meta_block,
            0,
            uuid,
            b"",
            _INCOMPAT_CHUNKED_FILE if chunked else 0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        )
        return body + bytes(BLOCK_BYTES - SUPER_OFFSET - len(body))

    return bytes(SUPER_OFFSET) + pack(crc32c(pack(0)))


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), initial value all ones, *not* inverted at the end: as EROFS stores it."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC_TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE = _crc_table()
