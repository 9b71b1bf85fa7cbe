"""A guest that was taken over attacks the host: whatever its agent sends, only its own container suffers.

The lying agent is a script (``tests/hostile_peer.py``) behind the fake hypervisor, under a real engine and API; beside
it there is always a well-behaved container, which must not notice. ``test_hostile_container.py`` attacks from inside
real VMs.
"""

from __future__ import annotations

import asyncio
import os
import resource
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.hostile_peer import Behaviour, Peer, World, pretend_boot_image, world

from hyper.engine import lifecycle, recovery
from hyper.guest.protocol import FrameType
from hyper.sandboxes import source, supervisor

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENDS_WITHIN_S = 10.0
HUGE = 10**30


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[World]:
    """With a good container running. Deadlines are short, so that a silent guest costs a test little."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="hostile-") as name:
        patch.setattr(lifecycle, "_KILL_WAIT_S", 0.5)
        patch.setattr(recovery, "TAKEOVER_S", 1.0)
        patch.setattr(source, "_ADOPT_S", 0.5)
        patch.setattr(supervisor, "_SHUTDOWN_S", 0.5)
        patch.setattr(supervisor, "_POWER_OFF_S", 0.1)
        folder = Path(name)
        pretend_boot_image(patch, folder)
        async with world(folder) as made:
            await made.create("good")
            assert (await made.http("POST", "/containers/good/start")).status == 204
            yield made


@pytest_asyncio.fixture(loop_scope="module")
async def here(shared: World) -> AsyncIterator[World]:
    """The shared world; what a test changes in it ends with the test."""
    try:
        yield shared
    finally:
        shared.behaviour = Behaviour()


async def check_the_rest(here: World) -> None:
    """Nobody else noticed, the bad container can be removed, and nothing of it is left."""
    listed = await here.http("GET", "/containers/json?all=1")
    assert listed.status == 200
    assert (await here.state("good"))["Running"] is True
    assert (await here.http("GET", "/info")).status == 200
    removed = await here.http("DELETE", "/containers/bad?force=1")
    assert removed.status == 204, removed.body
    [good] = (await here.http("GET", "/containers/json?all=1")).json
    assert good["Names"] == ["/good"]
    alive = [machine for machine in here.host.machines.values() if machine.exit is None]
    assert len(alive) == 1
    assert len(os.listdir(here.folder / "vm")) == 1
    assert [path.stem for path in (here.folder / "writable").glob("*")] == [good["Id"]]
    reached = await here.http("POST", "/containers/good/kill?signal=HUP")
    assert reached.status == 204, reached.body


async def until_ended(here: World) -> dict[str, Any]:
    answer = await here.http("POST", "/containers/bad/wait", timeout_s=ENDS_WITHIN_S)
    assert answer.status == 200
    return await here.state("bad")


class Lie(Behaviour):
    """Good until its container runs, then this."""

    def __init__(self, lie: Callable[[Peer], Awaitable[None]]) -> None:
        self.lie = lie

    async def running(self, peer: Peer) -> None:
        await self.lie(peer)


# -- broken rules: each ends that container, with a reason


async def unknown_type(peer: Peer) -> None:
    peer.raw(9, 0, 0, b"")


async def unknown_flag(peer: Peer) -> None:
    peer.raw(FrameType.DATA, 1, 0, b"", flags=2)


async def reserved_not_zero(peer: Peer) -> None:
    peer.writer.write(struct.pack("<BBHIIQ", 3, 0, 1, 0, 1, 0))


async def gigantic_frame(peer: Peer) -> None:
    peer.writer.write(struct.pack("<BBHIIQ", 3, 0, 0, 2**32 - 1, 1, 0))


async def wrong_trailer(peer: Peer) -> None:
    peer.nonce ^= 1
    peer.output(0, b"x")


async def gap(peer: Peer) -> None:
    peer.output(5, b"x")


async def last_position(peer: Peer) -> None:
    peer.output(2**64 - 2, b"x")


async def more_than_granted(peer: Peer) -> None:
    # Nobody can have acknowledged the first byte yet when the last one is read: a line without an end waits in the log.
    for offset in range(0, 2 << 20, 8192):
        peer.output(offset, b"x" * 8192, name="stderr")
    peer.output((2 << 20) + (1 << 20), b"x", name="stderr")


async def data_after_the_end(peer: Peer) -> None:
    peer.output(0, b"x", end=True)
    peer.output(1, b"y")


async def end_of_control(peer: Peer) -> None:
    peer.raw(FrameType.DATA, 0, peer.sent, b"", flags=1)


async def ack_of_nothing_sent(peer: Peer) -> None:
    peer.raw(FrameType.ACK, 0, 2**40, struct.pack("<Q", 2**41))


async def limit_below_offset(peer: Peer) -> None:
    peer.raw(FrameType.ACK, 0, 10, struct.pack("<Q", 1))


async def reason_not_text(peer: Peer) -> None:
    peer.raw(FrameType.RESET, 1, 0, b"\xff\xfe")


async def goodbye(peer: Peer) -> None:
    peer.raw(FrameType.BYE, 0, 0, b"\x1b[31m had enough\nlevel=fatal msg=forged")


async def gigantic_message(peer: Peer) -> None:
    await peer.control(struct.pack("<I", 2**32 - 1))


async def no_json(peer: Peer) -> None:
    await peer.send(b"{]")


async def deep_json(peer: Peer) -> None:
    await peer.send(b'{"event":"agent.log","params":' + b"[" * 1_000_000)


async def deep_result(peer: Peer) -> None:
    await peer.send(b'{"id":1,"x":' + b'{"a":' * 100_000)


async def a_list(peer: Peer) -> None:
    await peer.send([1, 2])


async def half_a_character(peer: Peer) -> None:
    await peer.send(b'{"event":"\\ud800"}')


async def not_utf8(peer: Peer) -> None:
    await peer.send(b'{"event":"\xff"}')


async def unknown_answer(peer: Peer) -> None:
    await peer.send({"id": 10**6, "result": {}})


async def negative_answer(peer: Peer) -> None:
    await peer.send({"id": -HUGE, "result": {}})


async def nothing_said(peer: Peer) -> None:
    await peer.send({})


async def exit_code_too_big(peer: Peer) -> None:
    await peer.exited(exit_code=256)


async def exit_code_negative(peer: Peer) -> None:
    await peer.exited(exit_code=-1)


async def exit_in_a_thousand_years(peer: Peer) -> None:
    await peer.exited(exited_ns=HUGE)


async def exit_before_time(peer: Peer) -> None:
    await peer.exited(exited_ns=-1)


async def exit_of_a_list(peer: Peer) -> None:
    await peer.exited(id=["x"])


async def endless_name(peer: Peer) -> None:
    await peer.exited(exec_id="x" * 100_000)


BROKEN = (
    unknown_type, unknown_flag, reserved_not_zero, gigantic_frame, wrong_trailer, gap, last_position, more_than_granted,
    data_after_the_end, end_of_control, ack_of_nothing_sent, limit_below_offset, reason_not_text, goodbye,
    gigantic_message, no_json, deep_json, deep_result, a_list, half_a_character, not_utf8, unknown_answer,
    negative_answer, nothing_said, exit_code_too_big, exit_code_negative, exit_in_a_thousand_years, exit_before_time,
    exit_of_a_list, endless_name,
)  # fmt: skip


@pytest.mark.parametrize("lie", BROKEN, ids=lambda lie: lie.__name__)
async def test_a_broken_rule_ends_that_container_alone(
    here: World, lie: Callable[[Peer], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    await here.create("bad")
    here.behaviour = Lie(lie)
    # The rule may be broken before the answer to start was read, or after.
    started = await here.http("POST", "/containers/bad/start")
    assert started.status in (204, 503), started.body
    if started.status == 204:
        state = await until_ended(here)
        assert state["Status"] == "exited"
        assert "agent" in state["Error"]
        assert "\x1b" not in state["Error"]
    await check_the_rest(here)
    assert not [record for record in caplog.records if record.exc_info]


# -- lies that break no rule: the container goes on


async def exits_of_others(peer: Peer) -> None:
    await peer.exited(id="0" * 64)
    await peer.exited(id="../../etc")
    await peer.exited(exec_id="nobody's")


async def claims_of_oom(peer: Peer) -> None:
    for _ in range(1000):
        await peer.event("container.oom", id=peer.machine.container)


async def endless_log(peer: Peer) -> None:
    for number in range(20_000):
        await peer.event("agent.log", level="fatal", message=f"{number} \n\x1b[2J")


async def unknown_events(peer: Peer) -> None:
    for number in range(5_000):
        await peer.event(f"future.{number}", x=[number])


async def unknown_streams(peer: Peer) -> None:
    for stream in range(1000, 6000):
        peer.raw(FrameType.DATA, stream, 7, b"x", flags=1)
        peer.raw(FrameType.ACK, stream, 9, struct.pack("<Q", 10))
        peer.raw(FrameType.RESET, stream, 0, b"r" * 1024)
        await peer.writer.drain()


async def replays(peer: Peer) -> None:
    peer.output(0, b"0123456789\n")
    for _ in range(5_000):
        peer.output(0, b"0123456789\n")
        await peer.writer.drain()


async def half_a_frame(peer: Peer) -> None:
    peer.writer.write(struct.pack("<BBHIIQ", 3, 0, 0, 65_536, 1, 0) + b"x" * 1000)


class HangsUp(Behaviour):
    async def connection(self, peer: Peer) -> None:
        await peer.handshake()
        if 1 < peer.machine.connections < 8:
            return
        async for message in peer.requests():
            await self.request(peer, message["id"], message["method"], message["params"])

    async def running(self, peer: Peer) -> None:
        await peer.writer.drain()
        peer.writer.transport.abort()


HARMLESS = (
    exits_of_others, claims_of_oom, endless_log, unknown_events, unknown_streams, replays, half_a_frame,
)  # fmt: skip


@pytest.mark.parametrize("lie", HARMLESS, ids=lambda lie: lie.__name__)
async def test_what_breaks_no_rule_changes_nothing(here: World, lie: Callable[[Peer], Awaitable[None]]) -> None:
    await here.create("bad")
    here.behaviour = Lie(lie)
    assert (await here.http("POST", "/containers/bad/start")).status == 204
    assert (await here.http("GET", "/_ping", timeout_s=5)).status == 200
    assert (await here.state("bad"))["Status"] == "running"
    await check_the_rest(here)


async def test_an_exit_told_twice_is_one_exit(here: World) -> None:
    async def twice(peer: Peer) -> None:
        peer.close_outputs()
        await peer.exited(exit_code=3)
        await peer.exited(exit_code=4)

    await here.create("bad")
    here.behaviour = Lie(twice)
    assert (await here.http("POST", "/containers/bad/start")).status == 204
    assert (await until_ended(here))["ExitCode"] == 3
    await check_the_rest(here)


async def test_an_exit_without_an_end_of_output_is_an_exit_all_the_same(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyper.engine.run.DRAIN_S", 0.3)

    async def no_end(peer: Peer) -> None:
        peer.output(0, b"half a line")
        await peer.exited(exit_code=3)

    await here.create("bad")
    here.behaviour = Lie(no_end)
    assert (await here.http("POST", "/containers/bad/start")).status == 204
    assert (await until_ended(here))["ExitCode"] == 3
    await check_the_rest(here)


async def test_an_agent_that_hangs_up_again_and_again_is_reconnected_to(here: World) -> None:
    await here.create("bad")
    here.behaviour = HangsUp()
    assert (await here.http("POST", "/containers/bad/start")).status in (204, 503)
    await check_the_rest(here)


# -- a start that the guest spoils


class Spoil(Behaviour):
    """Answers one method with this, or (None) never."""

    def __init__(self, method: str, answer: dict[str, Any] | None) -> None:
        self.method = method
        self.answer = answer

    async def request(self, peer: Peer, number: int, method: str, params: dict[str, Any]) -> None:
        if method != self.method:
            await super().request(peer, number, method, params)
        elif self.answer is not None:
            await peer.send({"id": number, **self.answer})


SPOILED = {
    "configure never answered": Spoil("sandbox.configure", None),
    "create never answered": Spoil("container.create", None),
    "start never answered": Spoil("container.start", None),
    "a negative pid": Spoil("container.create", {"result": {"pid": -1}}),
    "a pid like a mountain": Spoil("container.create", {"result": {"pid": HUGE}}),
    "no pid": Spoil("container.create", {"result": {}}),
    "a result that is none": Spoil("container.create", {"result": None}),
    "started before time": Spoil("container.start", {"result": {"started_ns": -1}}),
    "started in a thousand years": Spoil("container.start", {"result": {"started_ns": HUGE}}),
    "an unknown kind": Spoil("container.start", {"error": {"kind": "Gotcha", "message": "x" * 60_000}}),
    "an error of wrong types": Spoil("container.start", {"error": {"kind": 7, "message": None}}),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
async def test_a_start_that_the_guest_spoils_is_an_error_and_leaves_nothing(here: World, spoil: Spoil) -> None:
    await here.create("bad")
    here.behaviour = spoil
    began_s = time.monotonic()
    answer = await here.http("POST", "/containers/bad/start")
    assert answer.status in (500, 503), answer.body
    assert 10 < len(answer.message) < 5000
    assert time.monotonic() - began_s < ENDS_WITHIN_S
    state = await here.state("bad")
    assert not state["Running"]
    assert state["ExitCode"] != 0
    await check_the_rest(here)


class Handshake(Behaviour):
    """Spoils the handshake."""

    def __init__(self, spoil: Callable[[Peer], Awaitable[None]]) -> None:
        self.spoil = spoil

    async def connection(self, peer: Peer) -> None:
        await self.spoil(peer)


async def silence(peer: Peer) -> None:
    await peer.reader.read(-1)


async def closes_at_once(peer: Peer) -> None:
    await peer.reader.read(1)


async def garbage(peer: Peer) -> None:
    for _ in range(400):
        peer.writer.write(os.urandom(1000) + b"\x02\x00\x00\x00\xff\xff\x00\x00" + bytes(70_000))
        await peer.writer.drain()


async def beginnings_without_end(peer: Peer) -> None:
    # Many things that could be a BYE, so that each read finds candidates.
    for _ in range(60):
        peer.writer.write(b"\x06\x00\x00\x00\x00\x04\x00\x00" + bytes(12) * 40)
        await peer.writer.drain()
    await peer.reader.read(-1)


async def trickle(peer: Peer) -> None:
    while True:
        peer.writer.write(b"\x02")
        await peer.writer.drain()
        await asyncio.sleep(0.01)


async def other_version(peer: Peer) -> None:
    await peer.handshake(version=99)
    await peer.reader.read(-1)


async def endless_version(peer: Peer) -> None:
    await peer.handshake(agent="x" * 60_000)
    await peer.reader.read(-1)


async def welcome_of_nothing(peer: Peer) -> None:
    await peer.handshake(boot_id=None)
    await peer.reader.read(-1)


HANDSHAKES = (
    silence, closes_at_once, garbage, beginnings_without_end, trickle, other_version, endless_version,
    welcome_of_nothing,
)  # fmt: skip


@pytest.mark.parametrize("spoil", HANDSHAKES, ids=lambda spoil: spoil.__name__)
async def test_an_agent_that_does_not_shake_hands_fails_the_start_in_time(
    here: World, spoil: Callable[[Peer], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    await here.create("bad")
    here.behaviour = Handshake(spoil)
    began_s = time.monotonic()
    answer = await here.http("POST", "/containers/bad/start")
    assert answer.status == 503, answer.body
    assert "agent" in answer.message
    assert len(answer.message) < 2000
    assert time.monotonic() - began_s < ENDS_WITHIN_S
    await check_the_rest(here)
    assert not [record for record in caplog.records if record.exc_info]


# -- a running guest that does not answer


@pytest.mark.parametrize("method", ["container.signal", "process.exec", "sandbox.shutdown", "container.pause"])
async def test_an_agent_that_stops_answering_cannot_keep_its_container(here: World, method: str) -> None:
    await here.create("bad")
    here.behaviour = Spoil(method, None)
    assert (await here.http("POST", "/containers/bad/start")).status == 204
    if method == "process.exec":
        made = await here.http("POST", "/containers/bad/exec", {"Cmd": ["true"], "AttachStdout": True})
        ran = await here.http("POST", f"/exec/{made.json['Id']}/start", {"Detach": True})
        assert ran.status in (500, 503), ran.body
    if method == "container.pause":
        assert (await here.http("POST", "/containers/bad/pause")).status in (500, 503)
        assert (await here.state("bad"))["Status"] == "running"
    began_s = time.monotonic()
    stopped = await here.http("POST", "/containers/bad/stop?t=0")
    assert stopped.status == 204, stopped.body
    assert time.monotonic() - began_s < ENDS_WITHIN_S
    assert (await here.state("bad"))["Status"] == "exited"
    await check_the_rest(here)


async def test_endless_output_is_held_back_by_a_client_that_does_not_read(here: World) -> None:
    """The guest may send no more than it was granted; what hyperd holds stays bounded though the client never reads."""
    sent = 0

    async def pour(peer: Peer) -> None:
        nonlocal sent
        line = b"x" * 1023 + b"\n"
        with_acks = 900 << 10  # within the first window; the rest would break a rule
        for offset in range(0, with_acks, 1024):
            peer.output(offset, line)
            sent += len(line)
        await peer.writer.drain()

    await here.create("bad")
    here.behaviour = Lie(pour)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reader, writer = await asyncio.open_unix_connection(str(here.socket))
    writer.write(b"POST /containers/bad/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    assert (await here.http("POST", "/containers/bad/start")).status == 204
    assert sent == 900 << 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 64 << 10
    writer.close()
    await check_the_rest(here)


# -- adoption: what the guest tells a daemon that has just been started again


def with_state(change: Callable[[dict[str, Any], Peer], Any]) -> Behaviour:
    class Told(Behaviour):
        async def request(self, peer: Peer, number: int, method: str, params: dict[str, Any]) -> None:
            if method == "sandbox.state":
                state = peer.state()
                await peer.send({"id": number, "result": change(state, peer) or state})
            else:
                await super().request(peer, number, method, params)

    return Told()


def no_init(state: dict[str, Any], _peer: Peer) -> None:
    state["containers"][0]["processes"] = []


def two_inits(state: dict[str, Any], _peer: Peer) -> None:
    state["containers"][0]["processes"] *= 2


def one_stream_twice(state: dict[str, Any], peer: Peer) -> None:
    stdio = peer.machine.stdio
    state["containers"][0]["processes"][0]["stdio"] = {**stdio, "stderr": stdio["io"]}


def a_terminal(state: dict[str, Any], _peer: Peer) -> None:
    state["containers"][0]["processes"][0]["tty"] = True


def a_huge_exit_code(state: dict[str, Any], _peer: Peer) -> None:
    state["containers"][0]["status"] = "stopped"
    state["containers"][0]["processes"][0] |= {"status": "exited", "exit_code": HUGE, "exited_ns": 1}


def a_huge_time(state: dict[str, Any], _peer: Peer) -> None:
    state["containers"][0]["status"] = "stopped"
    state["containers"][0]["processes"][0] |= {"status": "exited", "exit_code": 0, "exited_ns": HUGE}


def a_stream_out_of_range(state: dict[str, Any], peer: Peer) -> None:
    state["containers"][0]["processes"][0]["stdio"] = {**peer.machine.stdio, "io": 2**32}


def other_containers(state: dict[str, Any], _peer: Peer) -> None:
    one = state["containers"][0]
    state["containers"] = [{**one, "id": f"{number:064x}"} for number in range(5_000)]


def no_containers(state: dict[str, Any], _peer: Peer) -> None:
    state["containers"] = []


def no_state(_state: dict[str, Any], _peer: Peer) -> Any:
    return [1, 2]


TOLD = (
    no_init, two_inits, one_stream_twice, a_terminal, a_huge_exit_code, a_huge_time, a_stream_out_of_range,
    other_containers, no_containers, no_state,
)  # fmt: skip


async def restarted(here: World, behaviour: Behaviour) -> None:
    """The bad container runs, the daemon dies, and finds it changed."""
    await here.create("bad")
    here.behaviour = behaviour
    assert (await here.http("POST", "/containers/bad/start")).status == 204
    await here.stop()
    began_s = time.monotonic()
    await here.start()
    assert time.monotonic() - began_s < ENDS_WITHIN_S


@pytest.mark.parametrize("change", TOLD, ids=lambda change: change.__name__)
async def test_what_a_guest_tells_a_new_daemon_cannot_stop_it(
    here: World, change: Callable[[dict[str, Any], Peer], Any]
) -> None:
    await restarted(here, with_state(change))
    state = await here.state("bad")
    assert state["Status"] == "exited"
    assert "VM" in state["Error"]
    await check_the_rest(here)


class SilentLater(Behaviour):
    """Good to the first daemon; to later ones it does not even say hello (or does not answer ``sandbox.state``)."""

    def __init__(self, *, welcomes: bool) -> None:
        self.welcomes = welcomes

    async def connection(self, peer: Peer) -> None:
        if peer.machine.connections == 1:
            await super().connection(peer)
            return
        if self.welcomes:
            await peer.handshake()
        await peer.reader.read(-1)


@pytest.mark.parametrize("welcomes", [False, True])
async def test_a_guest_that_does_not_answer_a_new_daemon_is_ended(here: World, welcomes: bool) -> None:
    await restarted(here, SilentLater(welcomes=welcomes))
    state = await here.state("bad")
    assert state["Status"] == "exited"
    assert "does not answer" in state["Error"]
    await check_the_rest(here)


async def test_thousands_of_execs_that_cannot_be_forgotten_hold_nobody_up(here: World) -> None:
    def execs(state: dict[str, Any], peer: Peer) -> None:
        one = peer.process_state() | {"status": "exited", "exit_code": 0, "exited_ns": 1}
        state["containers"][0]["processes"] += [
            {**one, "process": f"e{number}", "stdio": {"io": 10 + number, "stderr": None, "stdin": False}}
            for number in range(3_000)
        ]

    behaviour = with_state(execs)
    answer = behaviour.request

    async def never_forgets(peer: Peer, number: int, method: str, params: dict[str, Any]) -> None:
        if method != "process.forget":
            await answer(peer, number, method, params)

    behaviour.request = never_forgets  # type: ignore[method-assign]
    await restarted(here, behaviour)
    assert (await here.state("bad"))["Status"] == "running"
    await check_the_rest(here)
