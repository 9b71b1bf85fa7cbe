"""Connections taken over by a handler: early bytes, half-close, back pressure both ways, throughput."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.unit.api.served import Serve, connected

from hyper.api.http.messages import HijackResponse, RawConnection, Request


async def nothing() -> None:
    return None


async def echo_upper(request: Request) -> HijackResponse:
    await request.read()

    async def run(raw: RawConnection) -> None:
        while data := await raw.read():
            await raw.write(data.upper())
        await raw.write(b"<end of input>")

    return HijackResponse(run, nothing)


UPGRADE = b"Connection: Upgrade\r\nUpgrade: tcp\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /attach HTTP/1.1\r\n" + UPGRADE + b"\r\n", 101),
        (b"POST /attach HTTP/1.1\r\n\r\n", 200),
        (b"POST /attach HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 200),
        (b"POST /attach HTTP/1.1\r\nContent-Length: 2\r\n" + UPGRADE + b"\r\n{}", 101),
        (b"POST /attach HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 200),
        (b"POST /attach HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200),
        (b"POST /attach HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + UPGRADE + b"\r\n2\r\n{}\r\n0\r\n\r\n", 101),
        (b"POST /attach HTTP/1.0\r\n\r\n", 200),
    ],
)
@pytest.mark.parametrize("pieces", ["together", "split"])
async def test_bytes_sent_with_the_head_are_not_lost_and_half_close_ends_only_the_input(
    serve: Serve, head: bytes, status: int, pieces: str
) -> None:
    served = await serve({"/attach": echo_upper})
    async with connected(served) as client:
        if pieces == "together":
            await client.send(head + b"early bytes\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        else:
            await client.send(head[:7])
            await client.send(head[7:] + b"ear")
            await client.send(b"ly bytes\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        client.writer.write_eof()
        got, headers = await client.head()
        assert got == status
        assert headers["content-type"] == "application/vnd.docker.raw-stream"
        if status == 101:
            assert (headers["connection"], headers["upgrade"]) == ("Upgrade", "tcp")
        assert await client.reader.read() == b"EARLY BYTES\r\n\r\nGET / HTTP/1.1\r\n\r\n<end of input>"


async def test_output_that_ends_while_input_still_comes_reaches_the_client_whole(serve: Serve) -> None:
    async def one_line(request: Request) -> HijackResponse:
        async def run(raw: RawConnection) -> None:
            await raw.read()
            await raw.write(b"y" * 100_000)

        return HijackResponse(run, nothing)

    served = await serve({"/attach": one_line})
    async with connected(served) as client:
        await client.send(b"POST /attach HTTP/1.1\r\n\r\n")
        flood = asyncio.create_task(client.send(b"x" * (4 << 20)))
        await client.head()
        assert await client.reader.read() == b"y" * 100_000
        await asyncio.gather(flood, return_exceptions=True)


async def test_back_pressure_holds_both_directions(serve: Serve) -> None:
    taken = 0
    given = 0
    gate = asyncio.Event()

    async def slow(request: Request) -> HijackResponse:
        async def run(raw: RawConnection) -> None:
            nonlocal taken, given
            try:
                async with asyncio.timeout(0.3):
                    while True:
                        await raw.write(bytes(65536))
                        given += 65536
            except TimeoutError:
                pass
            await gate.wait()
            while data := await raw.read():
                taken += len(data)

        return HijackResponse(run, nothing)

    served = await serve({"/attach": slow})
    async with connected(served) as client:
        await client.send(b"POST /attach HTTP/1.1\r\n\r\n")
        await client.head()
        flood = asyncio.create_task(client.send(bytes(64 << 20)))
        done, _ = await asyncio.wait({flood}, timeout=0.6)
        assert not done
        assert given < 8 << 20
        gate.set()
        await flood
        client.writer.write_eof()
        received = 0
        while data := await client.reader.read(1 << 20):
            received += len(data)
        assert taken == 64 << 20
        assert received >= given


async def test_200_mb_go_through_both_ways_quickly_and_unharmed(serve: Serve) -> None:
    async def cat(request: Request) -> HijackResponse:
        async def run(raw: RawConnection) -> None:
            while data := await raw.read():
                await raw.write(data)

        return HijackResponse(run, nothing)

    served = await serve({"/attach": cat})
    block = bytes(range(256)) * 4096
    async with connected(served) as client:
        begin_s = time.monotonic()
        await client.send(b"POST /attach HTTP/1.1\r\n" + UPGRADE + b"\r\n")
        await client.head()

        async def upload() -> None:
            for _ in range(200):
                await client.send(block)
            client.writer.write_eof()

        uploading = asyncio.create_task(upload())
        received = 0
        for _ in range(200):
            assert await client.reader.readexactly(len(block)) == block
            received += len(block)
        assert await client.reader.read() == b""
        await uploading
        assert received == 200 << 20
        assert time.monotonic() - begin_s < 30


async def test_a_client_that_vanishes_after_its_end_of_input_is_noticed(serve: Serve) -> None:
    eof, cancelled = asyncio.Event(), asyncio.Event()

    async def quiet(request: Request) -> HijackResponse:
        async def run(raw: RawConnection) -> None:
            assert await raw.read() == b""
            eof.set()
            try:
                await asyncio.Event().wait()  # a process that prints nothing
            finally:
                cancelled.set()

        return HijackResponse(run, nothing)

    served = await serve({"/attach": quiet})
    client = await served.connect()
    await client.send(b"POST /attach HTTP/1.1\r\n\r\n")
    await client.head()
    client.writer.write_eof()
    await eof.wait()
    await client.close()
    async with asyncio.timeout(10):
        await cancelled.wait()
