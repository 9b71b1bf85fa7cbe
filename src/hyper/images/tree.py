"""The file tree that layers are merged into and that the EROFS writer lays out: metadata only, file data is on disk
already.

One :class:`Inode` may hang in several places (hard links). Names and link targets are bytes, as in tar and on disk.
Neighbours: ``layers/merge.py`` (builds it), ``erofs/writer.py`` (stores file data, then this tree).
"""

from __future__ import annotations

import stat
from array import array

Xattrs = tuple[tuple[bytes, bytes], ...]
"""(name with its namespace, value), sorted by name."""


class Inode:
    """A file, link or device; a directory is :class:`Directory`. Mutable and slotted: an image may have a million of
    them.

    ``mode`` has the type bits. ``layer`` is the number of the layer it came from, 0 being the *topmost*.
    """

    __slots__ = (
        "chunk_bits",
        "chunks",
        "first_block",
        "gid",
        "inode_bytes",
        "layer",
        "mode",
        "mtime_ns",
        "mtime_s",
        "nid",
        "nlink",
        "number",
        "rdev",
        "size",
        "tail_bytes",
        "tail_offset",
        "target",
        "uid",
        "xattrs",
    )

    def __init__(self, mode: int, uid: int, gid: int, mtime_s: int, mtime_ns: int, layer: int) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime_s = mtime_s
        self.mtime_ns = mtime_ns
        self.layer = layer
        self.xattrs: Xattrs = ()
        self.size = 0
        self.rdev = 0
        self.target = b""
        # Where the data went: whole blocks from first_block on, then tail_bytes at tail_offset of the tail store.
        self.first_block = 0
        self.tail_offset = 0
        self.tail_bytes = 0
        # A sparse file instead has the first block of each chunk (2**chunk_bits blocks); all ones is a hole.
        self.chunks: array[int] | None = None
        self.chunk_bits = 0
        # Filled in by the writer.
        self.nlink = 0
        self.nid = 0
        self.number = 0
        self.inode_bytes = 0


class Whiteout:
    """A name that layers below must not show. Never written to disk."""

    __slots__ = ("layer",)

    def __init__(self, layer: int) -> None:
        self.layer = layer


class PendingLink:
    """A hard link whose target has not been met yet (it is in a lower layer, or hidden). ``places``: where the inode
    goes.
    """

    __slots__ = ("layer", "name", "places", "target")

    def __init__(self, layer: int, name: bytes, target: bytes) -> None:
        self.layer = layer
        self.name = name
        self.target = target
        self.places: list[tuple[Directory, bytes]] = []

    @property
    def live(self) -> bool:
        return any(directory.entries.get(name) is self for directory, name in self.places)

    def resolve(self, inode: Inode | PendingLink) -> None:
        for directory, name in self.places:
            if directory.entries.get(name) is self:
                directory.entries[name] = inode


class Directory(Inode):
    """A directory. ``described``: the layer whose entry gave it its metadata; None while it is only implied by
    something inside.

    ``opaque``: layers with a higher number than this (below it) must not show anything inside; ``severed``: nor may
    they describe it, because it is not the directory that they had there. ``path`` is from the root, without a leading
    slash.
    """

    __slots__ = ("described", "entries", "opaque", "path", "severed")

    def __init__(self, path: bytes, layer: int) -> None:
        super().__init__(stat.S_IFDIR | 0o755, 0, 0, 0, 0, layer)
        self.path = path
        self.entries: dict[bytes, Inode | Whiteout | PendingLink] = {}
        self.described: int | None = None
        self.opaque: int | None = None
        self.severed: int | None = None

    def undescribe(self, layer: int) -> None:
        """Forget the metadata that ``layer`` gave it."""
        if self.described == layer:
            self.described = None
            self.mode, self.uid, self.gid = stat.S_IFDIR | 0o755, 0, 0
            self.mtime_s = self.mtime_ns = 0
            self.xattrs = ()

    def hide_below(self, layer: int, *, sever: bool) -> None:
        if self.opaque is None or layer < self.opaque:
            self.opaque = layer
        if sever and (self.severed is None or layer < self.severed):
            self.severed = layer
