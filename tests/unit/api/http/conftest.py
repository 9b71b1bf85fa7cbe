"""A real server on a real Unix socket, with handlers that the test gives."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.api.served import App, Serve, Served

from hyper.api.http.limits import Limits
from hyper.api.http.messages import Handler
from hyper.api.http.server import HttpServer


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """``await serve({"/path": handler}, Limits(...))``."""
    servers: list[HttpServer] = []

    async def start(handlers: dict[str, Handler], limits: Limits | None = None) -> Served:
        app = App(handlers)
        server = HttpServer(app, limits)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = tmp_path / "s"
        sock.bind(str(path))
        await server.listen(sock)
        servers.append(server)
        return Served(app, server, path)

    yield start
    for server in servers:
        await server.close()
