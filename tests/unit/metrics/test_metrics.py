from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyper.errors import Internal
from hyper.metrics import MOST_SERIES, OTHER, Distribution, Metrics


def test_a_counter_counts_by_label() -> None:
    metrics = Metrics()
    counter = metrics.counter("hyper_things_total", "Things.", "kind")
    counter.add("good", by=0)
    counter.add("bad")
    counter.add("bad", by=2)
    [family] = metrics.families()
    counter.add("bad")
    assert family.values == {("good",): 0, ("bad",): 3}  # as it was then


def test_a_counter_without_labels_begins_at_nothing() -> None:
    metrics = Metrics()
    metrics.counter("hyper_things_total", "Things.")
    assert metrics.families()[0].values == {(): 0}


def test_a_gauge_is_read_when_somebody_looks() -> None:
    metrics = Metrics()
    level = 1
    metrics.gauge("hyper_level", "Level.", read=lambda: level)
    metrics.gauge("hyper_levels", "Levels.", "of", read=lambda: {("a",): level, ("b",): 0})
    level = 7
    assert [family.values for family in metrics.families()] == [{(): 7}, {("a",): 7, ("b",): 0}]


@given(st.lists(st.floats(0, 1000), min_size=1))
def test_a_histogram_counts_what_is_up_to_each_bound(seconds: list[float]) -> None:
    metrics = Metrics()
    histogram = metrics.histogram("hyper_waits_seconds", "Waits.", "what", bounds_s=(0.5, 1, 10))
    for value in seconds:
        histogram.observe(value, "it")
    [found] = metrics.families()[0].values.values()
    assert isinstance(found, Distribution)
    assert found.buckets == tuple((bound, sum(value <= bound for value in seconds)) for bound in (0.5, 1, 10))
    assert found.count == len(seconds)
    assert math.isclose(found.sum, sum(seconds))


def test_no_metric_has_more_series_than_allowed() -> None:
    metrics = Metrics()
    counter = metrics.counter("hyper_things_total", "Things.", "a", "b")
    histogram = metrics.histogram("hyper_waits_seconds", "Waits.", "a")
    for number in range(MOST_SERIES * 10):
        counter.add(str(number), "x")
        histogram.observe(1.0, str(number))
    things, waits = (family.values for family in metrics.families())
    assert len(things) == len(waits) == MOST_SERIES + 1
    assert things[(OTHER, OTHER)] == MOST_SERIES * 9
    other = waits[(OTHER,)]
    assert isinstance(other, Distribution) and other.count == MOST_SERIES * 9


def test_mistakes_of_ours_are_found() -> None:
    metrics = Metrics()
    counter = metrics.counter("hyper_things_total", "Things.", "kind")
    with pytest.raises(Internal, match="declared twice"):
        metrics.gauge("hyper_things_total", "Things.", read=lambda: 1)
    with pytest.raises(Internal, match="1 labels was told 2"):
        counter.add("a", "b")
    for name in ("things_total", "hyper_things", "hyper_Things_total", "hyper__total_"):
        with pytest.raises(Internal, match="no name of a counter"):
            metrics.counter(name, "Things.")
    with pytest.raises(Internal, match="no name of a histogram"):
        metrics.histogram("hyper_waits_seconds", "Waits.", "Kind")
