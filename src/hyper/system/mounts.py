"""Mount namespaces and detached mount trees, by system calls that Python has no names for.

A tree is opened as a copy of its own (open_tree(2)), restricted while nobody can see it yet (mount_setattr(2)), and
attached in the namespace of the calling thread (move_mount(2)). Numbers are the same on every architecture. Neighbour:
:mod:`hyper.volumes.file_server`, the only user.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_OPEN_TREE, _MOVE_MOUNT, _OPENAT2, _MOUNT_SETATTR = 428, 429, 437, 442
_CLONE_NEWNS = 0x0002_0000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_REC, _MS_SLAVE = 32, 1 << 14, 1 << 19
_MS_PRIVATE = 1 << 18
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_ATTR_RDONLY, _ATTR_NODEV = 1, 4
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 2, 16

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _check(result: int, what: object) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(what))
    return result


def _syscall(number: int, *arguments: object) -> int:
    return int(_libc.syscall(ctypes.c_long(number), *arguments))


def own_namespace() -> None:
    """The calling thread, and what it starts, gets a copy of the mount namespace: later mounts of the host's come into
    it, none goes back. For a thread that ends soon: it shares no working directory with the others any more."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _check(_libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None), "/")


def mount_tmpfs(at: Path, options: str) -> None:
    """An empty file system that no program is started from."""
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _check(_libc.mount(b"tmpfs", os.fsencode(at), b"tmpfs", flags, options.encode()), at)


def make_readonly(at: Path) -> None:
    """The mount at ``at`` alone, as :func:`mount_tmpfs` made it."""
    flags = ctypes.c_ulong(_MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _check(_libc.mount(None, os.fsencode(at), None, flags, None), at)


def open_inside(root: int, path: str) -> int:
    """An O_PATH descriptor of ``path`` below the directory ``root`` as if that were ``/``: no link leads outside,
    whoever changes what meanwhile."""
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    return _check(
        _syscall(
            _OPENAT2,
            ctypes.c_int(root),
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        ),
        path,
    )


def open_tree(descriptor: int, *, recursive: bool) -> int:
    """A detached copy of the mount at an open file or directory, with those below it if ``recursive``."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    return _check(
        _syscall(_OPEN_TREE, ctypes.c_int(descriptor), ctypes.c_char_p(b""), ctypes.c_uint(flags)), "open_tree"
    )


def restrict(tree: int, *, readonly: bool, below: bool, follow_host: bool) -> None:
    """Nobody opens a device through the tree, nor writes if ``readonly`` (through what is mounted below it neither, if
    ``below``). Mounts that the host makes later come into it only with ``follow_host``."""
    _set_attributes(tree, _MountAttr(_ATTR_NODEV, 0, 0 if follow_host else _MS_PRIVATE, 0), recursive=True)
    if readonly:
        _set_attributes(tree, _MountAttr(_ATTR_RDONLY, 0, 0, 0), recursive=below)


def _set_attributes(tree: int, attributes: _MountAttr, *, recursive: bool) -> None:
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _check(
        _syscall(
            _MOUNT_SETATTR,
            ctypes.c_int(tree),
            ctypes.c_char_p(b""),
            ctypes.c_uint(flags),
            ctypes.byref(attributes),
            ctypes.c_size_t(ctypes.sizeof(attributes)),
        ),
        "mount_setattr",
    )


def attach(tree: int, at: Path) -> None:
    """Put a detached tree over what is at ``at``: a directory's over a directory, a file's over a file."""
    _check(
        _syscall(
            _MOVE_MOUNT,
            ctypes.c_int(tree),
            ctypes.c_char_p(b""),
            ctypes.c_int(_AT_FDCWD),
            ctypes.c_char_p(os.fsencode(at)),
            ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
        ),
        at,
    )
