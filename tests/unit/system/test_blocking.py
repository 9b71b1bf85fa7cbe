"""Blocking calls whose result must not be lost."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hyper.system import blocking


async def test_the_result_comes_and_nothing_is_undone() -> None:
    undone: list[int] = []
    assert await blocking.run_or_undo(undone.append, lambda: 7) == 7
    assert undone == []


async def test_an_error_comes_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        await blocking.run_or_undo(print, lambda: 1 // 0)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_caller_waits_for_the_end_and_undoes(fails: bool) -> None:
    started, may_end = threading.Event(), threading.Event()
    undone: list[int] = []

    def work() -> int:
        started.set()
        may_end.wait()
        return 1 // 0 if fails else 7

    task = asyncio.create_task(blocking.run_or_undo(undone.append, work))
    await asyncio.to_thread(started.wait)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done() and undone == []
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == ([] if fails else [7])
