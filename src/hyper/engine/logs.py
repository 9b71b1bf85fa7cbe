"""Reading a container's log: ``docker logs`` and the history that ``attach?logs=1`` shows. Neighbour: ``log_file.py``.

A follower reads the file itself, not the stream: it needs no queue, so it can neither hold the container up nor take
memory, and it sees exactly
what is kept. It looks for more every 50 ms.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from hyper.engine.api import OutputChunk
from hyper.engine.layout import Layout
from hyper.engine.log_file import read_entries, tail_position
from hyper.engine.managed import Managed
from hyper.engine.model import LogEntry
from hyper.system import blocking

_BATCH_BYTES = 1 << 20
_FOLLOW_S = 0.05


async def read(
    managed: Managed,
    layout: Layout,
    *,
    streams: frozenset[str],
    follow: bool,
    since_ns: int,
    until_ns: int,
    tail: int | None,
) -> AsyncIterator[LogEntry]:
    """Entries in the order they were written."""
    path = layout.log(managed.id)
    position = 0 if tail is None else await blocking.run(tail_position, path, tail, streams)
    while True:
        # Looked at before reading: what a run wrote before it ended is read in this round.
        run = managed.run
        live = managed.state.live and run is not None
        while batch := await blocking.run(_batch, path, position):
            position = batch[-1][0]
            for _, entry in batch:
                if until_ns and entry.time_ns > until_ns:
                    return
                if entry.stream in streams and entry.time_ns >= since_ns:
                    yield entry
        if not follow or not live or run is None or managed.removed or (until_ns and time.time_ns() > until_ns):
            return
        await asyncio.wait({run.ended}, timeout=_FOLLOW_S)


def _batch(path: Path, position: int) -> list[tuple[int, LogEntry]]:
    """What follows, at most about a megabyte of it."""
    batch: list[tuple[int, LogEntry]] = []
    size_bytes = 0
    for item in read_entries(path, position):
        batch.append(item)
        size_bytes += len(item[1].data) + 64
        if size_bytes >= _BATCH_BYTES:
            break
    return batch


def history(managed: Managed, layout: Layout, streams: frozenset[str]) -> AsyncIterator[OutputChunk]:
    """All output up to this call, including text that waits for its newline; read as it is taken."""
    path = layout.log(managed.id)
    end = path.stat().st_size if path.exists() else 0
    pending: list[OutputChunk] = []
    if managed.run is not None:
        log = managed.run.log
        if "stdout" in streams and (text := log.pending("stdout")):
            pending.append(("stdout", text))
        if "stderr" in streams and (text := log.pending("stderr")):
            pending.append(("stderr", text))
    return _history(path, end, streams, pending)


async def _history(
    path: Path, end: int, streams: frozenset[str], pending: Sequence[OutputChunk]
) -> AsyncIterator[OutputChunk]:
    position = 0
    while position < end and (batch := await blocking.run(_batch, path, position)):
        for position, entry in batch:
            if position > end:
                break
            if entry.stream in streams:
                yield entry.stream, entry.data
    for chunk in pending:
        yield chunk
