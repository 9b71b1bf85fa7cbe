"""What the daemon counts of itself: plain numbers, which cost next to nothing while nobody asks for them.

The daemon makes one :class:`Metrics` and gives it to every part that has something to count; the part declares it and
keeps what it gets back. Names and kinds are Prometheus's, which this module does not know: ``hyper.api.metrics`` shows
them. No metric has more than :data:`MOST_SERIES` label sets, whatever it is told: what is beyond counts as "other".
Only for the event loop's thread.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hyper.errors import Internal

MOST_SERIES = 100
OTHER = "other"
PHASE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_NAME = re.compile(r"hyper_[a-z][a-z_]*[a-z]")
_LABEL = re.compile(r"[a-z][a-z_]*")

Labels = tuple[str, ...]
Kind = Literal["counter", "gauge", "histogram"]
Readings = float | Mapping[Labels, float]


@dataclass(frozen=True)
class Distribution:
    """What a histogram has seen: how many values are up to each bound, how many there are, and their sum."""

    buckets: tuple[tuple[float, int], ...]
    count: int
    sum: float


@dataclass(frozen=True)
class Family:
    """One metric as it is now: ``values`` by label values, in the order of ``labels``."""

    name: str
    help: str
    kind: Kind
    labels: Labels
    values: Mapping[Labels, float | Distribution]


class Counter:
    """How often something happened. Made by :meth:`Metrics.counter`."""

    def __init__(self, labels: int) -> None:
        self._labels = labels
        self.values: dict[Labels, float] = {} if labels else {(): 0}

    def add(self, *labels: str, by: float = 1) -> None:
        """``by=0`` shows a series before anything happened, so that its first time is seen as a change."""
        if labels not in self.values:
            labels = _bounded(labels, self._labels, self.values)
        self.values[labels] = self.values.get(labels, 0) + by


class Histogram:
    """How long something took, in seconds. Made by :meth:`Metrics.histogram`."""

    def __init__(self, labels: int, bounds_s: Sequence[float]) -> None:
        self._labels = labels
        self._bounds_s = tuple(map(float, bounds_s))
        self._seen: dict[Labels, tuple[list[int], list[float]]] = {}

    def observe(self, seconds: float, *labels: str) -> None:
        if labels not in self._seen:
            labels = _bounded(labels, self._labels, self._seen)
            self._seen.setdefault(labels, ([0] * (len(self._bounds_s) + 1), [0.0]))
        counts, total = self._seen[labels]
        counts[bisect_left(self._bounds_s, seconds)] += 1
        total[0] += seconds

    @property
    def values(self) -> dict[Labels, Distribution]:
        found = {}
        for labels, (counts, total) in self._seen.items():
            below, buckets = 0, []
            for bound_s, count in zip(self._bounds_s, counts, strict=False):
                below += count
                buckets.append((bound_s, below))
            found[labels] = Distribution(tuple(buckets), below + counts[-1], total[0])
        return found


class Metrics:
    """All that is declared. Declaring a name twice, or one that is none of ours, is a mistake of ours: Internal."""

    def __init__(self) -> None:
        self._families: dict[str, Callable[[], Family]] = {}

    def counter(self, name: str, help: str, *labels: str) -> Counter:
        """``name`` ends in "_total"."""
        counter = Counter(len(labels))
        self._declare(name, help, "counter", labels, lambda: dict(counter.values))
        return counter

    def histogram(self, name: str, help: str, *labels: str, bounds_s: Sequence[float] = PHASE_BUCKETS_S) -> Histogram:
        """``name`` ends in "_seconds"."""
        histogram = Histogram(len(labels), bounds_s)
        self._declare(name, help, "histogram", labels, lambda: histogram.values)
        return histogram

    def gauge(self, name: str, help: str, *labels: str, read: Callable[[], Readings]) -> None:
        """``read`` is called when somebody looks: it gives the value, or with labels the values by label values. It
        must be quick and must not fail."""

        def values() -> dict[Labels, float]:
            readings = read()
            return dict(readings) if isinstance(readings, Mapping) else {(): readings}

        self._declare(name, help, "gauge", labels, values)

    def families(self) -> list[Family]:
        """Everything as it is now; what is returned does not change any more."""
        return [make() for make in self._families.values()]

    def _declare(
        self,
        name: str,
        help: str,
        kind: Kind,
        labels: Labels,
        values: Callable[[], Mapping[Labels, float] | Mapping[Labels, Distribution]],
    ) -> None:
        ending = {"counter": "_total", "histogram": "_seconds", "gauge": ""}[kind]
        if not (_NAME.fullmatch(name) and name.endswith(ending) and all(map(_LABEL.fullmatch, labels))):
            raise Internal(f"{name} with the labels {labels} is no name of a {kind}")
        if name in self._families:
            raise Internal(f"the metric {name} is declared twice")
        self._families[name] = lambda: Family(name, help, kind, labels, {**values()})


def _bounded(labels: Labels, expected: int, known: Mapping[Labels, object]) -> Labels:
    if len(labels) != expected:
        raise Internal(f"a metric with {expected} labels was told {len(labels)}")
    return labels if len(known) < MOST_SERIES else (OTHER,) * expected
