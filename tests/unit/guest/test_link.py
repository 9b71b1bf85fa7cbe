"""Streams over connections that come and go: nothing lost, nothing doubled, nobody held up by another."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from hyper.errors import Unavailable
from hyper.guest.agent import Agent
from hyper.guest.streams import OUTPUT_WINDOW_BYTES, OutputStream

from .agent_model import ModelAgent
from .conftest import INSTANCE, SETTINGS


async def read_all(output: OutputStream, checkpoint: Callable[[], None] = lambda: None) -> bytes:
    """To the end, acknowledging each chunk; checks that positions join."""
    data = bytearray()
    while True:
        chunk = await output.read()
        assert chunk.offset == len(data)
        data += chunk.data
        output.ack(chunk.next)
        checkpoint()
        if chunk.end:
            return bytes(data)


async def test_output_arrives_in_order_and_ends(model: ModelAgent, agent: Agent) -> None:
    output = agent.output(agent.new_stream())
    model.output(1, b"hello ")
    model.output(1, b"world", end=True)
    assert await read_all(output) == b"hello world"


async def test_input_arrives_in_order_and_ends(model: ModelAgent, agent: Agent) -> None:
    incoming = model.input(1)
    source = agent.input(1)
    await source.write(b"abc" * 100_000)
    await source.write(b"def")
    await source.finish()
    await incoming.ended.wait()
    assert incoming.data == b"abc" * 100_000 + b"def"
    assert await source.closed_by_peer == "read to its end"


@pytest.mark.parametrize("seed", range(8))
async def test_nothing_is_lost_or_doubled_over_random_disconnections(
    model: ModelAgent, agent: Agent, seed: int
) -> None:
    chance = random.Random(seed)
    model.drop_after = lambda: chance.randrange(300, 300_000) if model.connections < 25 else None
    sent = {stream: chance.randbytes(chance.randrange(1, 2_000_000)) for stream in (1, 2, 3)}
    written = chance.randbytes(2_000_000)
    incoming = model.input(4)
    source = agent.input(4)
    outputs = {stream: agent.output(stream) for stream in sent}

    def maybe_drop() -> None:
        if model.connections < 25 and chance.random() < 0.05:
            model.drop()

    async def feed_input() -> None:
        position = 0
        while position < len(written):
            size = chance.randrange(1, 200_000)
            await source.write(written[position : position + size])
            position += size
        await source.finish()

    async def feed_output(stream: int) -> None:
        data, position = sent[stream], 0
        while position < len(data):
            size = chance.randrange(1, 200_000)
            model.output(stream, data[position : position + size], end=position + size >= len(data))
            position += size
            await asyncio.sleep(0)

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(feed_input())
        for stream in sent:
            tasks.create_task(feed_output(stream))
        readers = {stream: tasks.create_task(read_all(outputs[stream], maybe_drop)) for stream in sent}
        tasks.create_task(incoming.ended.wait())
    assert {stream: reader.result() for stream, reader in readers.items()} == sent
    assert bytes(incoming.data) == written
    assert model.connections > 3


async def test_requests_over_random_disconnections_are_carried_out_once_each(model: ModelAgent, agent: Agent) -> None:
    chance = random.Random(7)
    model.drop_after = lambda: chance.randrange(300, 90_000) if model.connections < 20 else None
    model.handle = lambda _method, params: {"pid": int(params["id"])}
    from hyper.guest.messages import Rootfs, Stdio

    async def one(number: int) -> int:
        if chance.random() < 0.3:
            model.drop()
        return await agent.create(str(number), {"x": "y" * 2_000}, Rootfs([]), [], Stdio(1, None, False))

    async with asyncio.timeout(60):
        pids = await asyncio.gather(*(one(number) for number in range(200)))
    assert pids == list(range(200))
    assert sorted(int(params["id"]) for _method, params in model.requests) == list(range(200))


async def test_a_stalled_reader_holds_up_nobody_else(model: ModelAgent, agent: Agent) -> None:
    stalled, lively = agent.output(1), agent.output(2)
    data = random.Random(1).randbytes(20 << 20)
    model.output(1, bytes(4 << 20), end=True)
    model.output(2, data, end=True)
    assert await read_all(lively) == data
    held = 0
    while held < OUTPUT_WINDOW_BYTES:
        held += len((await stalled.read()).data)
    assert held == OUTPUT_WINDOW_BYTES  # what was granted, and not a byte more
    assert model.outputs[1].kept_bytes == 4 << 20
    waiting = asyncio.create_task(stalled.read())
    assert not (await asyncio.wait((waiting,), timeout=0.05))[0]
    stalled.ack(OUTPUT_WINDOW_BYTES)
    assert (await waiting).offset == OUTPUT_WINDOW_BYTES


async def test_a_process_that_does_not_read_holds_up_its_writer_only(model: ModelAgent, agent: Agent) -> None:
    incoming = model.input(1)
    incoming.stalled = True
    source = agent.input(1)
    writer = asyncio.create_task(source.write(bytes(5 << 20)))
    other, echoed = agent.input(2), model.input(2)
    await other.write(b"x" * 1_000_000)
    await other.finish()
    await echoed.ended.wait()
    assert not writer.done()
    assert source.sender.kept_bytes <= 512 * 1024
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer


async def test_writing_to_a_closed_stdin_is_a_broken_pipe(model: ModelAgent, agent: Agent) -> None:
    model.input(1)
    source = agent.input(1)
    await source.write(b"x")
    model.reset(1, "closed by the process")
    assert await source.closed_by_peer == "closed by the process"
    with pytest.raises(BrokenPipeError):
        await source.write(b"y")


async def test_credit_that_comes_before_the_stream_is_opened_is_kept(model: ModelAgent, agent: Agent) -> None:
    model.handle = lambda _method, _params: {"time_ns": 1}
    incoming = model.input(1)
    await agent.ping()
    source = agent.input(1)
    await source.write(b"abc")
    await source.finish()
    await incoming.ended.wait()
    assert incoming.data == b"abc"


async def test_a_stdin_closed_before_it_is_opened_is_closed(model: ModelAgent, agent: Agent) -> None:
    model.handle = lambda _method, _params: {"time_ns": 1}
    model.reset(1, "the process reads nothing")
    await agent.ping()
    source = agent.input(1)
    assert await source.closed_by_peer == "the process reads nothing"
    with pytest.raises(BrokenPipeError):
        await source.write(b"x")


async def test_another_host_process_goes_on_where_the_log_ends(model: ModelAgent) -> None:
    data = random.Random(3).randbytes(500_000)
    first = await Agent.connect(model.path, instance="aa" * 16, first=True, deadline_s=10, settings=SETTINGS)
    output = first.output(9)
    model.output(9, data, end=True)
    logged = bytearray()
    while len(logged) < 200_000:
        chunk = await output.read()
        logged += chunk.data
        output.ack(chunk.next)
    await output.read()  # received but not written to the log: must come again
    await first.release()
    stdio = {"io": 9, "stderr": 10, "stdin": False}
    process = {"process": "", "pid": 1, "status": "exited", "exit_code": 0, "signal": None, "started_ns": 1}
    container = {"id": "c", "status": "stopped", "pid": 0, "oom_killed": False}
    container["processes"] = [{**process, "exited_ns": 2, "stdio": stdio, "tty": False}]
    memory = {"total_bytes": 1, "available_bytes": 1}
    model.handle = lambda _m, _p: {"containers": [container], "uptime_ns": 1, "kernel": "6.1", "memory": memory}
    second = await Agent.connect(model.path, instance="bb" * 16, first=False, deadline_s=10, settings=SETTINGS)
    assert second.new_stream() == 11
    output = second.output(9, from_offset=len(logged))
    while True:
        chunk = await output.read()
        assert chunk.offset == len(logged)
        logged += chunk.data
        output.ack(chunk.next)
        if chunk.end:
            break
    assert bytes(logged) == data
    await second.release()


async def test_a_dropped_output_is_reset(model: ModelAgent, agent: Agent) -> None:
    output = agent.output(1)
    agent.drop_output(1, "nobody wants it")
    with pytest.raises(Unavailable, match="nobody wants it"):
        await output.read()


async def test_the_link_is_lost_when_nobody_listens_any_more(tmp_path: Path) -> None:
    async with ModelAgent(tmp_path / "s") as model:
        agent = await Agent.connect(model.path, instance=INSTANCE, first=True, deadline_s=10, settings=SETTINGS)
        output = agent.output(1)
        source = agent.input(2)
    async with asyncio.timeout(10):
        assert "nobody listens" in await agent.closed()
    with pytest.raises(Unavailable):
        await output.read()
    with pytest.raises(Unavailable):
        await source.write(b"x")
    with pytest.raises(Unavailable):
        await agent.ping()
    assert agent.output(3).lost


async def test_an_agent_that_forgot_us_is_not_trusted(model: ModelAgent, agent: Agent) -> None:
    model.instance = None
    model.drop()
    async with asyncio.timeout(10):
        assert "forgotten" in await agent.closed()
