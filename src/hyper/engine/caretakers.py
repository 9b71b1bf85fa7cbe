"""Caretakers: sandboxes that hold the disks of containers that do not run, so that their files can be read and written
without the host ever mounting what a guest wrote.

A container's caretaker is had when the first request comes and goes when none has come for a while, or at once when the
container is to be started or removed. It works for one container and does one thing at a time, because two mounts of a
writable layer would not see each other's changes. The next daemon ends those of a killed one like all sandboxes that no
container owns. Neighbours: ``files.py`` (uses them), ``lifecycle.py`` (has them let go of a disk before a start).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from hyper.engine.managed import Managed
from hyper.engine.starter import Starter
from hyper.engine.tasks import TaskSet
from hyper.errors import Conflict, HyperError, Unavailable
from hyper.guest.files import GuestFiles
from hyper.guest.messages import FilePlace, Rootfs
from hyper.sandboxes.source import Sandbox

IDLE_S = 10.0
"""How long one waits for another request: ``docker cp`` makes up to three."""
GRACE_S = 10.0
"""How long a start waits for a request that is under way."""
MOST = 8
"""At the same time; one that idles makes room."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Caretaker:
    sandbox: Sandbox
    rootfs: Rootfs
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.TimerHandle | None = None
    leaving: bool = False


class Caretakers:
    def __init__(self, starter: Starter, tasks: TaskSet) -> None:
        self._starter = starter
        self._tasks = tasks
        self._by_container: dict[str, _Caretaker] = {}

    async def take(self, managed: Managed) -> AbstractAsyncContextManager[GuestFiles]:
        """The files of a container that does not run, for one request; to be called with the container's lock held, so
        that it is not started meanwhile, and entered at once without it. Conflict when the container is started later
        and the request has not come to its end in time."""
        caretaker = await self._caretaker(managed)
        caretaker.users += 1
        caretaker.unused.clear()
        if caretaker.idle is not None:
            caretaker.idle.cancel()
        return self._use(managed, caretaker)

    @asynccontextmanager
    async def _use(self, managed: Managed, caretaker: _Caretaker) -> AsyncIterator[GuestFiles]:
        try:
            async with caretaker.turn:
                yield GuestFiles(caretaker.sandbox.agent, FilePlace(rootfs=caretaker.rootfs))
        except Unavailable as error:
            if not caretaker.leaving:
                raise
            raise Conflict(f"container {managed.id} was started or removed while its files were in use") from error
        finally:
            caretaker.users -= 1
            if not caretaker.users:
                caretaker.unused.set()
                self._idle_from_now_on(managed.id, caretaker)

    async def release(self, container_id: str) -> None:
        """The container's disks are free when this returns; requests under way have a few seconds to end."""
        caretaker = self._by_container.pop(container_id, None)
        if caretaker is None:
            return
        caretaker.leaving = True
        if caretaker.idle is not None:
            caretaker.idle.cancel()
        try:
            async with asyncio.timeout(GRACE_S):
                await caretaker.unused.wait()
        except TimeoutError:
            _log.warning("container %s: a request for its files is broken off", container_id[:12])
        # Whatever was written is durable and unmounted: each request ends with that.
        await caretaker.sandbox.destroy(graceful=caretaker.users > 0)

    async def close(self) -> None:
        """End all of them; what they are doing is broken off."""
        for caretaker in self._by_container.values():
            caretaker.unused.set()
        await asyncio.gather(*(self.release(container_id) for container_id in list(self._by_container)))

    async def _caretaker(self, managed: Managed) -> _Caretaker:
        known = self._by_container.get(managed.id)
        if known is not None:
            if known.sandbox.agent.lost is None:
                return known
            await self.release(managed.id)
        await self._make_room()
        return await self._tasks.carry_out(self._make(managed), name=f"request: caretaker {managed.id[:12]}")

    async def _make(self, managed: Managed) -> _Caretaker:
        sandbox, rootfs = await self._starter.attend(managed.snapshot)
        caretaker = self._by_container[managed.id] = _Caretaker(sandbox, rootfs)
        caretaker.unused.set()
        self._idle_from_now_on(managed.id, caretaker)
        return caretaker

    async def _make_room(self) -> None:
        idle = [container_id for container_id, one in self._by_container.items() if not one.users]
        while len(self._by_container) >= MOST:
            if not idle:
                raise Unavailable(f"the files of {MOST} stopped containers are in use already: try again later")
            await self.release(idle.pop(0))

    def _idle_from_now_on(self, container_id: str, caretaker: _Caretaker) -> None:
        if caretaker.leaving:
            return

        def leave() -> None:
            if not caretaker.users and self._by_container.get(container_id) is caretaker:
                self._tasks.spawn(self._leave(container_id), name=f"caretaker of {container_id[:12]}")

        caretaker.idle = asyncio.get_running_loop().call_later(IDLE_S, leave)

    async def _leave(self, container_id: str) -> None:
        try:
            await self.release(container_id)
        except HyperError as error:
            _log.error("container %s: its caretaker could not be ended: %s", container_id[:12], error)
