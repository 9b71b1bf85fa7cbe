"""Inodes and directories of an EROFS image: numbering, placing and packing, once the whole tree is known.

Placing is a best fit over blocks that still have room: an inode with its attributes and its tail never straddles a
block (the kernel refuses tails that do), and small inodes fill what bigger ones left. The order is that of a walk with
sorted names, so the same tree gives the same bytes.

Neighbours: ``format.py`` (packing), ``data.py`` (file data, tails), ``writer.py`` (calls these in turn).
"""

from __future__ import annotations

import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hyper.errors import Internal, InvalidArgument
from hyper.images.erofs import format as fmt
from hyper.images.erofs.format import BLOCK_BYTES, SLOT_BYTES
from hyper.images.tree import Directory, Inode, PendingLink, Whiteout

_SLOTS = BLOCK_BYTES // SLOT_BYTES


@dataclass
class DirectoryPlan:
    """What a directory will hold: names in order, cut into blocks; all but a short last block lie in the data area."""

    directory: Directory
    parent: Directory
    names: list[bytes]
    blocks: list[tuple[int, int]] = field(default_factory=list)
    tail_bytes: int = 0
    first_block: int = 0


@dataclass
class Plan:
    """The numbered tree. ``inodes`` is in walk order, the root first."""

    inodes: list[Inode]
    directories: dict[int, DirectoryPlan]
    time_s: int
    time_ns: int


def plan(root: Directory) -> Plan:
    """Walk the tree, count links, cut directories into blocks, choose compact or extended inodes."""
    inodes: list[Inode] = []
    directories: dict[int, DirectoryPlan] = {}
    times: Counter[tuple[int, int]] = Counter()
    stack: list[tuple[Directory, Directory]] = [(root, root)]
    while stack:
        directory, parent = stack.pop()
        directory.nlink = 2
        inodes.append(directory)
        directory.number = len(inodes)
        times[directory.mtime_s, directory.mtime_ns] += 1
        dead = [name for name, child in directory.entries.items() if isinstance(child, Whiteout)]
        for name in dead:
            del directory.entries[name]
        names = sorted(directory.entries)
        below: list[tuple[Directory, Directory]] = []
        for name in names:
            child = directory.entries[name]
            if isinstance(child, Directory):
                below.append((child, directory))
                directory.nlink += 1
            elif isinstance(child, Inode):
                if not child.nlink:
                    inodes.append(child)
                    child.number = len(inodes)
                    times[child.mtime_s, child.mtime_ns] += 1
                child.nlink += 1
            elif isinstance(child, PendingLink):
                raise InvalidArgument(
                    f"the hard link {_show(child.name)} is to {_show(child.target)}, which no layer has; "
                    "the image is broken: build or save it again"
                )
        directories[directory.number] = _cut(directory, parent, names)
        below.reverse()
        stack.extend(below)
    # The commonest time is the file system's own, which compact inodes (half the size) have instead of one each.
    time_s, time_ns = max(times.items(), key=lambda item: (item[1], item[0]))[0]
    for inode in inodes:
        compact = (
            inode.mtime_s == time_s
            and inode.mtime_ns == time_ns
            and inode.uid < 0x10000
            and inode.gid < 0x10000
            and inode.nlink < 0x10000
            and inode.size < 0x100000000
        )
        inode.inode_bytes = fmt.COMPACT_BYTES if compact else fmt.EXTENDED_BYTES
    return Plan(inodes, directories, time_s, time_ns)


def _cut(directory: Directory, parent: Directory, names: list[bytes]) -> DirectoryPlan:
    """Cut the sorted names (with "." and "..") into directory blocks and give the directory its size."""
    names.append(b".")
    names.append(b"..")
    names.sort()
    cut = DirectoryPlan(directory, parent, names)
    start = used = 0
    for index, name in enumerate(names):
        need = fmt.DIRENT.size + len(name)
        if used + need > BLOCK_BYTES:
            cut.blocks.append((start, index))
            start, used = index, 0
        used += need
    cut.blocks.append((start, len(names)))
    directory.size = (len(cut.blocks) - 1) * BLOCK_BYTES + used
    inline = used + fmt.EXTENDED_BYTES + fmt.xattr_area_bytes(directory.xattrs) <= BLOCK_BYTES
    cut.tail_bytes = used if inline else 0
    return cut


def place(tree: Plan, meta_offset_slots: int = 1) -> list[list[Inode] | None]:
    """Give every inode its nid; returns the inodes of each metadata block in order (None: a bigger one goes on there).

    Slot 0 stays empty, because C libraries take inode number 0 for a deleted entry.
    """
    blocks: list[list[Inode] | None] = [[]]
    used = [meta_offset_slots]
    # open_blocks[n]: blocks with n free slots; mask has bit n set when there is one, so that the best fit is one bit
    # operation.
    open_blocks: list[list[int]] = [[] for _ in range(_SLOTS + 1)]
    open_blocks[_SLOTS - meta_offset_slots].append(0)
    mask = 1 << (_SLOTS - meta_offset_slots)
    for inode in tree.inodes:
        need = -(-record_bytes(inode, tree) // SLOT_BYTES)
        if need > _SLOTS:
            inode.nid = len(blocks) * _SLOTS
            count = -(-need // _SLOTS)
            blocks.append([inode])
            blocks.extend([None] * (count - 1))
            used.extend([_SLOTS] * count)
            continue
        fitting = mask >> need
        if fitting:
            free = need + (fitting & -fitting).bit_length() - 1
            block = open_blocks[free].pop()
            if not open_blocks[free]:
                mask &= ~(1 << free)
        else:
            block = len(blocks)
            blocks.append([])
            used.append(0)
            free = _SLOTS
        members = blocks[block]
        assert members is not None
        members.append(inode)
        inode.nid = block * _SLOTS + used[block]
        used[block] += need
        free -= need
        if free:
            open_blocks[free].append(block)
            mask |= 1 << free
    return blocks


def record_bytes(inode: Inode, tree: Plan) -> int:
    """Bytes of an inode with everything that follows it."""
    total = inode.inode_bytes + (fmt.xattr_area_bytes(inode.xattrs) if inode.xattrs else 0)
    if isinstance(inode, Directory):
        return total + tree.directories[inode.number].tail_bytes
    if inode.chunks is not None:
        return total + 4 * len(inode.chunks)
    if inode.target:
        return total + (inode.size if target_inline(inode) else 0)
    return total + inode.tail_bytes


def directory_block(cut: DirectoryPlan, start: int, end: int) -> bytes:
    """One directory block: entries, then names. Needs the nids."""
    names = cut.names[start:end]
    entries = cut.directory.entries
    pack = fmt.DIRENT.pack
    offset = fmt.DIRENT.size * len(names)
    parts = []
    for name in names:
        if name == b".":
            child: Inode = cut.directory
        elif name == b"..":
            child = cut.parent
        else:
            found = entries[name]
            assert isinstance(found, Inode)
            child = found
        parts.append(pack(child.nid, offset, fmt.file_type(child.mode)))
        offset += len(name)
    parts.extend(names)
    return b"".join(parts)


def record(inode: Inode, tree: Plan, tail: Callable[[Inode], bytes]) -> bytes:
    """An inode with its attributes and what lies inline behind it."""
    area = fmt.xattr_area(inode.xattrs) if inode.xattrs else b""
    layout = fmt.FLAT_PLAIN
    location = inode.first_block
    inline = b""
    kind = stat.S_IFMT(inode.mode)
    if isinstance(inode, Directory):
        cut = tree.directories[inode.number]
        location = cut.first_block
        if cut.tail_bytes:
            layout = fmt.FLAT_INLINE
            inline = directory_block(cut, *cut.blocks[-1])
    elif inode.chunks is not None:
        layout = fmt.CHUNK_BASED
        location = inode.chunk_bits
        inline = _little_endian(inode)
    elif kind == stat.S_IFLNK:
        if target_inline(inode):
            layout, inline = fmt.FLAT_INLINE, inode.target
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        location = inode.rdev
    elif inode.tail_bytes:
        layout, inline = fmt.FLAT_INLINE, tail(inode)
    return fmt.pack_inode(inode, layout, location, len(area)) + area + inline


def metadata_blocks(
    blocks: list[list[Inode] | None], tree: Plan, tail: Callable[[Inode], bytes], offset_slots: int = 1
) -> Iterator[bytes]:
    """The metadata area in whole blocks."""
    for number, members in enumerate(blocks):
        if members is None:
            continue
        parts = [bytes(offset_slots * SLOT_BYTES)] if number == 0 else []
        for inode in members:
            packed = record(inode, tree, tail)
            parts.append(packed)
            if padding := -len(packed) % SLOT_BYTES:
                parts.append(bytes(padding))
        data = b"".join(parts)
        whole = data + bytes(-len(data) % BLOCK_BYTES) if data else bytes(BLOCK_BYTES)
        if len(whole) > BLOCK_BYTES and len(members) > 1:
            raise Internal(f"metadata block {number} overflowed")
        yield whole


def target_inline(inode: Inode) -> bool:
    return inode.size + fmt.EXTENDED_BYTES + fmt.xattr_area_bytes(inode.xattrs) <= BLOCK_BYTES


def _little_endian(inode: Inode) -> bytes:
    assert inode.chunks is not None
    chunks = inode.chunks
    if sys.byteorder == "big":
        chunks = chunks[:]
        chunks.byteswap()
    return chunks.tobytes()


def _show(path: bytes) -> str:
    return repr(path.decode("utf-8", "backslashreplace")[:200])
