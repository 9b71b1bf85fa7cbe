"""Removing and measuring directory trees whose contents strangers made: any depth, any names, changing meanwhile.

``shutil.rmtree`` recurses, and a guest can nest directories deeper than that goes, or than a path can name. Links are
never followed. Neighbour: :mod:`hyper.volumes.store`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 512
"""What lies below is not measured: each level costs an open descriptor."""


def remove(path: Path) -> None:
    """Remove the tree at ``path``; nothing when it is not there. OSError for what cannot be removed. Blocking.

    The tree is made flat on the way: a directory's directories are moved up beside it, so no path is ever long."""
    parent = os.open(path.parent, _FOLDER)
    try:
        _empty_into(parent, path.name)
    except FileNotFoundError:
        return
    finally:
        os.close(parent)


def _empty_into(parent: int, name: str) -> None:
    names = [name]
    while names:
        name = names.pop()
        try:
            folder = os.open(name, _FOLDER, dir_fd=parent)
        except NotADirectoryError:
            os.unlink(name, dir_fd=parent)
            continue
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    flat = f".gone-{secrets.token_hex(8)}"
                    os.rename(entry.name, flat, src_dir_fd=folder, dst_dir_fd=parent)
                    names.append(flat)
                else:
                    os.unlink(entry.name, dir_fd=folder)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=parent)


def used_bytes(path: Path) -> int:
    """What the files in ``path`` take on the disk, each counted once; 0 when it is not there. Blocking. Never raises
    for what goes away meanwhile."""
    seen: set[tuple[int, int]] = set()
    total = 0
    open_folders: list[tuple[int, list[str]]] = []

    def enter(name: str | Path, inside: int | None) -> None:
        nonlocal total
        try:
            folder = os.open(name, _FOLDER, dir_fd=inside)
        except OSError:
            return
        deeper: list[str] = []
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if (status.st_dev, status.st_ino) not in seen:
                        seen.add((status.st_dev, status.st_ino))
                        total += status.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        deeper.append(entry.name)
        open_folders.append((folder, deeper))

    enter(path, None)
    while open_folders:
        folder, deeper = open_folders[-1]
        if deeper and len(open_folders) < _DEEPEST:
            enter(deeper.pop(), folder)
        else:
            os.close(folder)
            open_folders.pop()
    return total
