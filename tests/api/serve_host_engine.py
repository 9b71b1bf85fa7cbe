"""``python -m tests.api.serve_host_engine SOCKET FOLDER``: the door on a host engine, as a process of its own, for
real clients.

Prints "ready" once it serves; ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path

import uvloop
from tests.api.host_engine import HostEngine

from hyper.api.docker.app import DockerApi
from hyper.api.http.server import HttpServer
from hyper.images import builtin
from hyper.images.store import ImageStore
from hyper.system.database import Database
from hyper.volumes.store import VolumeStore


async def serve(path: Path, folder: Path) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    database = Database(folder / "state.db")
    store = await ImageStore.open(folder, database)
    await builtin.install(store)
    engine = HostEngine(store, await VolumeStore.open(folder, database))
    server = HttpServer(DockerApi(engine))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    await server.listen(listener)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await stopped.wait()
    await engine.close()
    await server.close()
    await store.close()
    database.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1]), Path(sys.argv[2])))
