"""Background tasks of the engine, all owned: none is lost, a failure is logged with its name, and closing waits for
them.

Two kinds: what the engine does by itself (:meth:`TaskSet.spawn`), and what a client asked for and must not be left
half done when that client hangs up (:meth:`TaskSet.carry_out`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from hyper.errors import HyperError

T = TypeVar("T")

_log = logging.getLogger(__name__)


class TaskSet:
    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_tell)
        return task

    async def carry_out(self, work: Coroutine[Any, Any, T], *, name: str) -> T:
        """The result of ``work``, which goes on to its end even when the caller is cancelled; only :meth:`cancel` ends
        it. As in Docker's engine, a client that hangs up does not undo what it asked for."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_tell)  # nobody else will hear of it
            raise

    async def settle(self, *names: str, timeout_s: float) -> None:
        """Wait for the tasks whose names begin with one of these, and for those that they spawn; at most so long."""
        try:
            async with asyncio.timeout(timeout_s):
                while pending := [task for task in self._tasks if task.get_name().startswith(names)]:
                    await asyncio.wait(pending)
        except TimeoutError:
            _log.error("still busy after %g s: %s", timeout_s, ", ".join(task.get_name() for task in pending))

    async def cancel(self, *names: str) -> None:
        """End all of them, or those whose names begin with one of these."""
        tasks = [task for task in self._tasks if not names or task.get_name().startswith(names)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tell(task: asyncio.Task[Any]) -> None:
    if task.cancelled() or (error := task.exception()) is None:
        return
    if isinstance(error, HyperError):
        _log.warning("%s: %s", task.get_name(), error.message)
    else:
        _log.error("background task %s failed", task.get_name(), exc_info=error)
