"""The agent's side of the protocol in Python, for tests: follows docs/agent-protocol.md, and loses connections on
demand.

As a virtio-serial port does, a lost connection takes the bytes in flight with it, in both directions.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyper.errors import HyperError
from hyper.guest.flows import Receiver, Sender
from hyper.guest.protocol import FIN, HELLO_MAGIC, FrameType, encode, encode_ack

WINDOW = 256 * 1024
HEADER = struct.Struct("<BBHIIQ")


class Incoming:
    """A stdin: what arrived, and what was let through."""

    def __init__(self) -> None:
        self.receiver = Receiver(0, WINDOW)
        self.data = bytearray()
        self.stalled = False
        self.ended = asyncio.Event()


class ModelAgent:
    """Listens on ``path``; ``handle`` answers requests (returns a result, or raises a HyperError)."""

    def __init__(self, path: Path, handle: Callable[[str, dict[str, Any]], Any] | None = None) -> None:
        self.path = path
        self.handle = handle or (lambda _method, _params: {})
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.outputs: dict[int, Sender] = {}
        self.inputs: dict[int, Incoming] = {}
        self.resets: dict[int, str] = {}
        self.connections = 0
        self.hellos = 0
        self.byes: list[str] = []
        self.drop_after: Callable[[], int | None] = lambda: None  # bytes of a connection after which it is lost
        self.boot_id = "b" * 32
        self.instance: str | None = None
        self.transport: asyncio.Transport | None = None
        self._restart_control()
        self._server: asyncio.Server | None = None

    def _restart_control(self) -> None:
        self._control_in = Receiver(0, WINDOW)
        self._control_out = Sender()
        self._messages = bytearray()

    async def __aenter__(self) -> ModelAgent:
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: Port(self), str(self.path))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()
        await self._server.wait_closed()

    # -- what tests do

    def event(self, name: str, params: dict[str, Any]) -> None:
        self._send({"event": name, "params": params})

    def output(self, stream: int, data: bytes = b"", *, end: bool = False) -> None:
        sender = self.outputs.setdefault(stream, Sender())
        if data:
            sender.write(data)
        if end:
            sender.finish()
        self.pump()

    def input(self, stream: int) -> Incoming:
        incoming = self.inputs.setdefault(stream, Incoming())
        self._write_ack(stream, incoming.receiver)
        return incoming

    def reset(self, stream: int, reason: str) -> None:
        self.write(encode(FrameType.RESET, stream, 0, reason.encode(), self.nonce))

    def drop(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    # -- the protocol

    nonce = 0

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def _send(self, message: dict[str, Any]) -> None:
        text = json.dumps(message).encode()
        self._control_out.write(struct.pack("<I", len(text)) + text)
        self.pump()

    def pump(self) -> None:
        streams = {0: self._control_out, **self.outputs}
        progress = True
        while progress and self.transport is not None:
            progress = False
            for number, sender in streams.items():
                if (frame := sender.next_frame()) is not None:
                    offset, data, fin = frame
                    self.write(encode(FrameType.DATA, number, offset, data, self.nonce, FIN if fin else 0))
                    progress = True

    def connected(self, transport: asyncio.Transport, nonce: int, echo: bytes, instance: str) -> None:
        self.hellos += 1
        resumed = instance == self.instance
        if not resumed:
            self.instance = instance
            self._restart_control()
        self.transport, self.nonce = transport, nonce
        for sender in (self._control_out, *self.outputs.values()):
            sender.disconnect()
        text = json.dumps({"version": 1, "agent": "0.1.0", "boot_id": self.boot_id, "resumed": resumed}).encode()
        self.write(encode(FrameType.WELCOME, 0, 0, echo + text, nonce))
        self._write_ack(0, self._control_in)
        for stream, incoming in self.inputs.items():
            self._write_ack(stream, incoming.receiver)

    def disconnected(self, transport: asyncio.Transport) -> None:
        if self.transport is transport:
            self.transport = None

    def _write_ack(self, stream: int, receiver: Receiver) -> None:
        if not (stream and self.inputs[stream].stalled):
            receiver.limit = receiver.next + WINDOW
        self.write(encode_ack(stream, receiver.next, receiver.limit, self.nonce))

    def frame(self, kind: int, flags: int, stream: int, offset: int, payload: bytes) -> None:
        if kind == FrameType.ACK:
            # An ACK may overtake the request that names its stream.
            sender = self._control_out if stream == 0 else self.outputs.setdefault(stream, Sender())
            sender.acknowledge(offset, struct.unpack("<Q", payload)[0])
            self.pump()
        elif kind == FrameType.DATA and stream == 0:
            self._messages += self._control_in.take(offset, payload, False)
            self._write_ack(0, self._control_in)
            self._answer_requests()
        elif kind == FrameType.DATA and stream in self.inputs:
            incoming = self.inputs[stream]
            incoming.data += incoming.receiver.take(offset, payload, bool(flags & FIN))
            self._write_ack(stream, incoming.receiver)
            if incoming.receiver.ended:
                incoming.ended.set()
        elif kind == FrameType.RESET:
            self.resets[stream] = payload.decode()
            self.outputs.setdefault(stream, Sender()).reset()
        elif kind == FrameType.BYE:
            self.byes.append(payload.decode())

    def _answer_requests(self) -> None:
        while len(self._messages) >= 4:
            end = 4 + struct.unpack_from("<I", self._messages)[0]
            if len(self._messages) < end:
                return
            request = json.loads(self._messages[4:end])
            del self._messages[:end]
            self.requests.append((request["method"], request["params"]))
            try:
                answer = {"id": request["id"], "result": self.handle(request["method"], request["params"])}
            except HyperError as error:
                answer = {"id": request["id"], "error": {"kind": type(error).__name__, "message": error.message}}
            if answer.get("result", 0) is not None:
                self._send(answer)


class Port(asyncio.Protocol):
    """One connection: skips until a HELLO, then takes frames, until it is lost."""

    def __init__(self, agent: ModelAgent) -> None:
        self._agent = agent
        self._buffer = bytearray()
        self._nonce: int | None = None
        self._left: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._agent.connections += 1
        self._left = self._agent.drop_after()

    def connection_lost(self, exc: Exception | None) -> None:
        self._agent.disconnected(self._transport)

    def data_received(self, data: bytes) -> None:
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                data = data[: self._left]
        self._buffer += data
        self._parse()
        if self._left is not None and self._left < 0:
            self._transport.abort()

    def _parse(self) -> None:
        while not self._transport.is_closing():
            if self._nonce is None:
                at = self._buffer.find(HELLO_MAGIC)
                if at < 20 or len(self._buffer) < at + self._length(at - 20) + 4:
                    return
                del self._buffer[: at - 20]
            while self._buffer[:1] == b"\0":
                del self._buffer[:1]
            if len(self._buffer) < 20:
                return
            kind, flags, _zero, length, stream, offset = HEADER.unpack_from(self._buffer)
            if len(self._buffer) < 24 + length:
                return
            payload = bytes(self._buffer[20 : 20 + length])
            (nonce,) = struct.unpack_from("<I", self._buffer, 20 + length)
            del self._buffer[: 24 + length]
            if kind == FrameType.HELLO:
                hello = json.loads(payload[16:])
                self._nonce = nonce
                self._agent.connected(self._transport, nonce, bytes.fromhex(hello["echo"]), hello["instance"])
            else:
                assert nonce == self._nonce
                self._agent.frame(kind, flags, stream, offset, payload)

    def _length(self, at: int) -> int:
        return int(HEADER.unpack_from(self._buffer, at)[3])
