"""Every measurement of a run, kept as JSON under build/: for the plot, and for whoever wants to look at the numbers
another way.

Written after each section, so that what a long run has measured survives its end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.report import Section


def keep(section: Section, command: str, taken_on: str, file: Path) -> None:
    """Beside the sections of other runs, in place of its own last one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(file.read_text()) if file.exists() else {}
    known[section.key] = {**vars(section), "command": command, "machine": taken_on}
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(known, indent=1, ensure_ascii=False))
    partial.replace(file)


def samples_of(key: str, file: Path) -> tuple[Mapping[str, Mapping[str, Sequence[float]]], str]:
    """A section's measurements, and the machine that they were taken on. KeyError when it was not measured here."""
    known = json.loads(file.read_text()) if file.exists() else {}
    return known[key]["samples"], known[key]["machine"]
