"""Columns aligned as docker's tables: each as wide as its longest cell and three blanks, never under ten; the last
one as it is."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

MINIMUM_WIDTH = 10
PADDING = 3


def align(rows: Sequence[Sequence[str]]) -> str:
    """Lines with their line ends. Rows may be of different lengths."""
    widths: list[int] = []
    for row in rows:
        for column, cell in enumerate(row[:-1]):
            if column == len(widths):
                widths.append(MINIMUM_WIDTH)
            widths[column] = max(widths[column], _width(cell) + PADDING)
    lines = []
    for row in rows:
        cells = [cell + " " * (width - _width(cell)) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("".join([*cells, *row[-1:]]) + "\n")
    return "".join(lines)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
