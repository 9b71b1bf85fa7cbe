"""Streamed bodies both ways, disconnects, and draining at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from tests.unit.api.served import Serve, connected

from hyper.api.http.limits import Limits
from hyper.api.http.messages import Request, Response, StreamResponse


async def test_an_uploaded_stream_is_taken_only_as_fast_as_the_handler_reads(serve: Serve) -> None:
    limits = Limits(inbound_high_bytes=64 * 1024)
    gate = asyncio.Event()

    async def take(request: Request) -> Response:
        await gate.wait()
        size = 0
        async for piece in request.body:
            size += len(piece)
        return Response(200, str(size).encode())

    served = await serve({"/take": take}, limits)
    size = 64 << 20
    async with connected(served) as client:
        client.writer.write(b"POST /take HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
        sending = asyncio.create_task(client.send(bytes(size)))
        done, _ = await asyncio.wait({sending}, timeout=0.2)
        assert not done  # nobody takes it: the client is held up
        channel = next(iter(served.server._live))
        assert channel._buffered_bytes < 2 << 20
        gate.set()
        await sending
        assert (await client.response())[2] == str(size).encode()


async def test_a_streamed_response_waits_for_a_slow_client(serve: Serve) -> None:
    produced = 0

    async def pieces() -> AsyncGenerator[bytes, None]:
        nonlocal produced
        for _ in range(1000):
            produced += 1
            yield bytes(65536)

    async def stream(request: Request) -> StreamResponse:
        return StreamResponse(pieces())

    served = await serve({"/stream": stream})
    async with connected(served) as client:
        await client.send(b"GET /stream HTTP/1.1\r\n\r\n")
        await asyncio.sleep(0.2)
        assert produced < 200
        status, _, body = await client.response()
        assert (status, len(body)) == (200, 65_536_000)


async def test_the_head_of_an_eager_stream_arrives_before_its_first_piece(serve: Serve) -> None:
    go = asyncio.Event()

    async def pieces() -> AsyncGenerator[bytes, None]:
        await go.wait()
        yield b"done"

    async def stream(request: Request) -> StreamResponse:
        return StreamResponse(pieces())

    served = await serve({"/wait": stream})
    async with connected(served) as client:
        await client.send(b"POST /wait HTTP/1.1\r\n\r\n")
        assert (await client.head())[0] == 200
        go.set()
        assert await client.reader.readexactly(9) == b"4\r\ndone\r\n"


async def test_an_error_before_the_first_piece_has_its_own_status_and_one_after_it_cuts_the_body(serve: Serve) -> None:
    async def pieces(after: int) -> AsyncGenerator[bytes, None]:
        for _ in range(after):
            yield b"x"
        raise ValueError("broken")

    async def stream(request: Request) -> StreamResponse:
        return StreamResponse(pieces(int(request.query["after"][0])), eager_head=False)

    served = await serve({"/stream": stream})
    async with connected(served) as client:
        await client.send(b"GET /stream?after=0 HTTP/1.1\r\n\r\n")
        assert (await client.response())[::2] == (500, b"broken")
    async with connected(served) as client:
        await client.send(b"GET /stream?after=1 HTTP/1.1\r\n\r\n")
        assert (await client.head())[0] == 200
        rest = b""
        try:
            rest = await client.reader.read()
        except ConnectionResetError:
            pass
        assert not rest.endswith(b"0\r\n\r\n")


async def test_an_http_1_0_client_gets_a_stream_that_ends_with_the_connection(serve: Serve) -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"a"
        yield b"b"

    async def stream(request: Request) -> StreamResponse:
        return StreamResponse(pieces())

    served = await serve({"/stream": stream})
    async with connected(served) as client:
        await client.send(b"GET /stream HTTP/1.0\r\n\r\n")
        _, headers = await client.head()
        assert "transfer-encoding" not in headers
        assert await client.reader.read() == b"ab"


async def test_a_client_that_disappears_cancels_its_handler(serve: Serve) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(request: Request) -> Response:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    served = await serve({"/hang": hang})
    client = await served.connect()
    await client.send(b"GET /hang HTTP/1.1\r\n\r\n")
    await started.wait()
    await client.close()
    async with asyncio.timeout(5):
        await cancelled.wait()


async def test_closing_lets_plain_requests_finish_and_ends_streams(serve: Serve) -> None:
    begun = asyncio.Event()
    finish = asyncio.Event()
    ended = asyncio.Event()

    async def plain(request: Request) -> Response:
        begun.set()
        await finish.wait()
        return Response(200, b"finished")

    async def forever() -> AsyncGenerator[bytes, None]:
        try:
            yield b"x"
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def stream(request: Request) -> StreamResponse:
        return StreamResponse(forever())

    served = await serve({"/plain": plain, "/stream": stream})
    async with connected(served) as one, connected(served) as two, connected(served) as idle:
        await two.send(b"GET /stream HTTP/1.1\r\n\r\n")
        await two.head()
        await one.send(b"GET /plain HTTP/1.1\r\n\r\n")
        await begun.wait()
        closing = asyncio.create_task(served.server.close())
        await ended.wait()
        assert await idle.reader.read() == b""
        finish.set()
        assert (await one.response())[2] == b"finished"
        await closing
        assert served.server.connection_count == 0
