from __future__ import annotations

import pytest

from hyper.cli import human
from hyper.errors import InvalidArgument

HOUR, DAY = 3600, 86400


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (4_261_502, "4.26MB"), (72_800_000, "72.8MB"), (1_130_000_000, "1.13GB")],
)
def test_sizes_as_docker_writes_them(size: int, text: str) -> None:
    assert human.size(size) == text


def test_binary_sizes() -> None:
    assert [human.binary_size(n) for n in (1, 1024, 3 << 29, 2 << 30)] == ["1B", "1KiB", "1.5GiB", "2GiB"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (HOUR, "About an hour"),
        (1.6 * HOUR, "2 hours"),
        (47 * HOUR, "47 hours"),
        (2 * DAY, "2 days"),
        (13 * DAY, "13 days"),
        (14 * DAY, "2 weeks"),
        (59 * DAY, "8 weeks"),
        (60 * DAY, "2 months"),
        (729 * DAY, "24 months"),
        (730 * DAY, "2 years"),
    ],
)
def test_lengths_of_time_as_docker_writes_them(seconds: float, text: str) -> None:
    assert human.ago(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [("512m", 512 << 20), ("1.5G", 3 << 29), ("64KiB", 65536), ("4096", 4096), ("10b", 10), ("1kb", 1024)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert human.parse_size(text, "--memory") == size


@pytest.mark.parametrize("text", ["", "m", "-1m", "1x", "1e400", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--memory"):
        human.parse_size(text, "--memory")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 1000 - 600), ("1h30m", 1000 - 5400), ("1.5s", 998.5), ("250ms", 999.75), ("1970-01-01T00:01:00Z", 60)],
)
def test_times_relative_and_absolute(text: str, seconds: float) -> None:
    assert float(human.timestamp(text, 1000.0, "--since")) == pytest.approx(seconds)


def test_unix_times_are_passed_on_unchanged() -> None:
    assert human.timestamp("1700000000.123456789", 0, "--since") == "1700000000.123456789"


def test_what_is_no_time_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="--since"):
        human.timestamp("yesterday", 0, "--since")


def test_api_times_with_nanoseconds_are_read() -> None:
    assert human.epoch_of("1970-01-01T00:00:01.500000000Z") == 1.5
    assert human.epoch_of("0001-01-01T00:00:00Z") == 0.0
