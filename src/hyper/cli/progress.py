"""Progress of long work on a terminal: one line, rewritten at most ten times a second. On anything else, nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import BinaryIO, TextIO

from hyper.cli import human, terminal

REDRAW_S = 0.1
BAR_COLUMNS = 30
PIECE_BYTES = 256 * 1024


class Progress:
    """A bar for ``what``; ``total`` 0 when nobody knows how much there is."""

    def __init__(self, what: str, total: int, *, stream: TextIO | None = None, shown: bool | None = None) -> None:
        self._what = what
        self._total = total
        self._stream = stream or sys.stderr
        self._shown = terminal.is_terminal(2) if shown is None else shown
        self._done = 0
        self._drawn_s = 0.0
        self._started_s = time.monotonic()
        self._note = ""

    def advance(self, count: int) -> None:
        self._done += count
        self._draw()

    def note(self, text: str) -> None:
        """What is being done at the moment, behind the bar."""
        self._note = text
        self._draw()

    def clear(self) -> None:
        """Take the line away; what comes next stands in its place."""
        if self._shown and self._drawn_s:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _draw(self) -> None:
        now = time.monotonic()
        if self._shown and now - self._drawn_s >= REDRAW_S:
            self._drawn_s = now
            columns = terminal.size(2)[1] or 80
            self._stream.write("\r\x1b[K" + human.shorten(self.line(now), columns - 1))
            self._stream.flush()

    def line(self, now: float) -> str:
        rate = self._done / max(now - self._started_s, 0.001)
        text = f"{self._what} "
        if self._total:
            part = min(self._done / self._total, 1.0)
            full = int(part * BAR_COLUMNS)
            text += "[" + "=" * full + ">" * (full < BAR_COLUMNS) + " " * (BAR_COLUMNS - full - 1) + f"] {part:4.0%} "
        text += f"{human.size(self._done)}"
        if self._total:
            text += f"/{human.size(self._total)}"
        return f"{text} {human.size(rate)}/s" + (f"  {self._note}" if self._note else "")


def read_pieces(file: BinaryIO, progress: Progress) -> Iterator[bytes]:
    """The file in pieces, each counted once it has been taken."""
    while piece := file.read(PIECE_BYTES):
        yield piece
        progress.advance(len(piece))
