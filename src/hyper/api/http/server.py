"""Listening: accepts connections, owns their tasks, watches for the silent ones, and drains them at the end."""

from __future__ import annotations

import asyncio
import logging
import socket
import time

from hyper.api.http.channel import Channel
from hyper.api.http.connection import Application, Connection
from hyper.api.http.limits import Limits

_log = logging.getLogger(__name__)

_WATCH_INTERVAL_S = 1.0
_LEFT_INPUT_S = 10.0


class HttpServer:
    """Serves one application on any number of already bound sockets.

    server = HttpServer(application)
    await server.listen(sock)
    ...
    await server.close()
    """

    def __init__(self, application: Application, limits: Limits | None = None) -> None:
        self._application = application
        self._limits = limits or Limits()
        self._listeners: list[asyncio.AbstractServer] = []
        self._live: dict[Channel, tuple[Connection, asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def connection_count(self) -> int:
        return len(self._live)

    async def listen(self, sock: socket.socket) -> None:
        """Accept on ``sock`` (bound; TCP or Unix; the server owns it from here on)."""
        loop = asyncio.get_running_loop()

        def new_channel() -> Channel:
            return Channel(self._limits, self._connected, self._lost)

        if sock.family == socket.AF_UNIX:
            listener: asyncio.AbstractServer = await loop.create_unix_server(new_channel, sock=sock, backlog=512)
        else:
            listener = await loop.create_server(new_channel, sock=sock, backlog=512)
        self._listeners.append(listener)
        if self._watcher is None:
            self._watcher = loop.create_task(self._watch(), name="http: watch connections")

    def _connected(self, channel: Channel) -> None:
        if self._closing or len(self._live) >= self._limits.connections:
            _log.warning("refused a connection: %d are open", len(self._live))
            channel.write_nowait(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            channel.close()
            return
        connection = Connection(channel, self._application, self._limits)
        task = asyncio.get_running_loop().create_task(connection.serve(), name="http: connection")
        self._live[channel] = (connection, task)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a connection ended with an unexpected error", exc_info=error)

    def _lost(self, channel: Channel) -> None:
        entry = self._live.pop(channel, None)
        if entry is not None:
            entry[1].cancel()

    async def _watch(self) -> None:
        """Close idle connections, and end those whose client is gone without the event loop having noticed."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            now_s = time.monotonic()
            for channel, (connection, _task) in list(self._live.items()):
                if connection.finished_s is not None:
                    if now_s - connection.finished_s > self._limits.write_stall_s:
                        channel.abort()
                elif connection.idle_since_s is not None:
                    if now_s - connection.idle_since_s > self._limits.idle_s:
                        channel.close()
                elif channel.quiet and channel.hung_up():
                    # What a client sent before it left is still wanted (a process's stdin), but not for ever.
                    connection.hung_up_since_s = connection.hung_up_since_s or now_s
                    if not channel.has_data or now_s - connection.hung_up_since_s > _LEFT_INPUT_S:
                        channel.abort()

    async def close(self) -> None:
        """Stop accepting, let plain requests finish within ``drain_s``, end everything else. Idempotent."""
        self._closing = True
        for listener in self._listeners:
            listener.close()
        for connection, task in list(self._live.values()):
            connection.closing = True
            if connection.idle_since_s is not None or connection.interruptible:
                task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=self._limits.drain_s)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        for channel in list(self._live):
            channel.abort()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None
        for listener in self._listeners:
            await listener.wait_closed()
        self._listeners.clear()
