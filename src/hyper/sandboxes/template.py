"""A template: a machine that was booted, rehearsed, stopped and saved, so that others can go on from there.

Its memory is a sealed memory file which every clone maps copy-on-write: no VMM can write what others start from. A hole
in it that a clone touches is filled with an empty page in the file besides the clone's own copy, so the file grows with
what clones use; :meth:`Template.renewed` makes a slim one.

Neighbours: ``templates.py`` (has the present one), ``template_store.py`` (keeps it on disk), ``maker.py``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

from hyper.hypervisors.base import MemoryFile, SavedState
from hyper.sandboxes.maker import Shape
from hyper.system import blocking, memory_files
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
    def held(self) -> Iterator[Template]:
        """The same with descriptors of its own: it can be used to the end of the block, even when this one is closed
        meanwhile and its descriptors' numbers are another file's."""
        with ExitStack() as opened:
            memory = os.dup(self.memory_fd)
            opened.callback(os.close, memory)
            # A description of its own, at position 0: a state is read from where its descriptor stands.
            state = os.open(f"/proc/self/fd/{self.state_fd}", os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, state)
            yield replace(self, memory_fd=memory, state_fd=state)

    @asynccontextmanager
    async def origin(self, *, own_copy: bool) -> AsyncIterator[tuple[MemoryFile, SavedState]]:
        """What one clone starts from; open while it is launched. ``own_copy``: memory of its own that is shared with
        who else gets its file, at the price of a copy (some 20 ms)."""
        with self.held() as held:
            if not own_copy:
                yield MemoryFile(held.memory_fd, shared=False), SavedState(held.state_fd)
                return
            memory = await blocking.run_or_undo(os.close, held.copy)
            try:
                yield MemoryFile(memory, shared=True), SavedState(held.state_fd)
            finally:
                os.close(memory)

    async def renewed(self) -> Template:
        """The same with a memory file that has only what it was saved with. Clones of the old one keep its file alive;
        close this one's."""
        with self.held() as held:
            memory = await blocking.run_or_undo(os.close, held.sealed_copy)
            return replace(self, memory_fd=memory, state_fd=os.dup(held.state_fd))

    def copy(self) -> int:
        """A memory file like this one's, which can be written to; blocking."""
        memory = memory_files.create(MEMORY, self.shape.size.memory_bytes)
        try:
            memory_files.copy(self.memory_fd, memory, list(self.parts))
        except BaseException:
            os.close(memory)
            raise
        return memory

    def sealed_copy(self) -> int:
        """The same, which cannot."""
        memory = self.copy()
        try:
            memory_files.seal(memory)
        except BaseException:
            os.close(memory)
            raise
        return memory

    def close(self) -> None:
        os.close(self.memory_fd)
        os.close(self.state_fd)
