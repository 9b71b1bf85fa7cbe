"""Templates on disk, so that a daemon's next start has one at once: ``<folder>/<key>/{memory,state,manifest.json}``.

Only root may read or write them: whoever could write one would be in every clone. ``memory`` has the parts with data
one behind the other. The manifest is written last and names the digests of the others, so a template that was cut short
or damaged is refused, with the reason. Neighbours: ``template.py``, ``templates.py``.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

import msgspec

from hyper.errors import DataLoss, NotFound, ResourceExhausted
from hyper.sandboxes.maker import Shape
from hyper.sandboxes.template import MEMORY, STATE, Template
from hyper.system import memory_files
from hyper.system.memory_files import Extent

_VERSION = 1
_UNFINISHED = ".new-"
_MAX_STATE_BYTES = 64 << 20
_FREE_BYTES_KEPT = 256 << 20
"""As for images: what is only kept to save time must not take the room of containers' disks, logs and records."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``parts`` are offsets and lengths in the guest's memory."""

    version: int
    key: str
    memory_bytes: int
    parts: tuple[Extent, ...]
    memory_sha256: str
    state_bytes: int
    state_sha256: str
    agent_version: str


class TemplateStore:
    """All calls block. ``free_bytes_kept`` stay free on the disk."""

    def __init__(self, folder: Path, *, free_bytes_kept: int = _FREE_BYTES_KEPT) -> None:
        self._folder = folder
        self._free_bytes_kept = free_bytes_kept

    def load(self, key: str, shape: Shape) -> Template:
        """NotFound when there is none of this key; DataLoss, with what is wrong, when it is damaged."""
        folder = self._folder / key
        try:
            text = (folder / "manifest.json").read_bytes()
            template = self._load(folder, msgspec.json.decode(text, type=Manifest), key, shape)
        except FileNotFoundError as error:
            if not os.path.lexists(folder):
                raise NotFound(f"there is no template {key[:12]}") from error
            raise DataLoss(f"template {key[:12]} is refused: {error.filename} is missing") from error
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DataLoss(f"template {key[:12]} is refused: its manifest is damaged ({error})") from error
        except OSError as error:
            raise DataLoss(f"template {key[:12]} is refused: {error}") from error
        for unfinished in self._folder.glob(f"{_UNFINISHED}*"):  # a killed daemon's
            _remove(unfinished)
        return template

    def _load(self, folder: Path, manifest: Manifest, key: str, shape: Shape) -> Template:
        problem = ""
        if manifest.version != _VERSION or manifest.key != key or manifest.memory_bytes != shape.size.memory_bytes:
            problem = "it is another machine's"
        elif unsafe := _unsafe(folder):
            problem = unsafe
        elif not 0 < manifest.state_bytes <= _MAX_STATE_BYTES or not _within(manifest.parts, manifest.memory_bytes):
            problem = "its manifest cannot be right"
        if problem:
            raise DataLoss(f"template {key[:12]} is refused: {problem}")
        memory = memory_files.create(MEMORY, manifest.memory_bytes)
        try:
            state = memory_files.create(STATE, manifest.state_bytes)
        except BaseException:
            os.close(memory)
            raise
        try:
            position = 0
            with (folder / "memory").open("rb") as file:
                for offset, length in manifest.parts:
                    _fill(file.fileno(), position, memory, offset, length)
                    position += length
            with (folder / "state").open("rb") as file:
                _fill(file.fileno(), 0, state, 0, manifest.state_bytes)
            if memory_files.digest(memory, list(manifest.parts)) != manifest.memory_sha256:
                problem = "its memory file does not have the digest that was recorded"
            elif memory_files.digest(state, [(0, manifest.state_bytes)]) != manifest.state_sha256:
                problem = "its state file does not have the digest that was recorded"
            if problem:
                raise DataLoss(f"template {key[:12]} is refused: {problem}")
            memory_files.seal(memory)
            memory_files.seal(state)
        except BaseException:
            os.close(memory)
            os.close(state)
            raise
        return Template(key, shape, memory, state, manifest.parts, manifest.agent_version)

    def save(self, template: Template) -> None:
        """Keep it; replaces what there is of this key, and removes those of other keys (nobody starts from them again).
        ResourceExhausted when there is no room."""
        temporary = self._folder / f"{_UNFINISHED}{template.key}"
        shutil.rmtree(temporary, ignore_errors=True)
        parts = list(template.parts)
        state_bytes = os.fstat(template.state_fd).st_size
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_free(template.used_bytes + state_bytes)
            temporary.mkdir(mode=0o700)
            _write(temporary / "memory", template.memory_fd, parts)
            _write(temporary / "state", template.state_fd, [(0, state_bytes)])
            manifest = Manifest(
                version=_VERSION,
                key=template.key,
                memory_bytes=template.shape.size.memory_bytes,
                parts=template.parts,
                memory_sha256=memory_files.digest(template.memory_fd, parts),
                state_bytes=state_bytes,
                state_sha256=memory_files.digest(template.state_fd, [(0, state_bytes)]),
                agent_version=template.agent_version,
            )
            # No fsync: what a crash of the host leaves damaged is refused by its digest and made anew.
            with _new_file(temporary / "manifest.json") as file:
                file.write(msgspec.json.encode(manifest))
            self.discard(template.key)
            temporary.rename(self._folder / template.key)
        except (OSError, ResourceExhausted) as error:
            reason = error.strerror if isinstance(error, OSError) else error.message
            raise ResourceExhausted(f"the template cannot be kept in {self._folder}: {reason}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._keep_only(template.key)

    def discard(self, key: str) -> None:
        """Remove it, if it is there."""
        _remove(self._folder / key)

    def _check_free(self, needed_bytes: int) -> None:
        status = os.statvfs(self._folder)
        free_bytes = status.f_bavail * status.f_frsize
        if free_bytes < needed_bytes + self._free_bytes_kept:
            raise ResourceExhausted(
                f"no room for {needed_bytes >> 20} MiB: {free_bytes >> 20} MiB are free, "
                f"and {self._free_bytes_kept >> 20} MiB must stay free"
            )

    def _keep_only(self, key: str) -> None:
        for entry in self._folder.iterdir():
            if entry.name != key:
                _remove(entry)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    try:
        path.unlink(missing_ok=True)  # whatever else it was
    except OSError:
        pass  # who needs its place says so


def _fill(source: int, position: int, target: int, offset: int, length: int) -> None:
    done = 0
    while done < length:
        data = os.pread(source, min(4 << 20, length - done), position + done)
        if not data:
            raise DataLoss("a template is refused: one of its files is shorter than it was")
        memory_files.write(target, data, offset + done)
        done += len(data)


def _write(path: Path, source: int, parts: list[Extent]) -> None:
    with _new_file(path) as file:
        memory_files.copy(source, file.fileno(), parts, target_offset=0)


def _new_file(path: Path) -> BinaryIO:
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))


def _unsafe(folder: Path) -> str:
    """Why nothing in this folder is believed; empty when it may be."""
    for path in (folder.parent, folder, *folder.iterdir()):
        status = path.lstat()
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"others than root can write to {path}"
        if not (stat.S_ISREG(status.st_mode) or path in (folder.parent, folder)):
            return f"{path} is no file"
    return ""


def _within(parts: tuple[Extent, ...], size: int) -> bool:
    end = 0
    for offset, length in parts:
        if offset < end or length <= 0:
            return False
        end = offset + length
    return end <= size
