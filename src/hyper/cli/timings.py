"""``--timings``: where a start's time went, as a small chart on stderr.

The engine tells it in the answer to the start itself (``Server-Timing``), so that it is there for containers that are
gone at once, too. A phase "sandbox.boot" is a part of the phase "sandbox". Neighbour: ``run.py``.
"""

from __future__ import annotations

import os
import sys
import time

from hyper.cli import terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

TOTAL = "total"
_FROM = {"pool": " from the pool", "template": " from the template", "cold": " by a cold boot"}
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_MINIMUM_BAR, _DEFAULT_WIDTH = 8, 80
_SHORTEST_MS = 0.001
_FOREVER_MS = 1e9
_COLOURS = ("\x1b[36m", "\x1b[2;36m", "\x1b[0m")


class Timings:
    """Of one start: told by :meth:`started`, shown once by :meth:`show`."""

    def __init__(self) -> None:
        self.first_output_s: float | None = None
        """When the first output came (monotonic); None when nobody was attached, or there was none."""
        self._answered_s: float | None = None
        self._told = ""

    def started(self, headers: Mapping[str, str]) -> None:
        """The headers of the answer to the start."""
        self._answered_s = time.monotonic()
        self._told = headers.get("server-timing", "")

    def show(self) -> None:
        """To stderr; nothing when nothing was started."""
        if self._answered_s is None:
            return
        rung, phases = parse(self._told)
        if not phases:
            print("hyper: no timings: it was running already, or this engine does not tell them", file=sys.stderr)
            return
        first_ms = None if self.first_output_s is None else max(0.0, self.first_output_s - self._answered_s) * 1000
        on_terminal = terminal.is_terminal(2)
        coloured = on_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        width = terminal.size(2)[1] if on_terminal else 0
        text = heading(rung, phases, first_ms) + "".join(
            line + "\n" for line in chart(phases, width or _DEFAULT_WIDTH, coloured=coloured, blocks=_has_blocks())
        )
        sys.stdout.flush()
        sys.stderr.write(text)
        sys.stderr.flush()


def _has_blocks() -> bool:
    try:
        _EIGHTHS.encode(sys.stderr.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def parse(server_timing: str) -> tuple[str, dict[str, float]]:
    """The rung, and milliseconds by phase in order. What cannot be read is passed over: it is another engine's."""
    rung, phases = "", {}
    for metric in server_timing.split(","):
        name, *parameters = (part.strip() for part in metric.split(";"))
        values = dict(parameter.partition("=")[::2] for parameter in parameters)
        if name == "rung":
            rung = values.get("desc", "")
        elif name and "dur" in values:
            try:
                ms = float(values["dur"])
            except ValueError:
                continue
            if 0 <= ms < _FOREVER_MS:
                phases[name] = ms
    return rung, phases


def heading(rung: str, phases: Mapping[str, float], first_output_ms: float | None) -> str:
    total_ms = phases.get(TOTAL, sum(ms for phase, ms in phases.items() if not _parent(phase, phases)))
    first = "" if first_output_ms is None else f"; first output {first_output_ms:.1f} ms later"
    return f"started in {total_ms:.1f} ms{_FROM.get(rung, '')}{first}\n"


def chart(phases: Mapping[str, float], width: int, *, coloured: bool, blocks: bool) -> list[str]:
    """A line for each phase: its name, its milliseconds, and a bar from where it began to where it ended. Parts of a
    phase stand below it. ``blocks``: bars may be drawn in eighths of a character."""
    rows: list[tuple[str, float, float]] = []  # name, beginning, length
    reached = 0.0
    for phase, ms in phases.items():
        if phase == TOTAL or _parent(phase, phases):
            continue
        rows.append((phase, reached, ms))
        part_began = reached
        for part, part_ms in phases.items():
            if _parent(part, phases) == phase:
                rows.append((f"  {part[len(phase) + 1 :]}", part_began, part_ms))
                part_began += part_ms
        reached += ms
    names = max((len(name) for name, _, _ in rows), default=0)
    numbers = max((len(f"{ms:.1f}") for _, _, ms in rows), default=0)
    columns = max(_MINIMUM_BAR, width - names - numbers - 7)
    scale = columns / max(_SHORTEST_MS, *(began + ms for _, began, ms in rows))
    lines = []
    for name, began, ms in rows:
        bar = _bar(began * scale, ms * scale, columns, blocks)
        if coloured:
            start, part_start, end = _COLOURS
            bar = bar[: -len(bar.lstrip())] + (part_start if name.startswith(" ") else start) + bar.lstrip() + end
        lines.append(f"  {name:<{names}}  {ms:>{numbers}.1f}  {bar}")
    return lines


def _parent(phase: str, phases: Mapping[str, float]) -> str:
    """The phase that this one is a part of, or nothing."""
    parent = phase.partition(".")[0]
    return parent if parent != phase and parent in phases else ""


def _bar(begin: float, length: float, columns: int, blocks: bool) -> str:
    """At least something, and within the columns: its left end on a whole character, its right end to the eighth."""
    left = min(int(begin), columns - 1)
    length = min(begin + length, columns) - left
    if not blocks:
        return " " * left + "#" * max(1, round(length))
    whole, eighths = divmod(max(1, round(length * 8)), 8)
    return " " * left + "█" * whole + _EIGHTHS[eighths].rstrip()
