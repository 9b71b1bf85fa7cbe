"""The link to a sandbox's agent: reliable streams and messages over connections that come and go.

One task per link connects, waits for the connection to end and connects again; everything else happens in the event
loop's callbacks. The link is lost for good when the agent breaks the protocol, forgets us, or cannot be reached
within a deadline: then ``lost`` has the reason, all streams end with Unavailable, and the owner is told.
Neighbours: ``connection`` (one socket's life), ``streams`` (what callers hold), ``agent`` (requests and events).
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hyper.errors import Unavailable
from hyper.guest.connection import Connection
from hyper.guest.flows import Receiver, Sender
from hyper.guest.protocol import (
    CONTROL_STREAM,
    FIN,
    Frame,
    FrameType,
    ProtocolError,
    Welcome,
    encode,
    encode_ack,
    encode_reason,
)
from hyper.guest.streams import OUTPUT_WINDOW_BYTES, InputStream, OutputStream

MAX_MESSAGE_BYTES = 4 << 20
_MAX_QUEUED_MESSAGE_BYTES = 16 << 20
_LENGTH = struct.Struct("<I")
_RETRY_S = 0.05
_FINISHED_KEPT = 256
_EARLY_KEPT = 1_024


@dataclass(frozen=True)
class LinkSettings:
    """``connect_deadline_s``: for the first answer; ``reconnect_deadline_s``: for each later one, from the loss on;
    ``refused_s``: how long nobody may listen on the socket before the VMM is taken for dead."""

    connect_deadline_s: float = 30.0
    reconnect_deadline_s: float = 30.0
    refused_s: float = 1.0


class AgentLink:
    """See the module's docstring. Made by :meth:`connect`; ended by :meth:`release` or by being lost."""

    def __init__(self, path: Path, instance: str, settings: LinkSettings, on_message: Callable[[bytes], None]) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.welcome: Welcome | None = None
        self._path = path
        self._instance = instance
        self._settings = settings
        self._on_message = on_message
        self._connection: Connection | None = None  # established
        self._welcomed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._control_out = Sender()
        self._control_in = Receiver(0, OUTPUT_WINDOW_BYTES)
        self._assembler = _Assembler()
        self._outputs: dict[int, OutputStream] = {}
        self._inputs: dict[int, InputStream] = {}
        self._turns: deque[int] = deque()  # streams that may have something to send, each once
        self._in_turns: set[int] = set()
        self._acks: dict[int, None] = {}  # streams whose ACK is due, in order
        self._resets: deque[tuple[int, str]] = deque()
        # The last ACK (or RESET) for streams that nobody here sends on yet: the agent grants credit when it makes the
        # process, and the caller may open the stream only later.
        self._early: dict[int, Frame] = {}
        # Final acknowledgements: repeated on the next connection, in case the last one lost them.
        self._finished: deque[tuple[int, int]] = deque(maxlen=_FINISHED_KEPT)
        self._flush: asyncio.Handle | None = None

    @classmethod
    async def connect(
        cls,
        path: Path,
        *,
        instance: str,
        first: bool,
        on_message: Callable[[bytes], None],
        settings: LinkSettings | None = None,
    ) -> AgentLink:
        """Connect and shake hands. ``first``: nobody has ever connected to this sandbox before.

        Unavailable, with the reason, when the agent does not answer within ``connect_deadline_s``."""
        link = cls(path, instance, settings or LinkSettings(), on_message)
        link._task = asyncio.create_task(link._run(first), name=f"agent link {path}")
        link._task.add_done_callback(link._stopped)
        welcomed = asyncio.create_task(link._welcomed.wait())
        try:
            await asyncio.wait((welcomed, link.lost), return_when=asyncio.FIRST_COMPLETED)
            if link.lost.done():
                raise Unavailable(link.lost.result())
        except BaseException:
            await link.release()
            raise
        finally:
            welcomed.cancel()
        return link

    def send_message(self, message: bytes) -> None:
        """Queue a JSON text for the control stream. Unavailable when lost, or when the agent has not read 16 MiB of
        them."""
        if self.lost.done():
            raise Unavailable(self.lost.result())
        if len(message) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {len(message)} bytes; the agent takes at most {MAX_MESSAGE_BYTES}")
        if self._control_out.kept_bytes + len(message) > _MAX_QUEUED_MESSAGE_BYTES:
            raise Unavailable("the guest's agent does not read its requests")
        self._control_out.write(_LENGTH.pack(len(message)) + message)
        self._take_turn(CONTROL_STREAM)

    def open_output(self, stream: int, from_offset: int = 0) -> OutputStream:
        """Start to receive a stream from this position on. The number must be new to this link."""
        if stream in self._outputs or stream == CONTROL_STREAM:
            raise ValueError(f"stream {stream} is being received already")
        output = OutputStream(stream, from_offset, self._output_changed)
        if self.lost.done():
            output.lose(self.lost.result())
        else:
            self._outputs[stream] = output
            self._owe_ack(stream)
        return output

    def open_input(self, stream: int, from_offset: int | None = 0) -> InputStream:
        """Start to send a stream. ``from_offset`` None: go on where the agent says (a stream of an earlier host
        process)."""
        if stream in self._inputs or stream == CONTROL_STREAM:
            raise ValueError(f"stream {stream} is being sent already")
        source = InputStream(stream, from_offset, self._input_changed)
        if self.lost.done():
            source.lose(self.lost.result())
        else:
            self._inputs[stream] = source
            early = self._early.pop(stream, None)
            if early is not None:
                self._feed(source, early)
        return source

    def close_output(self, stream: int, reason: str) -> None:
        """Read no further, or (a stream of an earlier host process) do not begin to: the agent is told by a RESET."""
        output = self._outputs.pop(stream, None)
        if output is not None:
            output.lose(reason)
        if not self.lost.done():
            self._resets.append((stream, reason))
            self._flush_soon()

    async def release(self) -> None:
        """Let go without ending anything in the guest. Idempotent; nothing is left behind."""
        if not self.lost.done():
            self._lose("the link was released")
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))

    # -- connecting

    async def _run(self, first: bool) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.connect_deadline_s
        refused_since: float | None = None
        padded = not first
        while not self.lost.done():
            connection = Connection(self, self._instance, padded=padded)
            self._welcomed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await loop.create_unix_connection(_Once(connection), str(self._path))
                    refused_since = None
                    padded = True
                    reason = await self._until_welcomed(connection)
                if reason is None:
                    reason = await connection.ended
                    deadline = loop.time() + self._settings.reconnect_deadline_s
                if reason is not None and reason != _AGAIN:
                    self._lose(reason)
            except TimeoutError:
                self._lose(f"the guest's agent did not answer on {self._path} in time")
            except (ConnectionError, FileNotFoundError) as error:
                if loop.time() > deadline:  # refused at once, each time, so that the timeout above never gets its turn
                    self._lose(f"the guest's agent did not answer on {self._path} in time")
                refused_since = refused_since or loop.time()
                # Before the first answer the VMM may not listen yet: there the deadline decides.
                if self.welcome is not None and loop.time() - refused_since > self._settings.refused_s:
                    self._lose(f"nobody listens on {self._path} any more ({error.strerror})")
            except OSError as error:
                self._lose(f"{self._path} cannot be connected to ({error.strerror})")
            finally:
                connection.close(None)
                self._disconnected(connection)
            if not self.lost.done():
                await asyncio.sleep(_RETRY_S)

    async def _until_welcomed(self, connection: Connection) -> str | None:
        """None once it is established, else why it ended."""
        welcomed = asyncio.create_task(self._welcomed.wait())
        try:
            await asyncio.wait((welcomed, connection.ended), return_when=asyncio.FIRST_COMPLETED)
            if connection.ended.done():
                return connection.ended.result() or _AGAIN
            return None
        finally:
            welcomed.cancel()

    def _stopped(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._lose(f"the link to the guest's agent failed: {error!r}")

    def _disconnected(self, connection: Connection) -> None:
        if self._connection is connection:
            self._connection = None
            self._early = {number: frame for number, frame in self._early.items() if frame.type == FrameType.RESET}
            self._control_out.disconnect()
            for source in self._inputs.values():
                source.sender.disconnect()

    def _lose(self, reason: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(reason)
        if self._flush is not None:
            self._flush.cancel()
        if self._connection is not None:
            self._connection.close(reason)
        for output in self._outputs.values():
            output.lose(reason)
        for source in self._inputs.values():
            source.lose(reason)
        self._outputs.clear()
        self._inputs.clear()
        self._turns.clear()
        self._in_turns.clear()

    # -- what a connection tells (connection.Handler)

    def established(self, connection: Connection, welcome: Welcome) -> None:
        if self.welcome is not None and (not welcome.resumed or welcome.boot_id != self.welcome.boot_id):
            connection.close("the guest's agent has forgotten its state (was the sandbox restarted?)")
            return
        self.welcome = welcome
        self._connection = connection
        self._acks = dict.fromkeys((CONTROL_STREAM, *self._outputs))
        for stream, final in self._finished:
            connection.write(encode_ack(stream, final, final, connection.nonce))
        self._flush_now()
        self._welcomed.set()

    def received(self, connection: Connection, frame: Frame) -> None:
        if connection is not self._connection:
            return
        if frame.type == FrameType.DATA:
            self._data(frame)
        elif frame.type == FrameType.ACK:
            self._acknowledged(frame)
        else:
            self._steer(frame)

    def writable(self, connection: Connection) -> None:
        if connection is self._connection:
            self._flush_now()

    def _data(self, frame: Frame) -> None:
        fin = bool(frame.flags & FIN)
        if frame.stream == CONTROL_STREAM:
            if fin:
                raise ProtocolError("control_ended", "FIN on the control stream")
            new = self._control_in.take(frame.offset, frame.payload, fin)
            self._control_in.limit = self._control_in.next + OUTPUT_WINDOW_BYTES
            self._owe_ack(CONTROL_STREAM)
            for message in self._assembler.feed(new):
                self._on_message(message)
            return
        output = self._outputs.get(frame.stream)
        if output is not None and output.take(frame.offset, frame.payload, fin):
            self._owe_ack(frame.stream)

    def _acknowledged(self, frame: Frame) -> None:
        if frame.stream == CONTROL_STREAM:
            self._control_out.acknowledge(frame.offset, frame.limit)
            self._take_turn(CONTROL_STREAM)
            return
        self._steer(frame)

    def _steer(self, frame: Frame) -> None:
        """An ACK or RESET about one of our inputs."""
        source = self._inputs.get(frame.stream)
        if source is not None:
            self._feed(source, frame)
            return
        self._early.pop(frame.stream, None)
        self._early[frame.stream] = frame
        if len(self._early) > _EARLY_KEPT:
            del self._early[next(iter(self._early))]

    def _feed(self, source: InputStream, frame: Frame) -> None:
        if frame.type == FrameType.RESET:
            source.reset(frame.payload.decode())
        else:
            source.acknowledged(frame.offset, frame.limit)
        if source.sender.over:
            self._inputs.pop(source.number, None)
        else:
            self._take_turn(source.number)

    # -- sending

    def _output_changed(self, output: OutputStream) -> None:
        if output.number in self._outputs:
            self._owe_ack(output.number)

    def _input_changed(self, source: InputStream) -> None:
        self._take_turn(source.number)

    def _owe_ack(self, stream: int) -> None:
        self._acks[stream] = None
        self._flush_soon()

    def _take_turn(self, stream: int) -> None:
        if stream not in self._in_turns:
            self._in_turns.add(stream)
            self._turns.append(stream)
        self._flush_soon()

    def _flush_soon(self) -> None:
        """Once per round of the event loop, so that many acknowledgements become one."""
        if self._flush is None and self._connection is not None:
            self._flush = asyncio.get_running_loop().call_soon(self._flush_now)

    def _flush_now(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        connection = self._connection
        if connection is None:
            return
        while connection.writable and (frame := self._next_frame(connection.nonce)) is not None:
            connection.write(frame)

    def _next_frame(self, nonce: int) -> bytes | None:
        """ACKs and RESETs first, then the control stream, then one frame of each stream in turn."""
        if self._resets:
            stream, reason = self._resets.popleft()
            return encode_reason(FrameType.RESET, stream, reason, nonce)
        while self._acks:
            stream = next(iter(self._acks))
            del self._acks[stream]
            if stream == CONTROL_STREAM:
                return encode_ack(stream, self._control_in.next, self._control_in.limit, nonce)
            output = self._outputs.get(stream)
            if output is not None:
                if output.over:
                    del self._outputs[stream]
                    self._finished.append((stream, output.acked))
                return encode_ack(stream, output.acked, output.limit, nonce)
        if self._control_out.ready():
            return self._data_frame(CONTROL_STREAM, self._control_out, nonce)
        while self._turns:
            stream = self._turns.popleft()
            self._in_turns.discard(stream)
            source = self._inputs.get(stream)
            if source is not None and source.sender.ready():
                frame = self._data_frame(stream, source.sender, nonce)
                self._in_turns.add(stream)
                self._turns.append(stream)
                return frame
        return None

    def _data_frame(self, stream: int, sender: Sender, nonce: int) -> bytes | None:
        part = sender.next_frame()
        if part is None:
            return None
        offset, data, fin = part
        return encode(FrameType.DATA, stream, offset, data, nonce, FIN if fin else 0)


class _Once:
    """A protocol factory for a connection that exists already (a lambda in a loop would be a trap)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __call__(self) -> Connection:
        return self._connection


_AGAIN = "the connection closed before it was answered"


class _Assembler:
    """Messages out of the control stream's bytes: a length, then a text. Holds at most one unfinished message."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now. ProtocolError for one that is too long."""
        self._buffer += data
        messages = []
        position = 0
        while len(self._buffer) - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, position)
            if length > MAX_MESSAGE_BYTES:
                raise ProtocolError("message_too_long", f"a message of {length} bytes")
            end = position + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(bytes(memoryview(self._buffer)[position + _LENGTH.size : end]))
            position = end
        del self._buffer[:position]
        return messages
