"""A real server on a real Unix socket, with handlers that the test gives, and a client that speaks raw bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hyper.api.http.head import BadRequest
from hyper.api.http.messages import AnyResponse, Handler, Request, Response
from hyper.api.http.server import HttpServer


@dataclass
class App:
    """Paths to handlers; failures are recorded."""

    handlers: dict[str, Handler]
    failures: list[Exception] = field(default_factory=list)

    async def handle(self, request: Request) -> AnyResponse:
        return await self.handlers[request.path](request)

    def failure(self, error: Exception) -> Response:
        self.failures.append(error)
        status = error.status if isinstance(error, BadRequest) else 500
        return Response(status, str(error).encode(), "text/plain")

    def common_headers(self) -> dict[str, str]:
        return {"Server": "test"}


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), {name.lower(): value for name, value in headers.items()}

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        status, headers = await self.head()
        body = b""
        if "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(await self.reader.readline(), 16):
                pieces.append(await self.reader.readexactly(size))
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
            body = b"".join(pieces)
        return status, headers, body

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


@dataclass
class Served:
    app: App
    server: HttpServer
    path: Path

    async def connect(self) -> Client:
        return Client(*await asyncio.open_unix_connection(str(self.path), limit=1 << 20))


Serve = Callable[..., Awaitable[Served]]


@asynccontextmanager
async def connected(served: Served) -> AsyncIterator[Client]:
    client = await served.connect()
    try:
        yield client
    finally:
        await client.close()
