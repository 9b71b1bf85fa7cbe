"""A row's numbers: least, median, 95th percentile, most, and how engines compare. One definition for all tables and
the plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

COMPARED = ("least", "median", "p95", "most", "÷ docker", "÷ podman")
"""The columns of :func:`compared`."""


@dataclass(frozen=True)
class Figures:
    """In the unit that the measurements were taken in."""

    least: float
    median: float
    p95: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Figures:
        """ValueError when there are none."""
        ordered = sorted(values)
        if not ordered:
            raise ValueError("no measurements")
        return cls(ordered[0], statistics.median(ordered), percentile(ordered, 0.95), ordered[-1])


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank: the least of the measurements that ``share`` of them do not exceed. No value that was not
    measured."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def compared(measured: Mapping[str, Sequence[float]]) -> dict[str, list[str]]:
    """For each engine the cells of :data:`COMPARED`; the ratios are those of medians."""
    figures = {engine: Figures.of(values) for engine, values in measured.items()}
    docker, podman = (figures[peer].median if peer in figures else None for peer in ("docker", "podman"))
    return {
        engine: [
            *(number(value) for value in (one.least, one.median, one.p95, one.most)),
            ratio(one.median, docker),
            ratio(one.median, podman),
        ]
        for engine, one in figures.items()
    }


def number(value: float, digits: int = 0) -> str:
    """For a table's cell."""
    return f"{value:,.{digits}f}"


def ratio(value: float, other: float | None) -> str:
    """``value`` over ``other``, for a table's cell; "-" when there is no other."""
    return f"{value / other:.2f}" if other else "-"


def spread(values: Iterable[float], digits: int = 0) -> str:
    """``median (least-most)``; "-" for nothing."""
    known = list(values)
    if not known:
        return "-"
    middle, least, most = statistics.median(known), min(known), max(known)
    return f"{middle:,.{digits}f} ({least:,.{digits}f}-{most:,.{digits}f})"
