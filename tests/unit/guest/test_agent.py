"""Requests, events and errors; and guests that lie."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyper.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from hyper.guest.agent import Agent
from hyper.guest.link import LinkSettings
from hyper.guest.messages import (
    AgentLog,
    Configuration,
    Event,
    InjectedFile,
    Interface,
    ProcessExited,
    Resized,
    Rootfs,
    Stdio,
)
from hyper.guest.protocol import FIN, FrameType, encode, encode_ack

from .agent_model import ModelAgent
from .conftest import INSTANCE, SETTINGS


async def test_a_request_is_answered(model: ModelAgent, agent: Agent) -> None:
    model.handle = lambda _method, _params: {"time_ns": 5}
    assert await agent.ping() == 5
    assert agent.version == "0.1.0"


async def test_an_error_of_the_agent_comes_as_its_kind(model: ModelAgent, agent: Agent) -> None:
    def refuse(_method: str, _params: dict[str, Any]) -> None:
        raise NotFound("there is no such container")

    model.handle = refuse
    with pytest.raises(NotFound, match="no such container"):
        await agent.start("x")


async def test_bytes_travel_as_base64_and_defaults_are_left_out(model: ModelAgent, agent: Agent) -> None:
    await agent.configure(Configuration(entropy=b"\0\xff" * 16, interfaces=[Interface("02:00:00:00:00:01", "eth0")]))
    ((method, params),) = model.requests
    assert method == "sandbox.configure"
    assert params["entropy"] == "AP8A/wD/AP8A/wD/AP8A/wD/AP8A/wD/AP8A/wD/AP8="
    assert "hostname" not in params
    assert params["interfaces"][0]["mtu"] == 1500


async def test_no_interfaces_are_not_the_same_as_interfaces_unnamed(model: ModelAgent, agent: Agent) -> None:
    await agent.configure(Configuration(hostname="box"))
    await agent.configure(Configuration(interfaces=[]))
    assert [params for _method, params in model.requests] == [{"hostname": "box"}, {"interfaces": []}]


async def test_a_resize_tells_what_was_reached(model: ModelAgent, agent: Agent) -> None:
    model.handle = lambda _method, _params: {"cpus": 2, "memory_bytes": 1 << 30}
    assert await agent.resize(memory_bytes=1 << 30) == Resized(2, 1 << 30)
    assert model.requests == [("sandbox.resize", {"cpus": None, "memory_bytes": 1 << 30})]
    model.handle = lambda _method, _params: {"cpus": -1, "memory_bytes": 1 << 30}
    with pytest.raises(Unavailable):
        await agent.resize(2)


async def test_an_event_comes_after_the_answer_before_it(model: ModelAgent, agent: Agent) -> None:
    order: list[str] = []
    arrived = asyncio.Event()

    def exited(event: Event) -> None:
        assert isinstance(event, ProcessExited)
        order.append("event")
        arrived.set()

    def answer(_method: str, _params: dict[str, Any]) -> dict[str, int]:
        params = {"id": "c", "exec_id": "", "exit_code": 0, "signal": None, "exited_ns": 1, "oom_killed": False}
        asyncio.get_running_loop().call_soon(model.event, "process.exited", params)
        return {"started_ns": 1}

    agent.on_event = exited
    model.handle = answer
    await agent.start("c")
    order.append("answer")
    await arrived.wait()
    assert order == ["answer", "event"]


async def test_events_before_anyone_listens_are_kept(model: ModelAgent, agent: Agent) -> None:
    model.handle = lambda _method, _params: {"time_ns": 5}
    model.event("agent.log", {"level": "info", "message": "early"})
    await agent.ping()
    got: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
    agent.on_event = got.set_result
    assert await got == AgentLog("info", "early")


async def test_unknown_events_of_a_newer_agent_are_passed_over(model: ModelAgent, agent: Agent) -> None:
    model.handle = lambda _method, _params: {"time_ns": 5}
    model.event("moon.rose", {"at": 1})
    assert await agent.ping() == 5


async def test_a_request_too_large_is_refused_here(agent: Agent) -> None:
    files = [InjectedFile("/x", bytes(4 << 20))]
    with pytest.raises(InvalidArgument, match="too large"):
        await agent.create("c", {}, Rootfs([]), files, Stdio(1, None, False))


async def test_an_agent_that_never_answers_costs_the_deadline(model: ModelAgent, agent: Agent) -> None:
    model.handle = lambda _method, _params: None
    with pytest.raises(DeadlineExceeded, match=r"sandbox\.ping within 0\.05 s"):
        await agent.ping(timeout_s=0.05)
    model.handle = lambda _method, _params: {"time_ns": 5}
    assert await agent.ping() == 5


async def test_a_flood_of_events_is_delivered_and_does_not_drown_requests(model: ModelAgent, agent: Agent) -> None:
    model.handle = lambda _method, _params: {"time_ns": 5}
    count = 0

    def counted(_event: Event) -> None:
        nonlocal count
        count += 1

    agent.on_event = counted
    for number in range(20_000):
        model.event("agent.log", {"level": "info", "message": str(number)})
    assert await agent.ping() == 5
    assert count == 20_000


async def test_nobody_there_costs_the_deadline(tmp_path: Path) -> None:
    settings = LinkSettings(connect_deadline_s=0.2)
    with pytest.raises(Unavailable, match="did not answer"):
        await Agent.connect(tmp_path / "none", instance=INSTANCE, first=True, deadline_s=1, settings=settings)


def data(nonce: int, payload: bytes, *, stream: int = 0, offset: int = 0, flags: int = 0) -> bytes:
    return encode(FrameType.DATA, stream, offset, payload, nonce, flags)


def message(nonce: int, value: object) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return data(nonce, struct.pack("<I", len(text)) + text)


LIES: dict[str, tuple[Callable[[int], bytes], str]] = {
    "a gap": (lambda n: data(n, b"x", offset=5), "gap"),
    "output beyond its credit": (
        lambda n: b"".join(data(n, bytes(65_536), stream=1, offset=i << 16) for i in range(17)),
        "above_limit",
    ),
    "output after its end": (
        lambda n: data(n, b"a", stream=1, flags=FIN) + data(n, b"b", stream=1, offset=1),
        "after_fin",
    ),
    "a wrong trailer": (lambda n: data(n ^ 1, b"x"), "wrong_trailer"),
    "a giant length": (lambda n: b"\x03\0\0\0\xff\xff\xff\xff" + bytes(12), "too_long"),
    "an unknown type": (lambda n: b"\x09" + bytes(23), "unknown_type"),
    "a giant message": (lambda n: data(n, b"\xff\xff\xff\xff"), "message_too_long"),
    "the end of the control stream": (lambda n: data(n, b"", flags=FIN), "control_ended"),
    "not JSON": (lambda n: message(n, b"{{{"), "bad_message"),
    "not UTF-8": (lambda n: message(n, b'{"event": "\xff"}'), "bad_message"),
    "deep nesting": (lambda n: data(n, struct.pack("<I", 60_000) + b'{"params": ' + b"[" * 59_989), "bad_message"),
    "an answer nobody asked for": (lambda n: message(n, {"id": 99, "result": {}}), "unknown_id"),
    "an answer of another shape": (lambda n: message(n, {"id": 1, "result": {"time_ns": "noon"}}), "bad_message"),
    "an answer without a result": (lambda n: message(n, {"id": 1}), "bad_message"),
    "an event of another shape": (
        lambda n: message(n, {"event": "process.exited", "params": {"id": 5}}),
        "bad_message",
    ),
    "an acknowledgement of what was never sent": (lambda n: encode_ack(2, 10, 20, n), "ack_above_sent"),
    "an acknowledgement that goes back": (lambda n: encode_ack(2, 0, 20, n) + encode_ack(2, 0, 10, n), "went_back"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_closes_this_link_and_fails_what_waits(model: ModelAgent, agent: Agent, lie: str) -> None:
    make, rule = LIES[lie]
    model.handle = lambda _method, _params: model.write(make(model.nonce))
    output = agent.output(1)
    agent.input(2)
    async with asyncio.timeout(10):
        with pytest.raises(Unavailable, match=rule):
            await agent.ping()
        assert rule in await agent.closed()
        with pytest.raises(Unavailable):
            while True:
                await output.read()
    with pytest.raises(Unavailable):
        await agent.state()


class Rude(asyncio.Protocol):
    """Says something of its own to whatever connects, on and on."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.resume_writing()

    def resume_writing(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._text)


@pytest.mark.parametrize("text", [b"", b"\0" * 300_000, b"\x02\0\0\0\0\0\1\0" + bytes(12) + b"x" * 300_000])
async def test_rubbish_instead_of_a_welcome_costs_the_deadline(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "s"
    server = await asyncio.get_running_loop().create_unix_server(lambda: Rude(text), str(path))
    async with server:
        settings = LinkSettings(connect_deadline_s=0.3)
        with pytest.raises(Unavailable, match="did not answer"):
            await Agent.connect(path, instance=INSTANCE, first=True, deadline_s=1, settings=settings)


async def test_an_agent_of_another_version_says_so(tmp_path: Path) -> None:
    model = ModelAgent(tmp_path / "s")

    def refuse(transport: asyncio.Transport, nonce: int, _echo: bytes, _instance: str) -> None:
        transport.write(encode(FrameType.BYE, 0, 0, b"I speak versions 7 and 8", nonce))

    model.connected = refuse  # type: ignore[method-assign]
    async with model:
        with pytest.raises(Unavailable, match="versions 7 and 8"):
            await Agent.connect(model.path, instance=INSTANCE, first=True, deadline_s=1, settings=SETTINGS)
