"""Has the template that sandboxes start from: loads it, or boots and saves one; again when what it depends on changes.

Nobody waits for it: until there is one, sandboxes are booted. What goes wrong is told by :attr:`Templates.state` and
tried again later. Neighbours: ``template.py``, ``template_store.py``, ``maker.py``; ``source.py``, ``pool.py``.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from hyper.errors import DataLoss, HyperError, NotFound, Unsupported
from hyper.hypervisors.base import Hypervisor, HypervisorInfo, MemoryFile, Savable
from hyper.sandboxes.maker import SandboxMaker, Shape
from hyper.sandboxes.supervisor import Sandbox
from hyper.sandboxes.template import MEMORY, STATE, Template
from hyper.sandboxes.template_store import TemplateStore
from hyper.system import blocking, memory_files

Prepare = Callable[[Sandbox], Awaitable[None]]
"""Brings a sandbox to where its next use is quick, and leaves nothing of it."""

_log = logging.getLogger(__name__)
_RETRY_S = 60.0
_SEAL_TRIES = 100
_SEAL_PAUSE_S = 0.01


class Templates:
    """``prepare`` makes a fresh sandbox ready to be saved."""

    def __init__(self, hypervisor: Hypervisor, maker: SandboxMaker, store: TemplateStore, prepare: Prepare) -> None:
        self._hypervisor = hypervisor
        self._maker = maker
        self._store = store
        self._prepare = prepare
        self._template: Template | None = None
        self._building: asyncio.Task[None] | None = None
        self._digests: dict[tuple[str, int, int], str] = {}
        self._failed_at = -_RETRY_S
        self.state = "none yet"
        self.on_ready: Callable[[], None] = lambda: None

    async def current(self, shape: Shape, info: HypervisorInfo) -> Template | None:
        """The template of this shape, if there is one now; else one is begun to be made behind this."""
        key = await self._key(shape, info)
        template = self._template
        if template is not None and template.key == key:
            if template.is_fat:
                await self._renew(template)
            return self._template
        if self._building is None and time.monotonic() - self._failed_at >= _RETRY_S:
            if template is not None:
                _log.info("the template is of another kernel, agent, QEMU or machine: it is made anew")
                self._drop()
            self._building = asyncio.create_task(self._obtain(key, shape), name="template")
            self._building.add_done_callback(self._built)
        return None

    async def close(self) -> None:
        if self._building is not None:
            self._building.cancel()
            await asyncio.gather(self._building, return_exceptions=True)
        self._drop()

    async def refuse(self, template: Template, reason: str) -> None:
        """No clone of it works: make another, after a while."""
        if self._template is template:
            _log.warning("the template does not work and is made anew: %s", reason)
            self.state = f"none: the last one did not work ({reason})"
            self._failed_at = time.monotonic()
            self._drop()
            await blocking.run(self._store.discard, template.key)

    def _drop(self) -> None:
        if self._template is not None:
            self._template.close()
            self._template = None

    async def _renew(self, template: Template) -> None:
        try:
            renewed = await blocking.run(template.renewed)
        except (HyperError, OSError) as error:
            _log.warning("the template's memory cannot be slimmed: %s", error)
            return
        if self._template is template:
            self._template = renewed
            template.close()
        else:
            renewed.close()

    def _built(self, task: asyncio.Task[None]) -> None:
        self._building = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed_at = time.monotonic()
            reason = error.message if isinstance(error, HyperError) else repr(error)
            self.state = f"none: {reason}"
            _log.warning("no template, so sandboxes are booted: %s", reason)
        elif self._template is not None:
            self.on_ready()

    async def _obtain(self, key: str, shape: Shape) -> None:
        try:
            template = await blocking.run(self._store.load, key, shape)
            how = "loaded"
        except (NotFound, DataLoss) as error:
            if isinstance(error, DataLoss):
                _log.warning("%s; it is made anew", error.message)
                await blocking.run(self._store.discard, key)
            self.state = "being made"
            began = time.monotonic()
            template = await self._build(key, shape)
            how = f"made in {time.monotonic() - began:.1f} s"
            try:
                await blocking.run(self._store.save, template)
            except HyperError as failed:
                how += ", not kept on disk"
                _log.warning("the next start has to make the template again: %s", failed.message)
        self._template = template
        self.state = f"{key[:12]}, {template.used_bytes >> 20} MiB, {how}"
        _log.info("there is a template", extra={"template": key[:12], "how": how})

    async def _build(self, key: str, shape: Shape) -> Template:
        memory = memory_files.create(MEMORY, shape.size.memory_bytes)
        state = memory_files.create(STATE, 0)
        try:
            sandbox = await self._maker.make(shape, "cold", MemoryFile(memory, shared=True))
            try:
                sandbox.vmm.defer(True)
                if not isinstance(sandbox.vmm, Savable):
                    raise Unsupported("this hypervisor cannot save a machine")
                await self._prepare(sandbox)
                version = sandbox.agent.version
                await sandbox.agent.release()
                await sandbox.vmm.save(state)
            finally:
                await sandbox.destroy(graceful=False)
            await _seal(memory)
            await _seal(state)
            parts = await blocking.run(memory_files.extents, memory)
        except BaseException:
            os.close(memory)
            os.close(state)
            raise
        return Template(key, shape, memory, state, tuple(parts), version)

    async def _key(self, shape: Shape, info: HypervisorInfo) -> str:
        words = [self._hypervisor.template_key(self._maker.likeness(shape), info)]
        words += [await self._digest(shape.image.kernel), await self._digest(shape.image.initrd)]
        return hashlib.sha256("\0".join(words).encode()).hexdigest()

    async def _digest(self, path: Path) -> str:
        status = os.stat(path)
        known = (str(path), status.st_mtime_ns, status.st_size)
        if known not in self._digests:
            self._digests[known] = await blocking.run(_sha256, path)
        return self._digests[known]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _seal(fd: int) -> None:
    """The VMM has ended, but the kernel may still be taking its mappings apart."""
    for _ in range(_SEAL_TRIES):
        try:
            memory_files.seal(fd)
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        await asyncio.sleep(_SEAL_PAUSE_S)
    memory_files.seal(fd)
