"""From layer blobs to one EROFS disk: verify, decompress, merge and write in a stream. Blocking; run it in a worker
thread.

Neighbours: ``merge.py``, ``hyper.images.compression``, ``hyper.images.erofs``; ``hyper.images.disks`` stores the
result.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyper.errors import DataLoss
from hyper.images.compression import ahead, decompressed
from hyper.images.erofs.writer import ErofsWriter
from hyper.images.layers.merge import LayerMerger
from hyper.images.limits import Budget
from hyper.images.tar import TarReader
from hyper.oci import digest

_READ_BYTES = 1 << 20
_FORMAT = b"hyper-erofs-1 "
"""Part of a disk's UUID: to be changed when the same layers begin to give other bytes."""


@dataclass(frozen=True)
class Layer:
    """``diff_id``: what the uncompressed bytes must hash to; "" when nobody promised anything.

    ``verified``: the file holds just those bytes, hashed already.
    """

    path: Path
    diff_id: str
    verified: bool
    name: str = "the layer"


@dataclass(frozen=True)
class BuiltDisk:
    """Sizes in bytes. ``diff_ids``: as found; ``layer_bytes``: uncompressed size per layer, lowest first;
    ``hidden_bytes``: data that was not written.
    """

    disk_bytes: int
    diff_ids: tuple[str, ...]
    layer_bytes: tuple[int, ...]
    hidden_bytes: int


def build_disk(
    layers: Sequence[Layer], descriptor: int, scratch: Path, budget: Budget, progress: Callable[[int, int, int], None]
) -> BuiltDisk:
    """Merge ``layers`` (lowest first) into the empty file ``descriptor``.

    ``progress`` gets the layer's number (from the lowest), the uncompressed bytes done in it, and the bytes read of its
    file. DataLoss when a layer does not match its diff ID or is damaged, InvalidArgument when it is malformed,
    ResourceExhausted when a limit or the disk is full.
    """
    writer = ErofsWriter(descriptor, scratch)
    merger = LayerMerger(writer.data, budget.limits)
    sizes = [0] * len(layers)
    diff_ids = [layer.diff_id for layer in layers]
    try:
        for number in reversed(range(len(layers))):
            layer = layers[number]
            read = [0]
            with ahead(_verified(layer, number, diff_ids, budget, read)) as chunks:
                merger.read(TarReader(_watched(chunks, number, sizes, budget, progress, read), layer.name))
            if merger.wanted:
                with ahead(_verified(layer, number, diff_ids, budget)) as chunks:
                    merger.read_wanted(TarReader(chunks, layer.name))
        chain = digest.chain_id(diff_ids)
        size = writer.finish(merger.finish(), hashlib.sha256(_FORMAT + chain.encode()).digest()[:16])
    finally:
        writer.data.close()
    return BuiltDisk(size, tuple(diff_ids), tuple(sizes), merger.hidden_bytes)


def read_file(path: Path) -> Iterator[bytes]:
    """The file's bytes in chunks of 1 MiB."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while chunk := file.read(_READ_BYTES):
            yield chunk


def verify(layer: Layer, budget: Budget) -> int:
    """Read a whole layer against its diff ID without using it; returns its uncompressed size."""
    return sum(len(chunk) for chunk in _verified(layer, 0, [layer.diff_id], budget))


def _verified(
    layer: Layer, number: int, diff_ids: list[str], budget: Budget, read: list[int] | None = None
) -> Iterator[bytes]:
    """The layer's tar stream. At its end DataLoss when it was not the one promised; else its diff ID is in
    ``diff_ids``. ``read[0]`` counts the bytes of its file.
    """
    counts = [0] if read is None else read
    chunks = decompressed(_counted(read_file(layer.path), counts), budget, layer.name)
    if layer.verified:
        yield from chunks
        return
    sha256 = hashlib.sha256()
    for chunk in chunks:
        sha256.update(chunk)
        yield chunk
    found = f"sha256:{sha256.hexdigest()}"
    if layer.diff_id and found != layer.diff_id:
        raise DataLoss(
            f"{layer.name} does not match the image's configuration: its content has the diff ID {found}, "
            f"not {layer.diff_id}; the image is damaged or was tampered with"
        )
    diff_ids[number] = found


def _counted(chunks: Iterator[bytes], counts: list[int]) -> Iterator[bytes]:
    for chunk in chunks:
        counts[0] += len(chunk)
        yield chunk


def _watched(
    chunks: Iterator[bytes],
    number: int,
    sizes: list[int],
    budget: Budget,
    progress: Callable[[int, int, int], None],
    read: list[int],
) -> Iterator[bytes]:
    for chunk in chunks:
        sizes[number] += len(chunk)
        budget.add_written(len(chunk))
        progress(number, sizes[number], read[0])
        yield chunk
