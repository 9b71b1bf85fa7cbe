"""A template: a machine that was booted, rehearsed, stopped and saved, so that others can go on from there.

Its memory is a sealed memory file which every clone maps copy-on-write: no VMM can write what others start from. A hole
in it that a clone touches is filled with an empty page in the file besides the clone's own copy, so the file grows with
what clones use; :meth:`Template.renewed` makes a slim one.

Neighbours: ``templates.py`` (has the present one), ``template_store.py`` (keeps it on disk), ``maker.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hyper.hypervisors.base import MemoryFile, SavedState
from hyper.sandboxes.maker import Shape
from hyper.system import memory_files
from hyper.system.memory_files import Extent

MEMORY = "hyper-template-memory"
STATE = "hyper-template-state"
_SLACK_BYTES = 256 << 20
"""How much clones may add to the memory file before a slim one takes its place."""


@dataclass(frozen=True)
class Template:
    """``memory_fd`` and ``state_fd`` are sealed; ``parts`` are where its memory has data."""

    key: str
    shape: Shape
    memory_fd: int
    state_fd: int
    parts: tuple[Extent, ...]
    agent_version: str

    @property
    def used_bytes(self) -> int:
        """Of memory."""
        return sum(length for _, length in self.parts)

    @property
    def is_fat(self) -> bool:
        return memory_files.stored_bytes(self.memory_fd) > self.used_bytes + _SLACK_BYTES

    @contextmanager
    def origin(self, *, own_copy: bool) -> Iterator[tuple[MemoryFile, SavedState]]:
        """What one clone starts from; open while it is launched. ``own_copy``: memory of its own that is shared with
        who else gets its file, at the price of a copy (blocking, some 20 ms)."""
        # A description of its own, at position 0: a state is read from where its descriptor stands.
        state = os.open(f"/proc/self/fd/{self.state_fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not own_copy:
                yield MemoryFile(self.memory_fd, shared=False), SavedState(state)
                return
            memory = self._copy()
            try:
                yield MemoryFile(memory, shared=True), SavedState(state)
            finally:
                os.close(memory)
        finally:
            os.close(state)

    def renewed(self) -> Template:
        """The same with a memory file that has only what it was saved with; blocking. Clones of the old one keep its
        file alive; close this one's."""
        memory = self._copy()
        memory_files.seal(memory)
        state = os.dup(self.state_fd)
        return Template(self.key, self.shape, memory, state, self.parts, self.agent_version)

    def close(self) -> None:
        os.close(self.memory_fd)
        os.close(self.state_fd)

    def _copy(self) -> int:
        memory = memory_files.create(MEMORY, self.shape.size.memory_bytes)
        try:
            memory_files.copy(self.memory_fd, memory, list(self.parts))
        except BaseException:
            os.close(memory)
            raise
        return memory
