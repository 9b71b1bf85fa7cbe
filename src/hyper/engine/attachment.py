"""A client's end of a process's streams: what ``attach``, ``run -i`` and ``exec`` hand to a door. Neighbour:
``output.py``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from hyper.engine.api import OutputChunk
from hyper.engine.output import OutputHub, Subscription
from hyper.errors import Unavailable


class HubAttachment:
    """Implements :class:`hyper.engine.api.Attachment` over an :class:`OutputHub`."""

    def __init__(
        self,
        hub: OutputHub,
        *,
        tty: bool,
        stdin: bool,
        streams: frozenset[str],
        history: AsyncIterator[OutputChunk] | None = None,
        end_stdin_with_client: bool,
    ) -> None:
        """``history``: what came before the hub's next chunk."""
        self._hub = hub
        self._tty = tty
        self._stdin = stdin
        self._history = history
        self._end_stdin = end_stdin_with_client
        self._subscription: Subscription = hub.subscribe(streams)
        self._closed = False

    @property
    def tty(self) -> bool:
        return self._tty

    async def output(self) -> AsyncIterator[OutputChunk]:
        if self._history is not None:
            async for chunk in self._history:
                yield chunk
        async for chunk in self._subscription.take():
            yield chunk

    async def write(self, data: bytes) -> None:
        if not self._stdin:
            return
        # Shielded: a client that is cancelled here must not cancel the future for the process and all other clients.
        stream = await asyncio.shield(self._hub.input)
        if stream is None:
            return
        try:
            await stream.write(data)
        except (BrokenPipeError, Unavailable):
            self._stdin = False  # the process does not read any more, or is gone; its exit tells the client

    async def finish(self) -> None:
        if self._stdin and self._end_stdin:
            self._stdin = False
            self._hub.end_input()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._hub.unsubscribe(self._subscription)
        if self._stdin and self._end_stdin and not self._tty:
            # As Docker: a client that vanishes ends the stdin that is its own, also of a process that starts later.
            self._hub.end_input()
