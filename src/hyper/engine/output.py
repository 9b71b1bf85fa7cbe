"""One process's output, given to any number of attached clients, and its stdin, taken from them.

A client that does not read holds the process up once its queue (1 MiB) is full, as with Docker's own engine; it
never holds up another
process. When the process has ended, what is left (bounded by the agent's buffers) is queued without waiting, so that a
stalled client cannot delay the exit. Neighbours: ``run.py`` feeds it, ``attachment.py`` is a client's end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Literal

from hyper.guest.streams import InputStream

StreamName = Literal["stdout", "stderr"]
QUEUE_BYTES = 1 << 20


class Subscription:
    """One client's queue. Iterate to take; :meth:`cancel` to leave."""

    def __init__(self, streams: frozenset[str]) -> None:
        self.streams = streams
        self._chunks: deque[tuple[StreamName, bytes]] = deque()
        self._bytes = 0
        self._ended = False
        self._bounded = True
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def put(self, stream: StreamName, data: bytes) -> None:
        """Queue ``data``, once there is room, the client has left, or :meth:`unbind`."""
        while self._bounded and self._bytes >= QUEUE_BYTES and not self._ended:
            self._room.clear()
            await self._room.wait()
        if not self._ended:
            self._chunks.append((stream, data))
            self._bytes += len(data)
            self._changed.set()

    def unbind(self) -> None:
        """From now on, queue without waiting."""
        self._bounded = False
        self._room.set()

    def end(self) -> None:
        """Nothing more will come; what is queued can still be taken."""
        self._ended = True
        self._changed.set()
        self._room.set()

    def cancel(self) -> None:
        """The client has left: drop what is queued, never hold the process up again."""
        self._chunks.clear()
        self._bytes = 0
        self.end()

    async def take(self) -> AsyncIterator[tuple[StreamName, bytes]]:
        """All chunks in order until the end."""
        while True:
            while self._chunks:
                stream, data = self._chunks.popleft()
                self._bytes -= len(data)
                if self._bytes < QUEUE_BYTES:
                    self._room.set()
                yield stream, data
            if self._ended:
                return
            self._changed.clear()
            await self._changed.wait()


class OutputHub:
    """The streams of one run of a process; clients may come before it starts."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._bounded = True
        self._ended = False
        self.input: asyncio.Future[InputStream | None] = asyncio.get_running_loop().create_future()
        """The process's stdin once it has started; None when it has none."""
        self._ending_input: asyncio.Task[None] | None = None

    def end_input(self) -> None:
        """End the process's stdin, or, before it has started, see to it that it finds it ended."""
        if self._ending_input is None and not self._ended:
            self._ending_input = asyncio.create_task(self._end_input(), name="end stdin")

    async def _end_input(self) -> None:
        stream = await asyncio.shield(self.input)
        if stream is not None:
            await stream.finish()

    def subscribe(self, streams: frozenset[str]) -> Subscription:
        subscription = Subscription(streams)
        if self._ended:
            subscription.end()
        else:
            if not self._bounded:
                subscription.unbind()
            self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        subscription.cancel()
        self._subscriptions.discard(subscription)

    async def publish(self, stream: StreamName, data: bytes) -> None:
        """To every client that wants this stream; waits for slow ones until :meth:`stop_waiting`."""
        for subscription in tuple(self._subscriptions):
            if stream in subscription.streams:
                await subscription.put(stream, data)

    def stop_waiting(self) -> None:
        """The process is gone: the rest is queued at once, and nobody waits for a stalled client any more."""
        self._bounded = False
        for subscription in self._subscriptions:
            subscription.unbind()

    def end(self) -> None:
        """No more output."""
        self._ended = True
        for subscription in self._subscriptions:
            subscription.end()
        self._subscriptions.clear()
        if self._ending_input is not None:
            self._ending_input.cancel()
        if not self.input.done():
            self.input.set_result(None)
