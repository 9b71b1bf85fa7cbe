"""A client's end of a process's streams: what ``attach``, ``run -i`` and ``exec`` hand to a door. Neighbour:
``output.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

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
        history: Sequence[OutputChunk] = (),
        end_stdin_with_client: bool,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._hub = hub
        self._tty = tty
        self._stdin = stdin
        self._history = history
        self._end_stdin = end_stdin_with_client
        self._on_close = on_close
        self._subscription: Subscription = hub.subscribe(streams)
        self._closed = False

    @property
    def tty(self) -> bool:
        return self._tty

    async def output(self) -> AsyncIterator[OutputChunk]:
        for chunk in self._history:
            yield chunk
        async for chunk in self._subscription.take():
            yield chunk

    async def write(self, data: bytes) -> None:
        if not self._stdin:
            return
        stream = await self._hub.input
        if stream is None:
            return
        try:
            await stream.write(data)
        except (BrokenPipeError, Unavailable):
            self._stdin = False  # the process does not read any more, or is gone; its exit tells the client

    async def finish(self) -> None:
        if not (self._stdin and self._end_stdin):
            return
        self._stdin = False
        stream = await self._hub.input
        if stream is not None:
            try:
                await stream.finish()
            except Unavailable:
                pass  # already gone, as above

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._hub.unsubscribe(self._subscription)
            self._on_close()
