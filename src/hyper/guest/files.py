"""Files of one container through its sandbox's agent (docs/agent-protocol.md §5.5): archives as streams of bytes.

What comes out is the guest's word: archives are passed on and lists are bounded, nothing of either is acted upon here.
A transfer that is given up on ends in the guest, too. Neighbours: ``agent`` (requests), ``streams``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec

from hyper.errors import HyperError, Unavailable
from hyper.guest.agent import Agent
from hyper.guest.messages import FilePlace, FileStat, Nothing
from hyper.guest.streams import InputStream

_STAT_S = 45.0
"""The agent gives up after 30."""
_CLOSE_S = 10.0


class GuestFiles:
    """``place`` says where the agent finds them."""

    def __init__(self, agent: Agent, place: FilePlace) -> None:
        self._agent = agent
        self._at = msgspec.to_builtins(place)

    async def stat(self, path: str) -> FileStat:
        """What is at ``path``. NotFound; InvalidArgument ("… not a directory") for a path through a file."""
        try:
            async with asyncio.timeout(_STAT_S):
                return await self._agent.request("files.stat", FileStat, {"at": self._at, "path": path})
        except TimeoutError as error:
            raise Unavailable(f"the guest's agent did not look at {path!r} within {_STAT_S:g} s") from error

    def read(self, path: str) -> AsyncGenerator[bytes, None]:
        """A tar of what is at ``path``, called by its last part."""
        return self._out("files.read", path=path)

    def export(self) -> AsyncGenerator[bytes, None]:
        """A tar of the root file system, without what is mounted in it."""
        return self._out("files.export")

    def changes(self) -> AsyncGenerator[bytes, None]:
        """What the container has changed: for each path ``C``, ``A`` or ``D``, the path, and a zero byte."""
        return self._out("files.changes")

    def layer(self) -> AsyncGenerator[bytes, None]:
        """The same as the tar of an OCI layer."""
        return self._out("files.layer")

    async def write(self, path: str, source: AsyncIterator[bytes], *, keep_kinds: bool, owner: str | None) -> None:
        """Unpack the tar ``source`` into the folder ``path``. ``keep_kinds``: no file replaces a folder nor the other
        way round. ``owner``: whose everything becomes, as ``docker run -u`` names users. NotFound when there is no
        such path; InvalidArgument for what is wrong with the archive."""
        number = self._agent.new_stream()
        stream = self._agent.input(number)
        params: dict[str, Any] = {"path": path, "no_overwrite_dir_non_dir": keep_kinds, "owner": owner}
        answer = self._ask("files.write", number, params)
        pump = asyncio.create_task(_pump(source, stream), name="files.write")
        try:
            await asyncio.wait((answer, pump), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                pump.result()  # what kept the rest from coming
            await answer
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
            await self._close(number, answer)

    async def _out(self, method: str, **params: Any) -> AsyncGenerator[bytes, None]:
        number = self._agent.new_stream()
        stream = self._agent.output(number)
        answer = self._ask(method, number, params)
        try:
            ended = False
            while not ended:
                reading = asyncio.ensure_future(stream.read())
                try:
                    if not answer.done():
                        await asyncio.wait((reading, answer), return_when=asyncio.FIRST_COMPLETED)
                    if answer.done():
                        answer.result()  # a refusal: then there may be no end of the stream
                    chunk = await reading
                finally:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
                if chunk.data:
                    yield chunk.data
                stream.ack(chunk.next)
                ended = chunk.end
            await answer
        finally:
            if not stream.over:
                self._agent.drop_output(number, "its client has gone")
            await self._close(number, answer)

    def _ask(self, method: str, number: int, params: dict[str, Any]) -> asyncio.Future[Nothing]:
        return self._agent.request(method, Nothing, {"at": self._at, "stream": number, **params})

    async def _close(self, number: int, answer: asyncio.Future[Nothing]) -> None:
        """End the transfer in the guest, or have it forgotten."""
        if answer.done() and not answer.cancelled():
            answer.exception()  # told, or of no interest any more
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._agent.request("files.close", Nothing, {"stream": number})
        except (HyperError, TimeoutError):
            pass  # it never began, or the sandbox is gone


async def _pump(source: AsyncIterator[bytes], stream: InputStream) -> None:
    try:
        async for piece in source:
            await stream.write(piece)
        await stream.finish()
    except (BrokenPipeError, Unavailable):
        return  # not wanted any more: the answer says why
