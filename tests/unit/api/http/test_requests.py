"""Plain requests: parsing, bounds, keep-alive, pipelining, bodies."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.api.served import Serve, connected

from hyper.api.http.limits import Limits
from hyper.api.http.messages import Request, Response


async def echo(request: Request) -> Response:
    body = await request.read()
    return Response(200, f"{request.method} {request.path} {request.query} ".encode() + body, "text/plain")


async def test_keeps_the_connection_and_answers_pipelined_requests_in_order(serve: Serve) -> None:
    async def slow(request: Request) -> Response:
        for _ in range(20):
            await asyncio.sleep(0)
        return Response(200, b"slow")

    served = await serve({"/slow": slow, "/echo": echo})
    async with connected(served) as client:
        await client.send(
            b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\nPOST /echo?a=1 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET"
        )
        await client.send(b" /echo?b= HTTP/1.1\r\n\r\n")
        assert (await client.response())[2] == b"slow"
        assert (await client.response())[2] == b"POST /echo {'a': ['1']} abc"
        assert (await client.response())[2] == b"GET /echo {'b': ['']} "


async def test_a_request_that_arrives_byte_by_byte_is_understood(serve: Serve) -> None:
    served = await serve({"/echo": echo})
    async with connected(served) as client:
        for byte in b"\r\nPOST /echo HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi":
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.response())[2] == b"POST /echo {} hi"


async def test_a_chunked_body_is_joined_and_the_next_request_is_found_behind_it(serve: Serve) -> None:
    served = await serve({"/echo": echo})
    async with connected(served) as client:
        await client.send(
            b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\nT: 1\r\n\r\n"
            b"GET /echo HTTP/1.1\r\n\r\n"
        )
        assert (await client.response())[2] == b"POST /echo {} abc0123456789"
        assert (await client.response())[2] == b"GET /echo {} "


async def test_expect_continue_is_answered_when_the_body_is_wanted(serve: Serve) -> None:
    async def refuse(request: Request) -> Response:
        return Response(409, b"no")

    served = await serve({"/echo": echo, "/refuse": refuse})
    async with connected(served) as client:
        await client.send(b"POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert (await client.head())[0] == 100
        await client.send(b"ok")
        assert (await client.response())[2] == b"POST /echo {} ok"
        await client.send(b"POST /refuse HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        status, headers, _ = await client.response()
        assert (status, headers["connection"]) == (409, "close")


async def test_an_http_1_0_client_gets_a_close_unless_it_asks_to_keep_alive(serve: Serve) -> None:
    served = await serve({"/echo": echo})
    async with connected(served) as client:
        await client.send(b"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await client.response())[1]["connection"] == "keep-alive"
        await client.send(b"GET /echo HTTP/1.0\r\n\r\n")
        assert (await client.response())[1]["connection"] == "close"
        assert await client.reader.read() == b""


async def test_a_half_closed_client_still_gets_its_answer(serve: Serve) -> None:
    served = await serve({"/echo": echo})
    async with connected(served) as client:
        await client.send(b"GET /echo HTTP/1.1\r\n\r\n")
        client.writer.write_eof()
        assert (await client.response())[0] == 200
        assert await client.reader.read() == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /echo HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"a" * 40_000, 431),
        (b"nonsense\r\n\r\n", 501),
        (b"GET /echo HTTP/2.0\r\n\r\n", 505),
        (b"GET /echo HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"GET /%ff HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xc3\xa4 HTTP/1.1\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 2000, 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 1000, 413),
        (
            b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n500000\r\n" + b"x" * 0x500000 + b"\r\n0\r\n\r\n",
            413,
        ),
    ],
)
async def test_what_breaks_http_or_a_bound_is_refused_and_the_connection_closed(
    serve: Serve, sent: bytes, status: int
) -> None:
    served = await serve({"/echo": echo})
    async with connected(served) as client:
        await client.send(sent)
        got, headers, body = await client.response()
        assert (got, headers["connection"]) == (status, "close")
        assert body
        assert await client.reader.read() == b""


async def test_a_head_that_does_not_end_in_time_is_refused(serve: Serve) -> None:
    served = await serve({}, Limits(head_s=0.05))
    async with connected(served) as client:
        await client.send(b"GET / HTTP/1.1\r\nX: ")
        assert (await client.response())[0] == 408


async def test_a_body_that_does_not_arrive_in_time_is_refused(serve: Serve) -> None:
    served = await serve({"/echo": echo}, Limits(body_s=0.05))
    async with connected(served) as client:
        await client.send(b"POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nab")
        assert (await client.response())[0] == 408


async def test_a_handlers_bug_answers_500_and_the_connection_lives_on(serve: Serve) -> None:
    async def bug(request: Request) -> Response:
        raise ZeroDivisionError("division by zero")

    served = await serve({"/bug": bug, "/echo": echo})
    async with connected(served) as client:
        await client.send(b"GET /bug HTTP/1.1\r\n\r\nGET /echo HTTP/1.1\r\n\r\n")
        assert (await client.response())[0] == 500
        assert (await client.response())[0] == 200
    assert isinstance(served.app.failures[0], ZeroDivisionError)


async def test_a_body_that_the_handler_left_is_skipped(serve: Serve) -> None:
    async def ignore(request: Request) -> Response:
        return Response(200, b"ignored")

    served = await serve({"/ignore": ignore, "/echo": echo})
    async with connected(served) as client:
        await client.send(b"POST /ignore HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /GET /echo HTTP/1.1\r\n\r\n")
        assert (await client.response())[2] == b"ignored"
        assert (await client.response())[2] == b"GET /echo {} "


async def test_head_and_204_and_304_have_no_body(serve: Serve) -> None:
    async def nothing(request: Request) -> Response:
        return Response(int(request.query["s"][0]), b"")

    served = await serve({"/echo": echo, "/nothing": nothing})
    async with connected(served) as client:
        await client.send(b"HEAD /echo HTTP/1.1\r\n\r\n")
        assert (await client.head())[1]["content-length"] != "0"
        for status in (204, 304):
            await client.send(b"GET /nothing?s=%d HTTP/1.1\r\n\r\n" % status)
            got, headers = await client.head()
            assert got == status
            assert "content-length" not in headers
        await client.send(b"GET /echo HTTP/1.1\r\n\r\n")
        assert (await client.response())[0] == 200


async def test_more_connections_than_allowed_are_refused(serve: Serve) -> None:
    served = await serve({"/echo": echo}, Limits(connections=1))
    async with connected(served) as first:
        await first.send(b"GET /echo HTTP/1.1\r\n\r\n")
        await first.response()
        async with connected(served) as second:
            assert (await second.head())[0] == 503


async def test_a_line_break_in_a_header_value_cannot_split_the_response(serve: Serve) -> None:
    async def evil(request: Request) -> Response:
        return Response(200, b"", headers={"X-Quote": "a\r\nSet-Cookie: b"})

    served = await serve({"/evil": evil})
    async with connected(served) as client:
        await client.send(b"GET /evil HTTP/1.1\r\n\r\n")
        _, headers, _ = await client.response()
        assert "set-cookie" not in headers
