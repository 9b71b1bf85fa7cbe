"""Tables of measurements, for the terminal and for docs/benchmarks.md; what every benchmark here hands back."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Section:
    """One benchmark's result. ``key`` names its place in the docs; ``notes`` are sentences under the table."""

    key: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def spread(values: Iterable[float], digits: int = 0) -> str:
    """``median (least-most)``."""
    known = list(values)
    if not known:
        return "-"
    middle, least, most = statistics.median(known), min(known), max(known)
    return f"{middle:,.{digits}f} ({least:,.{digits}f}-{most:,.{digits}f})"


def machine() -> str:
    """What a number is worth nothing without."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} x {model.group(1) if model else platform.machine()}, "
        f"{memory_gib:.0f} GiB, Linux {platform.release()}, load {os.getloadavg()[0]:.1f} at the end"
    )


def plain(section: Section) -> str:
    """For a terminal: columns lined up."""
    table = [list(section.header), *(list(row) for row in section.rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(section.header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([f"\n{section.title}", lines[0], "-" * len(lines[0]), *lines[1:], *section.notes])


def markdown(section: Section, command: str) -> str:
    """The same as it stands in the docs."""
    rows = ["| " + " | ".join(row) + " |" for row in section.rows]
    head = ["| " + " | ".join(section.header) + " |", "|" + "---|" * len(section.header)]
    notes = [f"- {note}" for note in section.notes]
    return "\n".join([f"    {command}", "", f"{machine()}.", "", *head, *rows, "", *notes]).rstrip()


def write(section: Section, command: str, docs: Path) -> None:
    """Put it between its markers in ``docs``; at the end when it has no place there yet."""
    begin, end = f"<!-- bench: {section.key} -->", f"<!-- /bench: {section.key} -->"
    block = f"{begin}\n{markdown(section, command)}\n{end}"
    text = docs.read_text()
    if begin in text and end in text:
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = before + block + after
    else:
        text = text.rstrip() + f"\n\n## {section.title}\n\n{block}\n"
    docs.write_text(text)
