"""The data area of an EROFS image: file contents appended block by block while they come from the tar.

Whole blocks go to the image file at once; the last part of a file (its *tail*, under one block) is put aside and ends
up behind the file's inode, so that small files cost no block of their own and are read together with their metadata.
Tails are kept in memory up to a bound and in an unnamed file beyond it.

Neighbours: ``writer.py``; ``hyper.images.tree`` (where a file's position is noted).
"""

from __future__ import annotations

import errno
import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from hyper.errors import ResourceExhausted
from hyper.images.erofs.format import BLOCK_BITS, BLOCK_BYTES, BLOCKS_MAX, EXTENDED_BYTES, NO_BLOCK, xattr_area_bytes
from hyper.images.tree import Inode

_BUFFER_BYTES = 1 << 20
_DIRECT_BYTES = 128 << 10
_TAILS_IN_MEMORY_BYTES = 64 << 20
_CHUNKS_MAX = 65_536

Buffer = bytes | memoryview


class DataArea:
    """Appends to the image file ``descriptor`` from block 1 on. Not thread-safe."""

    def __init__(self, descriptor: int, scratch: Path) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._flushed_bytes = BLOCK_BYTES
        self._tails: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_TAILS_IN_MEMORY_BYTES, dir=str(scratch))  # noqa: SIM115
        self._tails_bytes = 0
        self.chunked = False

    @property
    def end_bytes(self) -> int:
        return self._flushed_bytes + len(self._buffer)

    def store(self, inode: Inode, pieces: Iterable[Buffer]) -> None:
        """Take the content of a regular file, ``inode.size`` bytes in ``pieces``, and note in the inode where it is."""
        size = inode.size
        if not size:
            return
        tail_bytes = size % BLOCK_BYTES
        if tail_bytes + EXTENDED_BYTES + (xattr_area_bytes(inode.xattrs) if inode.xattrs else 0) > BLOCK_BYTES:
            tail_bytes = 0
        inode.first_block = self.end_bytes >> BLOCK_BITS
        left = size - tail_bytes
        tail: list[Buffer] = []
        for piece in pieces:
            length = len(piece)
            if length <= left:
                self._append(piece)
                left -= length
            else:
                if left:
                    self._append(memoryview(piece)[:left])
                    piece = memoryview(piece)[left:]
                    left = 0
                tail.append(piece)
        if tail_bytes:
            inode.tail_offset = self._tails_bytes
            inode.tail_bytes = tail_bytes
            self._tails_bytes += tail_bytes
            for piece in tail:
                self._tails.write(piece)
            if size == tail_bytes:
                inode.first_block = 0
        else:
            self.pad()

    def store_sparse(self, inode: Inode, segments: Sequence[tuple[int, int]], pieces: Iterable[Buffer]) -> None:
        """Take a file with holes: ``segments`` are (offset, length) of its data, ascending, disjoint, inside
        ``inode.size``.
        """
        blocks = -(-inode.size // BLOCK_BYTES)
        # Bigger chunks for bigger files: the map in memory and on disk is bounded by the number of segments.
        chunks_wanted = min(_CHUNKS_MAX, 16 * (len(segments) + 1))
        bits = max(0, (max(blocks, 1) - 1).bit_length() - (chunks_wanted.bit_length() - 1))
        chunk_bytes = BLOCK_BYTES << bits
        inode.chunk_bits = bits
        inode.chunks = chunks = array("I", [NO_BLOCK]) * -(-blocks // (1 << bits))
        self.chunked = True
        self.pad()
        self.flush()
        source = iter(pieces)
        piece: Buffer = b""
        for offset, length in segments:
            while length:
                if not piece:
                    piece = next(source)
                index = offset // chunk_bytes
                within = offset % chunk_bytes
                if chunks[index] == NO_BLOCK:
                    chunks[index] = self._flushed_bytes >> BLOCK_BITS
                    self._flushed_bytes += min(1 << bits, blocks - (index << bits)) << BLOCK_BITS
                    self._check_room()
                count = min(length, chunk_bytes - within, len(piece))
                position = (chunks[index] << BLOCK_BITS) + within
                _write_all(self._descriptor, memoryview(piece)[:count], position)
                piece = memoryview(piece)[count:]
                offset += count
                length -= count

    def tail(self, inode: Inode) -> bytes:
        self._tails.seek(inode.tail_offset)
        return self._tails.read(inode.tail_bytes)

    def append_blocks(self, data: Buffer) -> int:
        """Append ``data``, padded to whole blocks; returns its first block."""
        block = self.end_bytes >> BLOCK_BITS
        self._append(data)
        self.pad()
        return block

    def pad(self) -> None:
        if excess := self.end_bytes % BLOCK_BYTES:
            self._buffer += bytes(BLOCK_BYTES - excess)

    def flush(self) -> None:
        if self._buffer:
            self._write(self._buffer)
            self._buffer = bytearray()

    def close(self) -> None:
        self._tails.close()

    def _append(self, data: Buffer) -> None:
        if len(data) >= _DIRECT_BYTES:
            self.flush()
            self._write(data)
            return
        self._buffer += data
        if len(self._buffer) >= _BUFFER_BYTES:
            self.flush()

    def _write(self, data: Buffer | bytearray) -> None:
        _write_all(self._descriptor, memoryview(data), self._flushed_bytes)
        self._flushed_bytes += len(data)
        self._check_room()

    def _check_room(self) -> None:
        if self._flushed_bytes >> BLOCK_BITS > BLOCKS_MAX:
            raise ResourceExhausted("the image is larger than 16 TiB, which is what an EROFS disk can hold")


def _write_all(descriptor: int, view: memoryview, position: int) -> None:
    while view:
        try:
            count = os.pwrite(descriptor, view, position)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise ResourceExhausted(
                f"no space left for the image's disk: {position >> 20} MiB were written and more is needed; "
                "free some space (for instance remove unused images) and try again"
            ) from error
        view = view[count:]
        position += count
