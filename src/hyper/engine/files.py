"""Use cases on the files of containers: look, copy in and out, differences, export. Implements
:class:`hyper.engine.api.Files`.

The work is done in the guest: in the container's own sandbox while it runs, by a caretaker when it does not. The host
passes archives on and opens nothing of them. Neighbours: ``caretakers.py``, :mod:`hyper.guest.files`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Literal

import msgspec

from hyper.engine.caretakers import Caretakers
from hyper.engine.events import EventLog
from hyper.engine.managed import Managed
from hyper.engine.model import PathChange, PathStat
from hyper.engine.registry import ContainerRegistry
from hyper.engine.run import Run
from hyper.errors import InvalidArgument, NotFound, PermissionDenied, ResourceExhausted, Unavailable
from hyper.guest.files import GuestFiles
from hyper.guest.messages import FilePlace
from hyper.images.intake import decompressed_stream

MAX_CHANGES_BYTES = 256 << 20
"""Of a container's list of changes: about two million paths."""

_KINDS: dict[str, Literal["changed", "added", "deleted"]] = {"C": "changed", "A": "added", "D": "deleted"}


class FileUseCases:
    def __init__(self, registry: ContainerRegistry, caretakers: Caretakers, events: EventLog) -> None:
        self._registry = registry
        self._caretakers = caretakers
        self._events = events

    async def stat(self, reference: str, path: str) -> PathStat:
        managed = self._registry.find(reference)
        async with await self._files(managed) as files:
            return await _stat(files, reference, path)

    async def read(self, reference: str, path: str) -> tuple[PathStat, AsyncGenerator[bytes, None]]:
        managed = self._registry.find(reference)
        # Told before the archive begins, which is why this looks first.
        async with await self._files(managed) as files:
            stat = await _stat(files, reference, path)
        self._events.of_container(managed.snapshot, "archive-path")
        return stat, self._out(managed, path)

    async def _out(self, managed: Managed, path: str | None) -> AsyncGenerator[bytes, None]:
        """An archive of ``path``; None: of the whole root file system."""
        async with (
            await self._files(managed) as files,
            aclosing(files.export() if path is None else files.read(path)) as pieces,
        ):
            async for piece in pieces:
                yield piece

    async def write(
        self, reference: str, path: str, stream: AsyncIterator[bytes], *, keep_kinds: bool, as_user: bool
    ) -> None:
        managed = self._registry.find(reference)
        config = managed.snapshot.config
        async with await self._files(managed) as files:
            if config.readonly_rootfs:
                await _stat(files, reference, path)
                raise PermissionDenied("container rootfs is marked read-only")
            owner = config.user if as_user and config.user else None
            try:
                async with aclosing(decompressed_stream(stream, "the archive")) as plain:
                    await files.write(path, plain, keep_kinds=keep_kinds, owner=owner)
            except NotFound as error:
                raise _not_found(reference, path) from error
        self._events.of_container(managed.snapshot, "extract-to-dir")

    async def changes(self, reference: str) -> list[PathChange]:
        managed = self._registry.find(reference)
        listed = bytearray()
        async with await self._files(managed) as files, aclosing(files.changes()) as pieces:
            async for piece in pieces:
                listed += piece
                if len(listed) > MAX_CHANGES_BYTES:
                    raise ResourceExhausted(
                        f"container {reference} has more changes than can be listed ({MAX_CHANGES_BYTES >> 20} MiB)"
                    )
        return [_change(line) for line in bytes(listed).split(b"\0") if line]

    async def export(self, reference: str) -> AsyncGenerator[bytes, None]:
        managed = self._registry.find(reference)
        self._events.of_container(managed.snapshot, "export")
        return self._out(managed, None)

    async def layer(self, managed: Managed) -> AsyncGenerator[bytes, None]:
        """What the container has changed, as the tar of an image's layer."""

        async def pieces() -> AsyncGenerator[bytes, None]:
            async with await self._files(managed) as files, aclosing(files.layer()) as layer:
                async for piece in layer:
                    yield piece

        return pieces()

    async def _files(self, managed: Managed) -> AbstractAsyncContextManager[GuestFiles]:
        """Where its files are to be had just now, to be entered at once."""
        while True:
            async with managed.lock:
                if managed.removed or managed.removing:
                    raise NotFound(f"No such container: {managed.id}")
                run = managed.run
                if run is not None and not run.ending:
                    return _of_run(run)
                if run is None:
                    if managed.teardown is not None:
                        await asyncio.shield(managed.teardown)
                    return await self._caretakers.take(managed)
            await managed.wait("not-running")


@asynccontextmanager
async def _of_run(run: Run) -> AsyncIterator[GuestFiles]:
    """A run's sandbox, which is kept a while after its end for those who are at it."""
    done = asyncio.Event()

    async def busy() -> None:
        await done.wait()

    task = asyncio.create_task(busy())
    run.exec_tasks.add(task)
    try:
        yield GuestFiles(run.sandbox.agent, FilePlace(container=run.container_id))
    finally:
        done.set()
        run.exec_tasks.discard(task)


async def _stat(files: GuestFiles, reference: str, path: str) -> PathStat:
    if "\0" in path:
        raise InvalidArgument("a path cannot contain a zero byte")
    try:
        found = await files.stat(path)
    except NotFound as error:
        raise _not_found(reference, path) from error
    return msgspec.convert(found, PathStat, from_attributes=True)


def _not_found(reference: str, path: str) -> NotFound:
    return NotFound(f"Could not find the file {path} in container {reference}")


def _change(line: bytes) -> PathChange:
    kind = _KINDS.get(line[:1].decode("latin-1"))
    if kind is None:
        raise Unavailable("the guest's agent told of a change that is none")
    return PathChange(path=line[1:].decode(errors="replace"), kind=kind)
