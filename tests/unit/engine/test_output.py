"""Output to attached clients: order, ends, and who waits for whom."""

from __future__ import annotations

import asyncio

from hyper.engine.output import QUEUE_BYTES, OutputHub

BOTH = frozenset({"stdout", "stderr"})


async def test_each_client_gets_the_streams_it_asked_for_in_order() -> None:
    hub = OutputHub()
    everything, errors = hub.subscribe(BOTH), hub.subscribe(frozenset({"stderr"}))
    await hub.publish("stdout", b"a")
    await hub.publish("stderr", b"b")
    hub.end()
    assert [item async for item in everything.take()] == [("stdout", b"a"), ("stderr", b"b")]
    assert [item async for item in errors.take()] == [("stderr", b"b")]


async def test_a_full_client_holds_the_process_until_it_reads() -> None:
    hub = OutputHub()
    subscription = hub.subscribe(BOTH)
    await hub.publish("stdout", b"x" * QUEUE_BYTES)
    blocked = asyncio.create_task(hub.publish("stdout", b"y"))
    await asyncio.sleep(0)
    assert not blocked.done()
    chunks = subscription.take()
    await anext(chunks)
    await blocked
    assert await anext(chunks) == ("stdout", b"y")
    await chunks.aclose()  # type: ignore[attr-defined]


async def test_a_client_that_leaves_lets_the_process_go_on() -> None:
    hub = OutputHub()
    subscription = hub.subscribe(BOTH)
    await hub.publish("stdout", b"x" * QUEUE_BYTES)
    blocked = asyncio.create_task(hub.publish("stdout", b"y"))
    await asyncio.sleep(0)
    hub.unsubscribe(subscription)
    await blocked


async def test_after_the_exit_nobody_waits_for_a_stalled_client_and_it_still_gets_everything() -> None:
    hub = OutputHub()
    subscription = hub.subscribe(BOTH)
    await hub.publish("stdout", b"x" * QUEUE_BYTES)
    blocked = asyncio.create_task(hub.publish("stdout", b"y"))
    await asyncio.sleep(0)
    hub.stop_waiting()
    await blocked
    await hub.publish("stdout", b"z")
    hub.end()
    assert b"".join([data async for _, data in subscription.take()]) == b"x" * QUEUE_BYTES + b"yz"


async def test_a_client_that_comes_after_the_end_gets_an_end() -> None:
    hub = OutputHub()
    hub.end()
    assert [item async for item in hub.subscribe(BOTH).take()] == []
    assert await hub.input is None


async def test_a_client_that_comes_between_the_exit_and_the_end_holds_nothing_up_either() -> None:
    hub = OutputHub()
    hub.stop_waiting()
    late = hub.subscribe(BOTH)
    for _ in range(3):
        await asyncio.wait_for(hub.publish("stdout", b"x" * QUEUE_BYTES), 5)
    hub.end()
    assert len(b"".join([data async for _, data in late.take()])) == 3 * QUEUE_BYTES
