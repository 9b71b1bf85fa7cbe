"""Tables of measurements, for the terminal and for docs/benchmarks.md; what every benchmark here hands back."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Section:
    """One benchmark's result. ``key`` names its place in the docs; ``notes`` are sentences under the table;
    ``samples``, by row and engine, is every measurement (for the plot, and for who wants to look again)."""

    key: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    samples: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)


def machine() -> str:
    """What a number is worth nothing without."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} x {model.group(1) if model else platform.machine()}, "
        f"{memory_gib:.0f} GiB, Linux {platform.release()}, Hyper {commit()}, load {os.getloadavg()[0]:.1f} at the end"
    )


def commit() -> str:
    """Of this checkout, "+" behind it when files differ from it."""
    said = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or "unknown"


def plain(section: Section) -> str:
    """For a terminal: columns lined up."""
    table = [list(section.header), *(list(row) for row in section.rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(section.header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([f"\n{section.title}", lines[0], "-" * len(lines[0]), *lines[1:], *section.notes])


def markdown(section: Section, command: str, taken_on: str) -> str:
    """The same as it stands in the docs."""
    rows = ["| " + " | ".join(row) + " |" for row in (section.header, ["---"] * len(section.header), *section.rows)]
    notes = [f"- {note}" for note in section.notes]
    return "\n".join([f"    {command}", "", f"**{section.title}**", "", f"{taken_on}.", "", *rows, "", *notes]).rstrip()


def write(section: Section, command: str, taken_on: str, docs: Path) -> None:
    """Put it between its markers in ``docs``; at the end when it has no place there yet."""
    begin, end = f"<!-- bench: {section.key} -->", f"<!-- /bench: {section.key} -->"
    block = f"{begin}\n{markdown(section, command, taken_on)}\n{end}"
    text = docs.read_text()
    if begin in text and end in text:
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = before + block + after
    else:
        text = text.rstrip() + f"\n\n## {section.key}\n\n{block}\n"
    docs.write_text(text)
