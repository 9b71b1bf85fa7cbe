"""Blobs on their way in: one download each, however many pulls want it, verified before anybody gets it.

A transfer runs as long as somebody waits for it. Its file lies in scratch space of its own until the last holder lets
go; whoever needs it for an image gives it its final name before that. Neighbours: ``registry/download.py``,
``content.py``, ``pull.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hyper.errors import DataLoss
from hyper.images.content import ContentStore, Spooled
from hyper.images.intake import consume
from hyper.images.limits import Budget, ImageLimits
from hyper.images.registry.download import blob_chunks
from hyper.images.registry.repository import Repository
from hyper.images.registry.settings import RegistrySettings
from hyper.oci.descriptor import Descriptor
from hyper.system import blocking

_VERIFY_ATTEMPTS = 3
"""A line that corrupts bytes may not do so the next time."""


@dataclass(frozen=True)
class Downloading:
    """How far one blob is. ``retry_s``: when not 0, how long until the next try."""

    done_bytes: int
    retry_s: float = 0.0


Watch = Callable[[Downloading], None]


@dataclass
class _Transfer:
    task: asyncio.Task[Spooled]
    resources: AsyncExitStack
    watchers: list[Watch] = field(default_factory=list)
    holders: int = 0


class Transfers:
    """Of one daemon. For the event loop's thread."""

    def __init__(self, content: ContentStore, limits: ImageLimits, settings: RegistrySettings) -> None:
        self._content = content
        self._limits = limits
        self._settings = settings
        self._slots = asyncio.Semaphore(max(1, settings.downloads))
        self._running: dict[str, _Transfer] = {}

    @property
    def slots_free(self) -> bool:
        """Whether a download that begins now would not have to wait."""
        return not self._slots.locked()

    @asynccontextmanager
    async def blob(self, repository: Repository, wanted: Descriptor, watch: Watch) -> AsyncIterator[Spooled]:
        """The verified blob, for as long as the block lasts. A cancelled caller leaves; the last one ends the transfer.

        RegistryFailure, DataLoss (digest or size), ResourceExhausted (no space)."""
        # Sizes are part of the key: a manifest that lies about one must not fail those that do not.
        key = f"{wanted.digest}/{wanted.size}"
        transfer = self._running.get(key)
        if transfer is None:
            transfer = self._running[key] = self._start(key, repository, wanted)
        transfer.holders += 1
        transfer.watchers.append(watch)
        try:
            await asyncio.wait({transfer.task})
            yield transfer.task.result()
        finally:
            transfer.watchers.remove(watch)
            transfer.holders -= 1
            if not transfer.holders:
                if self._running.get(key) is transfer:
                    del self._running[key]
                await _to_the_end(self._end(transfer))

    def _start(self, key: str, repository: Repository, wanted: Descriptor) -> _Transfer:
        resources = AsyncExitStack()

        def report(state: Downloading) -> None:
            for watch in tuple(transfer.watchers):
                watch(state)

        def forget(task: asyncio.Task[Spooled]) -> None:
            # Who comes later than a failure tries anew.
            failed = task.cancelled() or task.exception() is not None
            if failed and self._running.get(key) is transfer:
                del self._running[key]

        task = asyncio.create_task(
            self._fetch(repository, wanted, resources, report), name=f"blob {wanted.digest[:19]}"
        )
        transfer = _Transfer(task, resources)
        task.add_done_callback(forget)
        return transfer

    @staticmethod
    async def _end(transfer: _Transfer) -> None:
        transfer.task.cancel()
        await asyncio.gather(transfer.task, return_exceptions=True)
        await transfer.resources.aclose()

    async def _fetch(
        self, repository: Repository, wanted: Descriptor, resources: AsyncExitStack, report: Watch
    ) -> Spooled:
        scratch = self._content.scratch()
        folder = scratch.__enter__()
        resources.push_async_callback(blocking.run, scratch.__exit__, None, None, None)
        async with self._slots:
            for _ in range(_VERIFY_ATTEMPTS):
                spooled = await self._once(repository, wanted, folder, report)
                if spooled.digest == wanted.digest:
                    return spooled
                await blocking.run(spooled.path.unlink)
        raise DataLoss(
            f"filesystem layer verification failed for digest {wanted.digest}: what the registry sends is damaged "
            f"({_VERIFY_ATTEMPTS} tries)"
        )

    async def _once(self, repository: Repository, wanted: Descriptor, folder: Path, report: Watch) -> Spooled:
        """Whatever the registry sends, in a file."""
        budget = Budget(self._limits, self._content.root)
        budget.check_free()
        done = 0

        async def counted() -> AsyncGenerator[bytes, None]:
            nonlocal done
            chunks = blob_chunks(
                repository, wanted, self._settings, waiting=lambda delay_s: report(Downloading(done, delay_s))
            )
            async with aclosing(chunks):
                async for chunk in chunks:
                    done += len(chunk)
                    report(Downloading(done))
                    yield chunk

        report(Downloading(0))
        async with aclosing(counted()) as stream:
            return await consume(stream, lambda chunks: self._content.spool(chunks, folder, budget), budget)


async def _to_the_end(work: Coroutine[None, None, None]) -> None:
    """Also when the caller is cancelled meanwhile: whoever has left has left no files."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
