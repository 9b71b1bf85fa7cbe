"""Decompression as a stream of bounded chunks: gzip (isal), zstd, xz, bzip2 or nothing, told by the first bytes.

A decompressor is always given an output bound, so that a bomb costs one chunk of memory and is stopped by the budget.
Neighbours: ``limits.py``; ``content.py`` (raw chunks of a blob); ``layers/`` and ``archives.py`` (readers).
"""

from __future__ import annotations

import bz2
import lzma
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, cast

import zstandard
from isal import isal_zlib

from hyper.errors import DataLoss, ResourceExhausted
from hyper.images.limits import Budget

CHUNK_BYTES = 1 << 20
_WINDOW_BYTES_MAX = 128 << 20
# The binding's stubs call the exception class a plain value.
_ISAL_ERROR = cast(type[Exception], isal_zlib.IsalError)
_XZ_MEMORY_BYTES_MAX = 256 << 20
# The zstd binding has no output bound, so its input is fed in small pieces: one can become 64 MiB at the worst.
_ZSTD_FEED_BYTES = 2048


class _Decompressor(Protocol):
    """What gzip, xz and bzip2 objects have in common here."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def feed(self, data: bytes) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...


class _Gzip:
    def __init__(self) -> None:
        self._inner = isal_zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def feed(self, data: bytes) -> bytes:
        pending = self._inner.unconsumed_tail
        return bytes(self._inner.decompress(pending + data if pending else data, CHUNK_BYTES))

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail


class _Lzma:
    def __init__(self) -> None:
        self._inner: lzma.LZMADecompressor | bz2.BZ2Decompressor = lzma.LZMADecompressor(
            lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES_MAX
        )

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def feed(self, data: bytes) -> bytes:
        return self._inner.decompress(data, CHUNK_BYTES)

    @property
    def needs_input(self) -> bool:
        return self._inner.needs_input


class _Bzip2(_Lzma):
    def __init__(self) -> None:
        self._inner = bz2.BZ2Decompressor()


_MAGIC: tuple[tuple[bytes, type[_Gzip] | type[_Lzma] | type[_Bzip2]], ...] = (
    (b"\x1f\x8b\x08", _Gzip),
    (b"\xfd7zXZ\0", _Lzma),
    (b"BZh", _Bzip2),
)


def is_zstd(head: bytes) -> bool:
    """Whether the first bytes are those of a zstd frame, or of one to be skipped."""
    return head[:4] == b"\x28\xb5\x2f\xfd" or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50)


def is_compressed(head: bytes) -> bool:
    """Whether the first bytes (6 suffice) are those of a compressed stream."""
    return is_zstd(head) or any(head.startswith(magic) for magic, _ in _MAGIC)


def decompressed(raw: Iterator[bytes], budget: Budget, what: str) -> Iterator[bytes]:
    """The uncompressed chunks of ``raw``, each about 1 MiB at most, counted against the budget.

    DataLoss when the stream is damaged, truncated or followed by something else; ResourceExhausted for a bomb.
    """
    limits = budget.limits
    compressed_bytes = expanded_bytes = 0

    def counted() -> Iterator[bytes]:
        nonlocal compressed_bytes
        for chunk in raw:
            compressed_bytes += len(chunk)
            yield chunk

    head = b""
    source = counted()
    while len(head) < 6 and (chunk := next(source, b"")):
        head += chunk
    if not is_compressed(head):
        output = _chain(head, source)
    elif is_zstd(head):
        output = _zstd(_chain(head, source), what)
    else:
        make = next(make for magic, make in _MAGIC if head.startswith(magic))
        output = _members(make, _chain(head, source), what)
    for chunk in output:
        expanded_bytes += len(chunk)
        budget.add_uncompressed(len(chunk))
        if expanded_bytes > limits.expansion_free_bytes + limits.expansion_ratio * compressed_bytes:
            raise ResourceExhausted(
                f"{what} expands more than {limits.expansion_ratio} times ({compressed_bytes} bytes became "
                f"{expanded_bytes} and there is more): it looks like a decompression bomb"
            )
        yield chunk


def _chain(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest


def _members(make: type[_Gzip] | type[_Lzma] | type[_Bzip2], raw: Iterator[bytes], what: str) -> Iterator[bytes]:
    """One or more compressed streams in a row, as gzip and xz allow; zeros may pad the end."""
    pending = b""
    while True:
        inner: _Decompressor = make()
        data = pending
        while not inner.eof:
            if not data and inner.needs_input and not (data := next(raw, b"")):
                raise DataLoss(f"{what} is truncated: its compressed data ends too early; make or transfer it again")
            try:
                chunk = inner.feed(data)
            except (_ISAL_ERROR, lzma.LZMAError, OSError, EOFError, ValueError) as error:
                raise DataLoss(f"{what} is damaged: {error}; make or transfer it again") from error
            data = b""
            if chunk:
                yield chunk
        pending = inner.unused_data.lstrip(b"\0")
        while not pending:
            chunk = next(raw, b"")
            if not chunk:
                return
            pending = chunk.lstrip(b"\0")
        if not _is_start(pending, make):
            raise DataLoss(f"{what} is damaged: something else follows its compressed data; make or transfer it again")


def _is_start(data: bytes, make: type[_Gzip] | type[_Lzma] | type[_Bzip2]) -> bool:
    magic = next(magic for magic, known in _MAGIC if known is make)
    return data[: len(magic)] == magic[: len(data)]


def _zstd(raw: Iterator[bytes], what: str) -> Iterator[bytes]:
    """zstd frames, skippable ones included (zstd:chunked layers end in one)."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)
    inner = decompressor.decompressobj()
    started = False
    parts: list[bytes] = []
    parts_bytes = 0
    for block in raw:
        position = 0
        while position < len(block):
            piece = block[position : position + _ZSTD_FEED_BYTES]
            position += len(piece)
            while piece:
                try:
                    chunk = inner.decompress(piece)
                except zstandard.ZstdError as error:
                    raise DataLoss(f"{what} is damaged: {error}; make or transfer it again") from error
                started, piece = True, b""
                if inner.eof:
                    piece = inner.unused_data
                    inner, started = decompressor.decompressobj(), False
                parts.append(chunk)
                parts_bytes += len(chunk)
            if parts_bytes >= CHUNK_BYTES:
                yield b"".join(parts)
                parts, parts_bytes = [], 0
    if started:
        raise DataLoss(f"{what} is truncated: its compressed data ends too early; make or transfer it again")
    if parts_bytes:
        yield b"".join(parts)


@contextmanager
def ahead(chunks: Iterator[bytes], depth: int = 4) -> Iterator[Iterator[bytes]]:
    """Run ``chunks`` in a thread of its own, at most ``depth`` chunks ahead: decompressing and hashing overlap with
    writing.
    """
    fifo: queue.Queue[bytes | BaseException] = queue.Queue(depth)
    stopped = threading.Event()

    def produce() -> None:
        end: bytes | BaseException = b""
        try:
            for chunk in chunks:
                if stopped.is_set():
                    return
                fifo.put(chunk)
        except BaseException as error:  # handed over to the reader, whatever it is
            end = error
        if not stopped.is_set():
            fifo.put(end)

    def consume() -> Iterator[bytes]:
        while True:
            item = fifo.get()
            if isinstance(item, BaseException):
                raise item
            if not item:
                return
            yield item

    thread = threading.Thread(target=produce, name="decompress", daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        stopped.set()
        while thread.is_alive():
            try:
                fifo.get(timeout=0.01)
            except queue.Empty:
                pass
        thread.join()
