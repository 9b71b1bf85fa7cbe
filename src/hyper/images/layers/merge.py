"""Merge layers into one tree in a single pass, *topmost layer first*, so that hidden file data is never written.

Going down, every name that was seen (a file, a whiteout, an opaque directory) hides what lies below it; directories
merge. Two things need more than that: a hard link in one layer to a file of a lower one is left pending until that
file comes by, and a link to a file of its own layer whose *name* an upper layer hides needs that file's data after
all: then :attr:`wanted` tells the caller to run the layer a second time.

Rules: OCI image-spec layer.md (whiteouts hide lower layers only, whatever their place in the archive) and, where it is
silent, what Docker's unpacking does: the last of several entries of one name wins, a parent that is missing is made, a
parent that is a symbolic link *of the same layer* is followed inside the root. Metadata of a directory that upper
layers only imply comes from below.

Neighbours: ``paths.py``, ``hyper.images.tree`` (the result), ``erofs/`` (takes file data), ``build.py`` (calls it).
"""

from __future__ import annotations

import stat

from hyper.errors import InvalidArgument, ResourceExhausted
from hyper.images.erofs.data import DataArea
from hyper.images.erofs.format import (
    XATTR_AREA_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
    device_number,
    split_xattr,
    xattr_area_bytes,
)
from hyper.images.layers.paths import clean
from hyper.images.limits import ImageLimits
from hyper.images.tar import Entry, TarReader
from hyper.images.tar_headers import show
from hyper.images.tree import Directory, Inode, PendingLink, Whiteout

_REGULAR, _HARD_LINK, _SYMLINK, _CHARACTER, _BLOCK, _DIRECTORY, _FIFO = b"0123456"
_TYPE_BITS = {
    _REGULAR: stat.S_IFREG,
    _SYMLINK: stat.S_IFLNK,
    _CHARACTER: stat.S_IFCHR,
    _BLOCK: stat.S_IFBLK,
    _DIRECTORY: stat.S_IFDIR,
    _FIFO: stat.S_IFIFO,
}
_WHITEOUT = b".wh."
_WHITEOUT_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"
_SYMLINK_HOPS_MAX = 40
_NODE_BYTES = 600


class _Hidden:
    """A directory of the layer being read that upper layers hide."""

    __slots__ = ("path",)

    def __init__(self, path: bytes) -> None:
        self.path = path


class LayerMerger:
    """Feed it layers from the top down: ``begin_layer``, then ``apply`` for each entry (see :meth:`read`)."""

    def __init__(self, data: DataArea, limits: ImageLimits) -> None:
        self.root = Directory(b"", 0)
        self.hidden_bytes = 0
        """File bytes that were skipped because an upper layer hides them."""
        self._data = data
        self._limits = limits
        self._layer = -1
        self._nodes = 0
        self._metadata_bytes = 0
        self._pending: dict[bytes, PendingLink] = {}
        self.wanted: dict[int, PendingLink] = {}
        self._start_layer()

    def _start_layer(self) -> None:
        self._layer += 1
        self._places: dict[bytes, Directory | _Hidden] = {}
        self._links: dict[bytes, bytes] = {}
        self._hidden: dict[bytes, int | Inode | PendingLink] = {}
        self._whiteouts: set[bytes] = set()
        self._opaques: set[bytes] = set()
        self._own_pending: dict[bytes, PendingLink] = {}

    def read(self, reader: TarReader) -> None:
        """Merge one whole layer. InvalidArgument when it breaks a rule, ResourceExhausted when it exceeds a limit."""
        apply = self._apply
        for entry in reader:
            apply(entry, reader)
        self._settle()

    def read_wanted(self, reader: TarReader) -> None:
        """The second run over the same layer: takes the data of those in :attr:`wanted`."""
        layer = self._layer - 1
        for entry in reader:
            pending = self.wanted.get(entry.number)
            if pending is not None:
                inode = self._inode(entry, layer)
                self._store(inode, entry, reader)
                pending.resolve(inode)
        self.wanted = {}

    def finish(self) -> Directory:
        """The merged tree. Links that are still pending are reported by the writer."""
        return self.root

    # One entry.

    def _apply(self, entry: Entry, reader: TarReader) -> None:
        path = clean(entry.name, self._limits)
        if not path:
            if entry.kind != _DIRECTORY:
                raise InvalidArgument(f"the layer's entry {show(entry.name)} would replace the root directory")
            self._describe(self.root, entry)
            return
        parent, _, name = path.rpartition(b"/")
        place = self._places.get(parent)
        if place is None:
            place = self._enter(parent)
        if place.path != parent:
            path = place.path + b"/" + name if place.path else name
        if name.startswith(_WHITEOUT):
            self._whiteout(place, name)
            return
        kind = entry.kind
        if kind == _SYMLINK:
            if len(entry.linkname) > self._limits.path_bytes or not entry.linkname:
                raise InvalidArgument(f"the symbolic link {show(path)} has an empty or overlong target")
            self._links[path] = entry.linkname
        elif kind == _HARD_LINK:
            self._hard_link(place, path, name, entry)
            return
        else:
            self._end_symlink(path)
        if kind == _DIRECTORY:
            self._directory(place, path, name, entry)
            return
        self._put(place, path, name, entry, reader)

    def _put(self, place: Directory | _Hidden, path: bytes, name: bytes, entry: Entry, reader: TarReader) -> None:
        """A file, symbolic link or device."""
        if isinstance(place, _Hidden) or not self._make_room(place, name, path):
            self.hidden_bytes += entry.body_bytes
            self._count(len(path))
            self._hidden[path] = entry.number
            if entry.kind == _SYMLINK:
                # It may have taken the place of a directory that, being hidden, left no trace but remembered places.
                self._places.clear()
            return
        inode = self._inode(entry, self._layer)
        self._count(len(name))
        place.entries[name] = inode
        if entry.kind == _REGULAR:
            self._store(inode, entry, reader)

    def _directory(self, place: Directory | _Hidden, path: bytes, name: bytes, entry: Entry) -> None:
        if self._hidden:
            self._hidden.pop(path, None)
        if isinstance(place, _Hidden):
            return
        existing = place.entries.get(name)
        layer = self._layer
        if isinstance(existing, Directory):
            self._describe(existing, entry)
            return
        if existing is not None and existing.layer < layer:
            return
        directory = self._new_directory(place, name, path)
        if isinstance(existing, Whiteout):
            directory.hide_below(layer, sever=True)
        elif existing is not None:
            self._places.clear()
            # What it replaces hid the layers below; the directory must go on doing so.
            self._opaques.add(path)
            directory.hide_below(layer, sever=True)
        self._describe(directory, entry)

    def _hard_link(self, place: Directory | _Hidden, path: bytes, name: bytes, entry: Entry) -> None:
        target = clean(entry.linkname, self._limits)
        if not target:
            raise InvalidArgument(f"the hard link {show(path)} is to the root directory")
        parent, _, target_name = target.rpartition(b"/")
        target_place = self._places.get(parent) or self._look(parent)
        broken = isinstance(target_place, PendingLink)
        if isinstance(target_place, Directory | _Hidden) and target_place.path != parent:
            target = target_place.path + b"/" + target_name if target_place.path else target_name
        if target == path:
            return
        self._end_symlink(path)
        if target in self._links:
            self._links[path] = self._links[target]
            self._places.clear()
        found: int | Inode | Whiteout | PendingLink | None = None
        if isinstance(target_place, Directory):
            found = target_place.entries.get(target_name)
            if isinstance(found, Whiteout) or (found is not None and found.layer != self._layer):
                found = None
        if found is None:
            found = self._hidden.get(target)
        if isinstance(found, Directory):
            raise InvalidArgument(f"the hard link {show(path)} is to the directory {show(target)}")
        self._count(len(path) + len(target))
        visible = not isinstance(place, _Hidden) and self._make_room(place, name, path)
        if not visible and isinstance(found, int):
            self._hidden[path] = found
            return
        if broken:
            # An error only if it is still there in the end: the writer reports links that lead nowhere.
            found = PendingLink(self._layer, path, target)
        elif found is None:
            found = self._own_pending.get(target)
            if found is None:
                found = self._own_pending[target] = PendingLink(self._layer, path, target)
        elif isinstance(found, int):
            number = found
            found = self.wanted.get(number)
            if found is None:
                found = self.wanted[number] = PendingLink(self._layer, path, target)
        assert not isinstance(found, Whiteout)
        if not visible:
            self._hidden[path] = found
            return
        assert isinstance(place, Directory)
        if isinstance(found, PendingLink):
            found.places.append((place, name))
        place.entries[name] = found

    def _end_symlink(self, path: bytes) -> None:
        """Something else takes the place of this layer's symbolic link, if there was one."""
        if path in self._links:
            del self._links[path]
            self._places.clear()

    def _whiteout(self, place: Directory | _Hidden, name: bytes) -> None:
        layer = self._layer
        if name == _OPAQUE:
            self._opaques.add(place.path)
            if isinstance(place, Directory):
                place.hide_below(layer, sever=False)
            return
        if name.startswith(_WHITEOUT_META):  # bookkeeping of AUFS, which says nothing to us
            return
        name = name[len(_WHITEOUT) :]
        if name in (b"", b".", b".."):
            raise InvalidArgument(f"the layer has the invalid whiteout {show(_WHITEOUT + name)}")
        self._count(len(place.path) + len(name))
        self._whiteouts.add(place.path + b"/" + name if place.path else name)
        if isinstance(place, _Hidden):
            return
        existing = place.entries.get(name)
        if existing is None:
            if place.opaque is None or place.opaque >= layer:
                place.entries[name] = Whiteout(layer)
        elif isinstance(existing, Directory):
            existing.hide_below(layer, sever=True)

    # Places.

    def _make_room(self, place: Directory, name: bytes, path: bytes) -> bool:
        """Whether something other than a directory may be put there now; takes an older one of the same layer away."""
        existing = place.entries.get(name)
        if existing is None:
            return True
        if existing.layer < self._layer:
            if isinstance(existing, Directory):
                # A file here ends what lower layers have in that directory, and what this layer had in it before.
                existing.hide_below(self._layer, sever=True)
                existing.undescribe(self._layer)
                self._prune(existing)
            return False
        if isinstance(existing, Directory):
            self._places.clear()
            del place.entries[name]
            _empty(existing)
        return True

    def _prune(self, directory: Directory) -> None:
        stack = [directory]
        self._places.clear()
        while stack:
            current = stack.pop()
            for name, child in list(current.entries.items()):
                if child.layer == self._layer:
                    del current.entries[name]
                    if isinstance(child, Directory):
                        _empty(child)
                elif isinstance(child, Directory):
                    child.undescribe(self._layer)
                    stack.append(child)

    def _enter(self, path: bytes) -> Directory | _Hidden:
        """The directory ``path`` as this layer sees it, made where it is missing; remembered."""
        place = self._walk(path, make=True)
        assert place is not None
        self._places[path] = place
        self._count_bytes(len(path))
        return place

    def _look(self, path: bytes) -> Directory | _Hidden | PendingLink | None:
        """The same without making anything; a link to nowhere stands for a path through something " "that is no
        directory.
        """
        try:
            return self._walk(path, make=False)
        except InvalidArgument:
            return PendingLink(self._layer, path, path)

    def _walk(self, path: bytes, *, make: bool) -> Directory | _Hidden | None:
        links = self._links
        root = self.root
        trail: list[Directory | _Hidden] = [root if root.opaque is None or root.opaque >= self._layer else _Hidden(b"")]
        parts = path.split(b"/")
        parts.reverse()
        hops = 0
        while parts:
            part = parts.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            here = trail[-1]
            child = here.path + b"/" + part if here.path else part
            target = links.get(child) if links else None
            if target is not None:
                hops += 1
                if hops > _SYMLINK_HOPS_MAX:
                    raise InvalidArgument(f"the layer's entry below {show(path)} goes through a loop of symbolic links")
                if target.startswith(b"/"):
                    del trail[1:]
                parts.extend(reversed(target.split(b"/")))
                continue
            below = self._below(here, part, child, make)
            if below is None:
                return None
            trail.append(below)
            if len(trail) > 2 * self._limits.depth:
                raise InvalidArgument(f"the layer's entry below {show(path)} lies too deep")
        return trail[-1]

    def _below(self, here: Directory | _Hidden, part: bytes, path: bytes, make: bool) -> Directory | _Hidden | None:
        if path in self._hidden:
            raise _not_a_directory(path)
        layer = self._layer
        if isinstance(here, _Hidden):
            return _Hidden(path)
        existing = here.entries.get(part)
        if isinstance(existing, Directory):
            # A merged directory whose contents upper layers hide from here on down is entered as hidden.
            return existing if existing.opaque is None or existing.opaque >= layer else _Hidden(path)
        if existing is not None and existing.layer < layer:
            return _Hidden(path)
        if existing is not None and not isinstance(existing, Whiteout):
            raise _not_a_directory(path)
        if not make:
            return None
        directory = self._new_directory(here, part, path)
        if existing is not None:
            directory.hide_below(layer, sever=True)
        return directory

    def _new_directory(self, place: Directory, name: bytes, path: bytes) -> Directory:
        self._count(len(name) + len(path))
        directory = Directory(path, self._layer)
        place.entries[name] = directory
        return directory

    # Metadata.

    def _describe(self, directory: Directory, entry: Entry) -> None:
        """Give a directory its metadata, unless an upper layer has; of several entries in one layer the last counts."""
        if directory.described is not None and directory.described < self._layer:
            return
        if directory.severed is not None and directory.severed < self._layer:
            return
        directory.described = self._layer
        directory.mode = stat.S_IFDIR | entry.mode
        directory.uid, directory.gid = self._owner(entry)
        directory.mtime_s, directory.mtime_ns = entry.mtime_s, entry.mtime_ns
        directory.xattrs = self._xattrs(entry) if entry.xattrs else ()

    def _inode(self, entry: Entry, layer: int) -> Inode:
        uid, gid = self._owner(entry)
        inode = Inode(_TYPE_BITS[entry.kind] | entry.mode, uid, gid, entry.mtime_s, entry.mtime_ns, layer)
        if entry.xattrs:
            inode.xattrs = self._xattrs(entry)
        if entry.kind == _SYMLINK:
            inode.mode = stat.S_IFLNK | 0o777
            inode.target = entry.linkname
            inode.size = len(entry.linkname)
            self._count_bytes(inode.size)
        elif entry.kind in (_CHARACTER, _BLOCK):
            if not (0 <= entry.major < 1 << 12 and 0 <= entry.minor < 1 << 20):
                raise InvalidArgument(
                    f"the device {show(entry.name)} has a number Linux does not know: {entry.major}:{entry.minor}"
                )
            inode.rdev = device_number(entry.major, entry.minor)
        return inode

    def _owner(self, entry: Entry) -> tuple[int, int]:
        if entry.uid > 0xFFFFFFFE or entry.gid > 0xFFFFFFFE:
            raise InvalidArgument(
                f"{show(entry.name)} in the layer belongs to {entry.uid}:{entry.gid}, which is beyond Linux' 32 bits"
            )
        return entry.uid, entry.gid

    def _xattrs(self, entry: Entry) -> tuple[tuple[bytes, bytes], ...]:
        """The attributes that are kept. Docker, too, goes on without those its file system does not take."""
        assert entry.xattrs is not None
        kept = []
        for name, value in sorted(entry.xattrs.items()):
            # overlayfs' own marks would make the guest's overlay read this image in a way its layers do not say.
            if name.startswith((b"trusted.overlay.", b"user.overlay.")) or split_xattr(name) is None or b"\0" in name:
                continue
            if len(value) > XATTR_VALUE_BYTES_MAX:
                raise InvalidArgument(
                    f"{show(entry.name)} in the layer has an extended attribute of {len(value)} bytes; 65,535 "
                    f"are possible"
                )
            kept.append((name, value))
        result = tuple(kept)
        total = xattr_area_bytes(result)
        if total > min(self._limits.xattr_bytes, XATTR_AREA_BYTES_MAX):
            raise InvalidArgument(
                f"{show(entry.name)} in the layer has {total} bytes of extended attributes; at most "
                f"{self._limits.xattr_bytes} are allowed"
            )
        self._count_bytes(total)
        return result

    def _store(self, inode: Inode, entry: Entry, reader: TarReader) -> None:
        if entry.kind != _REGULAR:
            return
        inode.size = entry.size
        if entry.sparse is None or entry.body_bytes == entry.size:
            self._data.store(inode, reader.body())
            return
        if entry.size > self._limits.sparse_file_bytes:
            raise ResourceExhausted(
                f"the sparse file {show(entry.name)} is {entry.size} bytes long; at most "
                f"{self._limits.sparse_file_bytes} are allowed"
            )
        self._data.store_sparse(inode, entry.sparse, reader.body())
        self._count_bytes(4 * len(inode.chunks or ()))

    def _count(self, text_bytes: int) -> None:
        self._nodes += 1
        if self._nodes > self._limits.entries:
            raise ResourceExhausted(
                f"the image has more than {self._limits.entries} files, which is the limit set for images"
            )
        self._count_bytes(_NODE_BYTES + text_bytes)

    def _count_bytes(self, count: int) -> None:
        self._metadata_bytes += count
        if self._metadata_bytes > self._limits.metadata_bytes:
            raise ResourceExhausted(
                f"the image's names and attributes need more than {self._limits.metadata_bytes >> 20} MiB, "
                f"which is the limit set for images"
            )

    # The end of a layer: what pending links of the layers above find in it.

    def _settle(self) -> None:
        layer = self._layer
        for target, pending in list(self._pending.items()):
            if not pending.live:
                del self._pending[target]
                continue
            found = self._find(target)
            if isinstance(found, Directory):
                raise InvalidArgument(f"the hard link {show(pending.name)} is to the directory {show(target)}")
            if found is None:
                self._check_not_removed(pending)
                continue
            del self._pending[target]
            if isinstance(found, Inode):
                pending.resolve(found)
                continue
            if isinstance(found, int):
                number = found
                other = self.wanted.get(number)
                if other is None:
                    self.wanted[number] = pending
                    continue
                found = other
            found.places.extend(pending.places)
            pending.resolve(found)
        for target, pending in self._own_pending.items():
            above = self._pending.get(target)
            if above is None:
                self._pending[target] = pending
            else:
                above.places.extend(pending.places)
                pending.resolve(above)
        if self.wanted:
            self.wanted = {number: pending for number, pending in self.wanted.items() if pending.live}
        assert layer == self._layer
        self._start_layer()

    def _find(self, path: bytes) -> int | Inode | PendingLink | None:
        """What this layer itself has at ``path``."""
        hidden = self._hidden.get(path)
        if hidden is not None:
            return hidden
        parent, _, name = path.rpartition(b"/")
        place: Directory | None = self.root
        for part in parent.split(b"/") if parent else ():
            child = place.entries.get(part) if place else None
            place = child if isinstance(child, Directory) else None
        found = place.entries.get(name) if place else None
        if found is None or isinstance(found, Whiteout) or found.layer != self._layer:
            return None
        return found

    def _has_other_than_directory(self, path: bytes) -> bool:
        found = self._find(path)
        return found is not None and not isinstance(found, Directory)

    def _check_not_removed(self, pending: PendingLink) -> None:
        path = pending.target
        gone = path in self._whiteouts
        while not gone and path:
            path = path.rpartition(b"/")[0]
            gone = path in self._whiteouts or path in self._opaques or self._has_other_than_directory(path)
        if gone:
            raise InvalidArgument(
                f"the hard link {show(pending.name)} is to {show(pending.target)}, which a lower layer "
                f"removed; the image is broken"
            )


def _empty(directory: Directory) -> None:
    """Take apart a directory that is gone, so that links pending in it are not waited for."""
    stack = [directory]
    while stack:
        current = stack.pop()
        stack.extend(child for child in current.entries.values() if isinstance(child, Directory))
        current.entries.clear()


def _not_a_directory(path: bytes) -> InvalidArgument:
    return InvalidArgument(f"the layer has an entry below {show(path)}, which is not a directory")
