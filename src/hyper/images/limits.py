"""What an image may cost: the bounds that keep a hostile archive from filling disk, memory or time.

Neighbours: ``compression.py`` (sizes, ratio), ``layers/merge.py`` (entries, names), ``archives.py``.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from hyper.errors import ResourceExhausted, Unavailable

MIB = 1 << 20


@dataclass(frozen=True)
class ImageLimits:
    """All per image. ``expansion_ratio`` bounds uncompressed bytes per compressed byte beyond ``expansion_free_bytes``.

    1,000 entries cost about 1 MB of memory while an image is made. ``free_bytes_kept``: what must stay free on the
    disk.
    """

    uncompressed_bytes: int = 256 << 30
    expansion_ratio: int = 250
    expansion_free_bytes: int = 1 << 30
    archive_bytes: int = 256 << 30
    archive_entries: int = 20_000
    layers: int = 500
    entries: int = 2_000_000
    metadata_bytes: int = 2 << 30
    path_bytes: int = 4095
    name_bytes: int = 255
    depth: int = 255
    xattr_bytes: int = 128 << 10
    sparse_file_bytes: int = 1 << 40
    free_bytes_kept: int = 256 * MIB
    json_bytes: int = 4 * MIB


class Budget:
    """Counts one operation's bytes against the limits, and carries its stop flag. Used from worker threads."""

    def __init__(self, limits: ImageLimits, directory: Path, stop: threading.Event | None = None) -> None:
        self.limits = limits
        self._directory = directory
        self._stop = stop or threading.Event()
        self._uncompressed_bytes = 0
        self._unchecked_bytes = 0

    def stop(self) -> None:
        """Make the work end at its next step (the caller went away)."""
        self._stop.set()

    def for_archive(self) -> Budget:
        """A budget for the archive around the layers: counted on its own, stopped together with this one."""
        return Budget(replace(self.limits, uncompressed_bytes=self.limits.archive_bytes), self._directory, self._stop)

    def check_stop(self) -> None:
        if self._stop.is_set():
            raise Unavailable("the transfer was broken off")

    def add_uncompressed(self, count: int) -> None:
        """Account ``count`` bytes that came out of a layer. ResourceExhausted beyond the limit."""
        self.check_stop()
        self._uncompressed_bytes += count
        if self._uncompressed_bytes > self.limits.uncompressed_bytes:
            raise ResourceExhausted(
                f"the image has more than {self.limits.uncompressed_bytes // MIB} MiB uncompressed, which "
                f"is the limit set for images"
            )

    def add_written(self, count: int) -> None:
        """Account ``count`` bytes about to be written; looks at the free space every 64 MiB."""
        self.check_stop()
        self._unchecked_bytes += count
        if self._unchecked_bytes >= 64 * MIB:
            self._unchecked_bytes = 0
            self.check_free()

    def check_free(self) -> None:
        """ResourceExhausted when the disk would be left with less than ``free_bytes_kept``."""
        status = os.statvfs(self._directory)
        free_bytes = status.f_bavail * status.f_frsize
        if free_bytes < self.limits.free_bytes_kept:
            raise ResourceExhausted(
                f"not enough space in {self._directory}: {free_bytes // MIB} MiB are free and "
                f"{self.limits.free_bytes_kept // MIB} MiB must stay free; free some space "
                "(for instance remove unused images) and try again"
            )
