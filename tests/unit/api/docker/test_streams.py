"""Attach and exec between a hijacked connection and an attachment: who ends what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from hyper.api.docker import streams
from hyper.api.http.channel import Disconnected
from hyper.engine.api import OutputChunk


class Pipe:
    """A client's end: what it sends, and what it got."""

    def __init__(self, *sent: bytes, hold: bool = False) -> None:
        self._sent = list(sent)
        self._hold = hold
        self.got = b""
        self.gone = False

    async def read(self) -> bytes:
        if self._sent:
            return self._sent.pop(0)
        if self._hold:
            await asyncio.Event().wait()
        return b""

    async def write(self, *pieces: bytes) -> None:
        if self.gone:
            raise Disconnected
        self.got += b"".join(pieces)


class Process:
    """An attachment whose process prints what it is told and ends when ``ended`` is set."""

    def __init__(self, *chunks: OutputChunk, tty: bool = False, ends: bool = True) -> None:
        self._chunks = chunks
        self._tty = tty
        self.ended = asyncio.Event()
        if ends:
            self.ended.set()
        self.typed = b""
        self.heard = asyncio.Event()
        self.finished = False
        self.closed = False

    @property
    def tty(self) -> bool:
        return self._tty

    async def output(self) -> AsyncIterator[OutputChunk]:
        for chunk in self._chunks:
            yield chunk
        await self.ended.wait()

    async def write(self, data: bytes) -> None:
        self.typed += data
        self.heard.set()

    async def finish(self) -> None:
        self.finished = True
        self.ended.set()

    async def close(self) -> None:
        self.closed = True


async def test_output_is_framed_or_raw() -> None:
    for multiplexed, expected in ((True, b"\x01\0\0\0\0\0\0\x01a\x02\0\0\0\0\0\0\x01b"), (False, b"ab")):
        pipe, process = Pipe(hold=True), Process(("stdout", b"a"), ("stderr", b"b"))
        await streams.join(pipe, process, multiplexed=multiplexed, stdin=True, detach_keys=None)
        assert pipe.got == expected
        assert process.closed
        assert not process.finished


async def test_the_end_of_input_ends_stdin_and_output_goes_on() -> None:
    pipe, process = Pipe(b"one", b"two"), Process(("stdout", b"out"), ends=False)
    await streams.join(pipe, process, multiplexed=False, stdin=True, detach_keys=None)
    assert (process.typed, process.finished, pipe.got) == (b"onetwo", True, b"out")


async def test_the_end_of_input_does_not_end_a_terminal() -> None:
    pipe, process = Pipe(b"x"), Process(tty=True, ends=False)
    joining = asyncio.create_task(streams.join(pipe, process, multiplexed=False, stdin=True, detach_keys=b"\x10\x11"))
    await process.heard.wait()
    await asyncio.sleep(0)  # the end of input comes next
    assert not process.finished
    process.ended.set()
    await joining


async def test_detach_keys_leave_the_process_alone() -> None:
    pipe, process = Pipe(b"ls\n\x10", b"\x11more", hold=True), Process(tty=True, ends=False)
    await streams.join(pipe, process, multiplexed=False, stdin=True, detach_keys=b"\x10\x11")
    assert (process.typed, process.finished, process.closed) == (b"ls\n", False, True)


async def test_input_that_was_not_asked_for_is_dropped() -> None:
    pipe, process = Pipe(b"ignored"), Process(("stdout", b"out"))
    await streams.join(pipe, process, multiplexed=False, stdin=False, detach_keys=None)
    assert (process.typed, process.finished, pipe.got) == (b"", False, b"out")


async def test_a_client_that_is_gone_lets_go_of_the_process() -> None:
    pipe, process = Pipe(hold=True), Process(("stdout", b"out"), ends=False)
    pipe.gone = True
    try:
        await streams.join(pipe, process, multiplexed=False, stdin=True, detach_keys=None)
    except Disconnected:
        pass
    assert process.closed
    assert not process.finished
