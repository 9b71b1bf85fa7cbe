"""The one gate for blocking calls: a bounded pool of threads, so that the event loop is never held up.

Everything that may take longer than about 5 ms (hashing, big files, fsync) goes through :func:`run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 16
_pool = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="blocking")


async def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``function`` in a thread and wait for it. A cancelled caller does not stop the thread: pass a stop flag if
    it must."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_pool, lambda: function(*args, **kwargs))


async def run_alone(function: Callable[[], T]) -> T:
    """The same in a thread of its own, which ends with ``function``: for what changes the thread itself (its
    namespaces)."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(set_: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(lambda: None if done.cancelled() else set_())

    def body() -> None:
        try:
            result = function()
        except BaseException as error:
            failure = error
            tell(lambda: done.set_exception(failure))
        else:
            tell(lambda: done.set_result(result))

    threading.Thread(target=body, name="blocking-alone").start()
    return await done


async def run_or_undo(undo: Callable[[T], object], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same for what makes something that must not be lost, or uses what its caller frees afterwards: a cancelled
    caller waits for the thread's end, and what it made is given to ``undo``."""
    running = asyncio.ensure_future(run(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((running,))
        if not running.cancelled() and running.exception() is None:
            undo(running.result())
        raise
