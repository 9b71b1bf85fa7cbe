"""Tasks that are owned: nothing is lost, nothing half done."""

from __future__ import annotations

import asyncio
import logging

import pytest

from hyper.engine.tasks import TaskSet
from hyper.errors import Conflict


async def test_what_is_carried_out_outlives_its_caller_and_a_failure_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = TaskSet()
    go_on, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go_on.wait()
        done.set()
        raise Conflict("it was not possible")

    caller = asyncio.create_task(tasks.carry_out(work(), name="request: x"))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert caller.cancelled()
    go_on.set()
    with caplog.at_level(logging.WARNING):
        await tasks.settle("request", timeout_s=5)
    assert done.is_set() and "it was not possible" in caplog.text


async def test_a_caller_that_stays_gets_the_result_or_the_error() -> None:
    tasks = TaskSet()

    async def work(fail: bool) -> int:
        if fail:
            raise Conflict("no")
        return 5

    assert await tasks.carry_out(work(False), name="a") == 5
    with pytest.raises(Conflict):
        await tasks.carry_out(work(True), name="b")


async def test_settle_waits_for_what_the_awaited_spawn_too_and_not_for_ever() -> None:
    tasks = TaskSet()
    told: list[str] = []

    async def second() -> None:
        await asyncio.sleep(0)
        told.append("second")

    async def first() -> None:
        tasks.spawn(second(), name="b")

    async def endless() -> None:
        await asyncio.Event().wait()

    tasks.spawn(first(), name="a")
    other = tasks.spawn(endless(), name="other")
    await tasks.settle("a", "b", timeout_s=5)
    assert told == ["second"] and not other.done()
    await tasks.settle("other", timeout_s=0.01)
    await tasks.cancel("other")
    assert other.cancelled()
