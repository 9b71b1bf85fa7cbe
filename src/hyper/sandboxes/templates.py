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
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from hyper.errors import DataLoss, DeadlineExceeded, HyperError, NotFound, Unavailable, Unsupported
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
_FAILURES = 3
"""So many clones in a row that do not come up are the template's fault, fewer may be the host's."""
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
        self._renewing: asyncio.Task[None] | None = None
        self._failures = 0
        self._digests: dict[tuple[str, int, int], str] = {}
        self._failed_at = -_RETRY_S
        self.state = "none yet"
        self.on_ready: Callable[[], None] = lambda: None

    async def current(self, shape: Shape, info: HypervisorInfo) -> Template | None:
        """The template of this shape, if there is one now; else one is begun to be made behind this."""
        try:
            key = await self._key(shape, info)
        except OSError as error:
            self.state = f"none: what it depends on cannot be read ({error})"
            return None
        template = self._template
        if template is not None and template.key == key:
            if template.is_fat and self._renewing is None:
                self._renewing = asyncio.create_task(self._renew(template), name="slim template")
            return template
        if self._building is None and time.monotonic() - self._failed_at >= _RETRY_S:
            if template is not None:
                _log.info("the template is of another kernel, agent, QEMU or machine: it is made anew")
                self._drop()
            self._building = asyncio.create_task(self._obtain(key, shape), name="template")
            self._building.add_done_callback(self._built)
        return None

    async def close(self) -> None:
        tasks = [task for task in (self._building, self._renewing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._drop()

    @asynccontextmanager
    async def trial(self, template: Template) -> AsyncIterator[None]:
        """Around a clone's coming up. When its state is refused, or some in a row do not come up, another template is
        made, after a while."""
        try:
            yield
        except (DataLoss, Unavailable, DeadlineExceeded) as error:
            await self._failed(template, error)
            raise
        self._failures = 0

    async def _failed(self, template: Template, error: HyperError) -> None:
        if self._template is not template:
            return
        self._failures += 1
        if self._failures >= _FAILURES or isinstance(error, DataLoss):
            _log.warning("the template does not work and is made anew: %s", error.message)
            self.state = f"none: the last one did not work ({error.message})"
            self._failed_at = time.monotonic()
            self._drop()
            await blocking.run(self._store.discard, template.key)

    def _drop(self) -> None:
        if self._template is not None:
            self._template.close()
            self._template = None

    async def _renew(self, template: Template) -> None:
        try:
            renewed = await template.renewed()
        except (HyperError, OSError) as error:
            _log.warning("the template's memory cannot be slimmed: %s", error)
            return
        finally:
            self._renewing = None
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

    async def _obtain(self, key: str, shape: Shape) -> None:
        try:
            template = await blocking.run_or_undo(Template.close, self._store.load, key, shape)
        except (NotFound, DataLoss) as error:
            if isinstance(error, DataLoss):
                _log.warning("%s; it is made anew", error.message)
                await blocking.run(self._store.discard, key)
            self.state = "being made"
            began = time.monotonic()
            template = await self._build(key, shape)
            self._have(template, f"made in {time.monotonic() - began:.1f} s")
            await self._keep(template)
        else:
            self._have(template, "loaded")

    def _have(self, template: Template, how: str) -> None:
        self._template = template
        self._failures = 0
        self.state = f"{template.key[:12]}, {template.used_bytes >> 20} MiB, {how}"
        _log.info("there is a template", extra={"template": template.key[:12], "how": how})
        self.on_ready()

    async def _keep(self, template: Template) -> None:
        try:
            with template.held() as held:
                await blocking.run_or_undo(lambda _: None, self._store.save, held)
        except HyperError as error:
            if self._template is template:
                self.state += f", not kept on disk ({error.message})"
            _log.warning("the next start has to make the template again: %s", error.message)
        else:
            if self._template is not template:  # refused meanwhile
                await blocking.run(self._store.discard, template.key)

    async def _build(self, key: str, shape: Shape) -> Template:
        with ExitStack() as undo:
            memory = memory_files.create(MEMORY, shape.size.memory_bytes)
            undo.callback(os.close, memory)
            state = memory_files.create(STATE, 0)
            undo.callback(os.close, state)
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
            parts = await blocking.run_or_undo(lambda _: None, memory_files.extents, memory)
            undo.pop_all()
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
