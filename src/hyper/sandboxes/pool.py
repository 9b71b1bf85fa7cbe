"""Clones that wait for work: made, rehearsed and parked in the background, so that a start only has to take one.

Refilled one at a time behind running starts (their VMMs yield the processor to everybody until they are taken), given
up when the host runs short of memory, looked after: one that has died or no longer answers is replaced.

Neighbours: ``templates.py`` (what they are clones of), ``maker.py``, ``source.py`` (who takes them).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hyper.errors import HyperError
from hyper.sandboxes.supervisor import Sandbox

_log = logging.getLogger(__name__)
_CLONE_BYTES = 40 << 20
_CHECK_S = 5.0
_PING_EVERY_S = 60.0
_PING_S = 5.0
_RETRY_S = 10.0
_YIELD_S = 0.25
"""How long a refill waits for starts under way at the most: when they never cease, nothing else would fill the pool."""
_CALM_S = 0.1
"""How long it waits behind the last start: most of what is started has said its first words by then, or has ended."""
_LOW_SHARE, _PLENTY_SHARE = 0.10, 0.20
"""Of the host's memory: with less available than the first the pool is given up, with more than the second filled
again."""


@dataclass(frozen=True)
class PoolSettings:
    """How many to keep ready: of the ordinary kind, and of those whose memory other processes may share."""

    size: int
    shared_size: int = 0


def default_size(total_bytes: int) -> int:
    """A pool that takes about 1/64 of the host's memory, and at most 8 clones (at 40 MB each)."""
    return min(8, total_bytes // 64 // _CLONE_BYTES)


Make = Callable[[bool], Awaitable[Sandbox | None]]
"""A clone that is ready for use, of shared memory or not; None while there is no template."""


class Pool:
    """``make`` makes one; ``available_bytes`` and ``total_bytes`` tell of the host's memory."""

    def __init__(
        self,
        settings: PoolSettings,
        make: Make,
        *,
        available_bytes: Callable[[], int],
        total_bytes: Callable[[], int],
    ) -> None:
        self._wanted = {False: settings.size, True: settings.shared_size}
        self._ready: dict[bool, deque[Sandbox]] = {False: deque(), True: deque()}
        self._make = make
        self._available_bytes = available_bytes
        self._total_bytes = total_bytes
        self._short_of_memory = False
        self._no_room = False
        self._closed = False
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._starts = 0
        self._begun = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self.made = 0
        self.problem = ""

    @property
    def enabled(self) -> bool:
        return any(self._wanted.values())

    @property
    def ready(self) -> int:
        return sum(map(len, self._ready.values()))

    @property
    def wanted(self) -> int:
        return sum(self._wanted.values())

    def describe(self) -> str:
        """How full it is, in words."""
        if not self.enabled:
            return "switched off"
        words = f"{self.ready} of {self.wanted} ready"
        if self._short_of_memory:
            return f"{words}; given up while the host is short of memory"
        if self._no_room:
            return f"{words}; the host has not enough free memory for more"
        return f"{words}; {self.problem}" if self.problem else words

    def open(self) -> None:
        """Begin to fill; idempotent."""
        if self.enabled and not self._tasks and not self._closed:
            self._tasks = [
                asyncio.create_task(self._fill(), name="pool"),
                asyncio.create_task(self._look_after(), name="pool health"),
            ]

    async def close(self) -> None:
        """End all that nobody has taken."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self.drain()

    def take(self, *, shared: bool) -> Sandbox | None:
        """One that is ready, if there is one; it is the caller's."""
        ready = self._ready[shared]
        sandbox = ready.popleft() if ready else None
        if sandbox is not None:
            self._watchers.pop(sandbox.id).cancel()
        self.refill()
        return sandbox

    def refill(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def start_begins(self) -> None:
        self._starts += 1
        self._begun += 1
        self._idle.clear()

    def start_ends(self) -> None:
        self._starts -= 1
        if not self._starts:
            asyncio.get_running_loop().call_later(_CALM_S, self._calm, self._begun)

    def _calm(self, begun: int) -> None:
        if begun == self._begun:
            self._idle.set()

    async def drain(self) -> None:
        """End all that are ready."""
        sandboxes = [sandbox for ready in self._ready.values() for sandbox in ready]
        for ready in self._ready.values():
            ready.clear()
        await asyncio.gather(*(self._end(sandbox) for sandbox in sandboxes))

    async def _fill(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (shared := self._missing()) is not None:
                try:
                    async with asyncio.timeout(_YIELD_S):
                        await self._idle.wait()
                except TimeoutError:
                    pass
                try:
                    sandbox = await self._make(shared)
                except Exception as error:  # whatever it was, a daemon without a pool is not what was asked for
                    self.problem = error.message if isinstance(error, HyperError) else repr(error)
                    _log.warning("the pool could not be filled: %s", self.problem)
                    await asyncio.sleep(_RETRY_S)
                    continue
                if sandbox is None:
                    break  # no template: who makes it wakes us
                self.problem = ""
                self.made += 1
                self._ready[shared].append(sandbox)
                self._watchers[sandbox.id] = asyncio.create_task(self._watch(sandbox), name=f"pooled {sandbox.id[:12]}")

    def _missing(self) -> bool | None:
        """Which kind is missing; None when there is enough, or no memory for more."""
        self._no_room = False
        if self._short_of_memory:
            return None
        for shared, wanted in self._wanted.items():
            if len(self._ready[shared]) < wanted:
                if self._available_bytes() < self._total_bytes() * _PLENTY_SHARE:
                    self._no_room = True
                    return None
                return shared
        return None

    async def _watch(self, sandbox: Sandbox) -> None:
        """Until it ends by itself."""
        reason = await sandbox.wait()
        _log.warning("a sandbox in the pool has ended: %s", reason)
        self._watchers.pop(sandbox.id, None)
        for ready in self._ready.values():
            if sandbox in ready:
                ready.remove(sandbox)
        await sandbox.destroy(graceful=False)
        self.refill()

    async def _look_after(self) -> None:
        pinged = time.monotonic()
        while True:
            await asyncio.sleep(_CHECK_S)
            self._short_of_memory = self._available_bytes() < self._total_bytes() * _LOW_SHARE
            if self._short_of_memory and self.ready:
                _log.warning("the host is short of memory: the pool is given up for now")
                await self.drain()
            if time.monotonic() - pinged >= _PING_EVERY_S:
                pinged = time.monotonic()
                await self.check()
            self.refill()

    async def check(self) -> None:
        """Have every one answer, and end those that do not."""
        for ready in self._ready.values():
            for sandbox in tuple(ready):
                try:
                    await sandbox.agent.ping(timeout_s=_PING_S)
                except HyperError as error:
                    if sandbox in ready:
                        _log.warning("a sandbox in the pool does not answer: %s", error.message)
                        ready.remove(sandbox)
                        await self._end(sandbox)

    async def _end(self, sandbox: Sandbox) -> None:
        watcher = self._watchers.pop(sandbox.id, None)
        if watcher is not None:
            watcher.cancel()
        await sandbox.destroy(graceful=False)
