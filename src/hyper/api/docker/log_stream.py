"""``GET /containers/{id}/logs``: the engine's entries as the bytes that clients expect."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from hyper.api.docker import framing
from hyper.api.docker.times import rfc3339_nano_fixed
from hyper.engine.model import LogEntry


async def encode(
    entries: AsyncIterator[LogEntry], *, multiplexed: bool, timestamps: bool, details: bool
) -> AsyncGenerator[bytes, None]:
    """``details`` puts the log driver's attributes before each line; json-file without its options has none, and
    Docker still
    writes the space behind them."""
    try:
        async for entry in entries:
            data = entry.data
            if details:
                data = b" " + data
            if timestamps:
                data = rfc3339_nano_fixed(entry.time_ns).encode() + b" " + data
            yield framing.header(entry.stream, len(data)) + data if multiplexed else data
    finally:
        if isinstance(entries, AsyncGenerator):
            await entries.aclose()


def tail_of(text: str) -> int | None:
    """ "all", "" and what is no number mean everything, as with Docker."""
    try:
        number = int(text)
    except ValueError:
        return None
    return number if number >= 0 else None
