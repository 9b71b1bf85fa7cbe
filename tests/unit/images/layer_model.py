"""A plain model of stacked layers, written for clarity: each layer a tree of its own, united from the bottom up.

It shares nothing with ``hyper.images.layers.merge``, which goes the other way round (topmost first) in one pass.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, field
from typing import Literal

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
Kind = Literal["file", "directory", "symlink", "link", "whiteout", "opaque"]


@dataclass(frozen=True)
class Op:
    """One entry of a layer. ``value``: content, target, or mode."""

    kind: Kind
    path: str
    value: str = ""
    mode: int = 0o644


class Refused(Exception):
    """The sequence is not a valid image."""


@dataclass(eq=False)
class File:
    kind: Literal["file", "symlink"]
    value: str
    mode: int


@dataclass(eq=False)
class Pending:
    target: str


@dataclass(eq=False)
class Dir:
    entries: dict[str, Node] = field(default_factory=dict)
    mode: int | None = None
    whiteouts: set[str] = field(default_factory=set)
    opaque: bool = False


@dataclass(eq=False)
class Broken:
    """A hard link to nothing: an error only when it is still there in the end."""


Node = File | Dir | Pending | Broken


def tar_of(ops: list[Op]) -> bytes:
    """The layer as a tar."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number, op in enumerate(ops):
            member = tarfile.TarInfo(op.path)
            member.mode = op.mode
            member.mtime = 1_000_000 + number
            content = b""
            if op.kind == "file":
                content = op.value.encode()
            elif op.kind == "directory":
                member.type = tarfile.DIRTYPE
            elif op.kind == "symlink":
                member.type, member.linkname = tarfile.SYMTYPE, op.value
            elif op.kind == "link":
                member.type, member.linkname = tarfile.LNKTYPE, op.value
            else:
                head, _, name = op.path.rpartition("/")
                name = OPAQUE if op.kind == "opaque" else WHITEOUT + name
                if op.kind == "opaque":
                    head = op.path
                member.name = f"{head}/{name}" if head else name
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return output.getvalue()


def merge(layers: list[list[Op]]) -> Dir:
    """The united tree. Refused when some layer breaks a rule."""
    result = Dir()
    for ops in layers:
        result = _unite_root(result, _own_tree(ops, result))
    return result


def _own_tree(ops: list[Op], lower: Dir) -> Dir:
    root = Dir()
    for op in ops:
        if op.kind == "opaque":
            _enter(root, op.path).opaque = True
            continue
        head, _, name = op.path.rpartition("/")
        place = _enter(root, head)
        existing = place.entries.get(name)
        if op.kind == "whiteout":
            place.whiteouts.add(name)
        elif op.kind == "directory":
            if not isinstance(existing, Dir):
                if existing is not None:
                    place.whiteouts.add(name)
                existing = place.entries[name] = Dir()
            existing.mode = op.mode
        elif op.kind == "link":
            try:
                target, canonical = _find(root, op.value)
            except Refused:
                target, canonical = Broken(), "(nowhere)"
            if target is not None and canonical == _canonical(root, op.path):
                continue
            if isinstance(target, Dir):
                raise Refused
            if target is None and canonical == _canonical(root, op.path):
                continue
            place.entries[name] = target if target is not None else Pending(canonical)
        else:
            place.entries[name] = File(op.kind, op.value, op.mode)
    return root


def _enter(root: Dir, path: str) -> Dir:
    """The directory at ``path`` in this layer, made where missing, through this layer's own symbolic links."""
    trail = [root]
    parts = path.split("/")[::-1]
    hops = 0
    while parts:
        part = parts.pop()
        if part in ("", "."):
            continue
        if part == "..":
            trail = trail[:-1] or trail
            continue
        found = trail[-1].entries.get(part)
        if isinstance(found, File) and found.kind == "symlink":
            hops += 1
            if hops > 40:
                raise Refused
            if found.value.startswith("/"):
                trail = trail[:1]
            parts += found.value.split("/")[::-1]
            continue
        if found is None:
            found = trail[-1].entries[part] = Dir()
        if not isinstance(found, Dir):
            raise Refused
        trail.append(found)
    return trail[-1]


def _locate(root: Dir, path: str) -> tuple[list[str], Dir | None]:
    """Canonical parts of a parent path, without making anything."""
    trail: list[tuple[str, Dir | None]] = []
    parts = path.split("/")[::-1]
    hops = 0
    while parts:
        part = parts.pop()
        if part in ("", "."):
            continue
        if part == "..":
            trail = trail[:-1]
            continue
        here = trail[-1][1] if trail else root
        found = here.entries.get(part) if here else None
        if isinstance(found, File) and found.kind == "symlink":
            hops += 1
            if hops > 40:
                raise Refused
            if found.value.startswith("/"):
                trail = []
            parts += found.value.split("/")[::-1]
            continue
        if found is not None and not isinstance(found, Dir):
            raise Refused
        trail.append((part, found))
    return [part for part, _ in trail], (trail[-1][1] if trail else root)


def _canonical(root: Dir, path: str) -> str:
    head, _, name = path.rpartition("/")
    return "/".join([*_locate(root, head)[0], name])


def _find(root: Dir, path: str) -> tuple[Node | None, str]:
    head, _, name = path.rpartition("/")
    parts, place = _locate(root, head)
    return (place.entries.get(name) if place else None), "/".join([*parts, name])


def _unite_root(lower: Dir, own: Dir) -> Dir:
    resolved: dict[str, File | Broken] = {}

    def visible_below(path: str) -> File | Broken:
        """The file of the lower layers at ``path`` as this layer's links see it."""
        if path in resolved:
            return resolved[path]
        node: Node = lower
        mine: Node | None = own
        for part in path.split("/"):
            if isinstance(mine, Dir) and (mine.opaque or part in mine.whiteouts):
                return Broken()
            if not isinstance(node, Dir) or part not in node.entries:
                return Broken()
            node = node.entries[part]
            mine = mine.entries.get(part) if isinstance(mine, Dir) else None
        if isinstance(node, Dir):
            raise Refused
        assert isinstance(node, File | Broken)
        resolved[path] = node
        return node

    def unite(below: Node | None, mine: Node) -> Node:
        if isinstance(mine, Pending):
            return visible_below(mine.target)
        if isinstance(mine, File | Broken):
            return mine
        united = Dir(mode=mine.mode)
        if isinstance(below, Dir):
            if united.mode is None:
                united.mode = below.mode
            if not mine.opaque:
                united.entries = {name: node for name, node in below.entries.items() if name not in mine.whiteouts}
        for name, node in mine.entries.items():
            united.entries[name] = unite(None if name in mine.whiteouts else united.entries.get(name), node)
        return united

    result = unite(lower, own)
    assert isinstance(result, Dir)
    return result


def flatten(root: Dir) -> dict[str, tuple[object, ...]]:
    """Path → (kind, mode, content or target, a number shared by all names of one inode)."""
    found: dict[str, tuple[object, ...]] = {}
    numbers: dict[int, int] = {}

    def walk(path: str, node: Dir) -> None:
        for name, child in sorted(node.entries.items()):
            below = f"{path}/{name}" if path else name
            if isinstance(child, Dir):
                found[below] = ("directory", 0o755 if child.mode is None else child.mode)
                walk(below, child)
            elif not isinstance(child, File):
                raise Refused
            else:
                mode = 0o777 if child.kind == "symlink" else child.mode
                found[below] = (child.kind, mode, child.value, numbers.setdefault(id(child), len(numbers)))

    walk("", root)
    return found
