"""``python -m tests.api.serve_host_engine SOCKET FOLDER [FLAGS]``: the door on a host engine, as a process of its own,
for real clients. ``FLAGS`` are hyperd's; those about registries count.

Prints "ready" once it serves; ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop
from tests.api.host_engine import HostEngine

from hyper import config
from hyper.api.docker.app import DockerApi
from hyper.api.http.server import HttpServer
from hyper.daemon.main import registry_settings
from hyper.images import builtin
from hyper.images.registry.client import RegistryClient
from hyper.images.store import ImageStore
from hyper.system.database import Database
from hyper.volumes.store import VolumeStore


async def serve(path: Path, folder: Path, flags: Sequence[str]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    database = Database(folder / "state.db")
    store = await ImageStore.open(folder, database)
    await builtin.install(store)
    registry_client = RegistryClient(registry_settings(config.load(flags)))
    engine = HostEngine(store, await VolumeStore.open(folder, database), registry_client)
    server = HttpServer(DockerApi(engine))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    await server.listen(listener)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await stopped.wait()
    await engine.close()
    await server.close()
    await registry_client.close()
    await store.close()
    database.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
