"""What happened, kept for a while and told to whoever listens. Bounded: the last 1,024 events are kept, a listener
that falls 4,096 behind is cut off."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping

from hyper.engine.model import Container, Event

KEPT_EVENTS = 1024
LISTENER_EVENTS = 4096


class EventLog:
    """Implements :class:`hyper.engine.api.Events`."""

    def __init__(self) -> None:
        self._kept: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._listeners: set[asyncio.Queue[Event]] = set()

    def emit(self, type_: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        event = Event(type=type_, action=action, actor_id=actor_id, attributes=dict(attributes), time_ns=time.time_ns())
        self._kept.append(event)
        for queue in tuple(self._listeners):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._listeners.discard(queue)

    def of_container(self, container: Container, action: str, **attributes: str) -> None:
        """An event of a container, with the attributes that all of them have."""
        common = {**container.config.labels, "image": container.config.image, "name": container.name}
        self.emit("container", action, container.id, {**common, **attributes})

    def subscribe(self, *, since_ns: int, until_ns: int, accept: Callable[[Event], bool]) -> AsyncIterator[Event]:
        """Registered when this returns, so that nothing that happens after is missed; the caller must iterate it."""
        queue: asyncio.Queue[Event] = asyncio.Queue(LISTENER_EVENTS)
        past = [
            event
            for event in self._kept
            if since_ns and event.time_ns >= since_ns and (not until_ns or event.time_ns < until_ns)
        ]
        self._listeners.add(queue)
        return self._iterate(queue, past, until_ns, accept)

    async def _iterate(
        self, queue: asyncio.Queue[Event], past: list[Event], until_ns: int, accept: Callable[[Event], bool]
    ) -> AsyncIterator[Event]:
        try:
            for event in past:
                if accept(event):
                    yield event
            while queue in self._listeners or not queue.empty():
                remaining_s = (until_ns - time.time_ns()) / 1e9 if until_ns else None
                if remaining_s is not None and remaining_s <= 0:
                    return
                try:
                    event = await asyncio.wait_for(queue.get(), remaining_s)
                except TimeoutError:
                    return
                if accept(event):
                    yield event
        finally:
            self._listeners.discard(queue)
