"""The control connection to a QEMU that a test plays."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from hyper.errors import Internal, Unavailable
from hyper.hypervisors.qemu.qmp import Qmp

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": ["oob"]}}


@pytest.fixture
def path() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder) / "qmp"


@asynccontextmanager
async def qemu(path: Path, answers: dict[str, Any]) -> AsyncIterator[list[dict[str, Any]]]:
    """It greets, and answers these commands; the others never. What it is asked. At its end the other side must have
    hung up."""
    asked: list[dict[str, Any]] = []
    connections: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.current_task())
        writer.write(json.dumps(GREETING).encode() + b"\r\n")
        text = ""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                text = (text + data.decode()).lstrip()
                while text:
                    try:
                        command, end = json.JSONDecoder().raw_decode(text)
                    except ValueError:
                        break
                    text = text[end:].lstrip()
                    asked.append(command)
                    if command["execute"] in answers:
                        answer = answers[command["execute"]] | {"id": command["id"]}
                        writer.write(json.dumps(answer).encode() + b"\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield asked
    finally:
        async with asyncio.timeout(5):
            await asyncio.gather(*filter(None, connections))
        server.close()
        await server.wait_closed()


async def test_one_command_is_done_before_the_next_is_read(path: Path) -> None:
    """With QEMU's out-of-band commands it is not, and a descriptor that comes beside one crashes QEMU 7.2 now and
    then."""
    async with qemu(path, {"qmp_capabilities": {"return": {}}, "query-name": {"return": {"name": "x"}}}) as asked:
        qmp = await Qmp.connect(path, 5)
        assert await qmp.execute("query-name") == {"name": "x"}
        await qmp.close()
    assert [command["execute"] for command in asked] == ["qmp_capabilities", "query-name"]
    assert "oob" not in json.dumps(asked)


@pytest.mark.parametrize("answers", [{}, {"qmp_capabilities": {"error": {"class": "GenericError", "desc": "no"}}}])
async def test_who_does_not_agree_is_unavailable_in_time_and_nothing_is_left(
    path: Path, answers: dict[str, Any]
) -> None:
    descriptors, tasks = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
    async with qemu(path, answers):
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"does not answer on its control socket within 0\.3 s"):
            await Qmp.connect(path, 0.3)
        assert time.monotonic() - began < 2
    assert (len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())) == (descriptors, tasks)


async def test_a_refused_command_and_a_silent_one_are_told_apart(path: Path) -> None:
    answers = {"qmp_capabilities": {"return": {}}, "stop": {"error": {"class": "GenericError", "desc": "not now"}}}
    async with qemu(path, answers):
        qmp = await Qmp.connect(path, 0.3)
        with pytest.raises(Internal, match="QEMU refused stop: not now"):
            await qmp.execute("stop")
        with pytest.raises(Unavailable, match=r"did not answer cont within 0\.3 s"):
            await qmp.execute("cont")
        await qmp.close()
