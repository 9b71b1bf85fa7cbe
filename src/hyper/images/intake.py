"""From the event loop to a worker thread: a byte stream that arrives asynchronously, read synchronously, with a
bounded buffer.

Neighbours: ``store.py`` (load, import), ``archives.py`` (runs in the worker).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from hyper.errors import Unavailable
from hyper.images.compression import decompressed, is_compressed
from hyper.images.limits import Budget, ImageLimits
from hyper.system import blocking

T = TypeVar("T")
_BUFFER_BYTES = 8 << 20
_CHUNK_BYTES = 1 << 20
_MAGIC_BYTES = 6


class _Intake:
    """At most 8 MiB wait here; the sender is held up beyond that."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._ended = False
        self._broken = False

    async def put(self, chunk: bytes) -> None:
        with self._changed:
            self._waiting.append(chunk)
            self._waiting_bytes += len(chunk)
            full = self._waiting_bytes >= _BUFFER_BYTES
            self._changed.notify()
            if full:
                self._room.clear()
        if full:
            await self._room.wait()

    def end(self, *, broken: bool) -> None:
        with self._changed:
            self._ended = True
            self._broken = self._broken or broken
            self._changed.notify()

    def chunks(self) -> Iterator[bytes]:
        """In the worker. Small chunks are joined, so that the work per chunk does not count."""
        while True:
            with self._changed:
                while not self._waiting and not self._ended:
                    self._changed.wait()
                if self._broken:
                    raise Unavailable("the transfer was broken off before its end; nothing was changed")
                taken, self._waiting = self._waiting, []
                self._waiting_bytes = 0
            if not taken:
                return
            self._loop.call_soon_threadsafe(self._room.set)
            joined: list[bytes] = []
            joined_bytes = 0
            for chunk in taken:
                if joined and joined_bytes + len(chunk) > _CHUNK_BYTES:
                    yield b"".join(joined)
                    joined, joined_bytes = [], 0
                joined.append(chunk)
                joined_bytes += len(chunk)
            if joined_bytes:
                yield joined[0] if len(joined) == 1 else b"".join(joined)


async def consume(stream: AsyncIterator[bytes], work: Callable[[Iterator[bytes]], T], budget: Budget) -> T:
    """Run ``work`` on the bytes of ``stream`` in a worker thread; returns when the thread has ended, however it ends.

    When the stream fails or the caller is cancelled, ``work`` sees Unavailable at its next step. When ``work`` ends
    early, the rest of the stream is not read.
    """
    intake = _Intake()
    worker = asyncio.ensure_future(blocking.run(work, intake.chunks()))

    async def pump() -> None:
        async for chunk in stream:
            if chunk:
                await intake.put(bytes(chunk))

    pumping = asyncio.ensure_future(pump())
    try:
        await asyncio.wait({worker, pumping}, return_when=asyncio.FIRST_COMPLETED)
        if not worker.done():
            intake.end(broken=pumping.exception() is not None)
            await asyncio.wait({worker})
    except asyncio.CancelledError:
        budget.stop()
        raise
    finally:
        pumping.cancel()
        intake.end(broken=not worker.done())
        await asyncio.wait({pumping})
        while not worker.done():
            try:
                await asyncio.wait({worker})
            except asyncio.CancelledError:
                continue
        for task in (worker, pumping):  # whoever is cancelled does not ask how these ended
            if not task.cancelled():
                task.exception()
    if not pumping.cancelled() and (failure := pumping.exception()) is not None:
        raise failure
    return worker.result()


async def decompressed_stream(stream: AsyncIterator[bytes], what: str) -> AsyncGenerator[bytes, None]:
    """The same bytes, uncompressed if they are gzip, zstd, xz or bzip2. DataLoss for what is damaged, ResourceExhausted
    for a bomb."""
    head = b""
    while len(head) < _MAGIC_BYTES and (piece := await anext(stream, None)) is not None:
        head += piece
    if not is_compressed(head):
        if head:
            yield head
        async for piece in stream:
            yield piece
        return
    loop = asyncio.get_running_loop()
    asked: list[concurrent.futures.Future[bytes | None]] = []

    async def following() -> bytes | None:
        return await anext(stream, None)

    def pieces() -> Iterator[bytes]:
        yield head
        while True:
            asked[:] = [asyncio.run_coroutine_threadsafe(following(), loop)]
            piece = asked[0].result()
            if piece is None:
                return
            if piece:
                yield piece

    plain = decompressed(pieces(), Budget(ImageLimits(), Path("/")), what)
    try:
        while chunk := await blocking.run(next, plain, b""):
            yield chunk
    finally:
        for future in asked:
            future.cancel()  # a thread that waits for it ends


async def stoppable(work: Callable[[], T], budget: Budget) -> T:
    """Run ``work`` in a worker thread; a cancelled caller stops it by the budget and waits for it to have ended."""
    worker = asyncio.ensure_future(blocking.run(work))
    try:
        return await asyncio.shield(worker)
    except asyncio.CancelledError:
        budget.stop()
        while not worker.done():
            try:
                await asyncio.wait({worker})
            except asyncio.CancelledError:
                continue
        if not worker.cancelled():
            worker.exception()
        raise
