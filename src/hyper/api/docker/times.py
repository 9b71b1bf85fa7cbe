"""Times as the API writes and reads them."""

from __future__ import annotations

import calendar
import re
import time

from hyper.errors import InvalidArgument

ZERO = "0001-01-01T00:00:00Z"
"""Go's zero time: "never"."""

_TIMESTAMP = re.compile(r"(-?\d{1,12})(?:\.(\d{1,9}))?", re.ASCII)
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNIT_NS = {"ns": 1, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9}
_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def rfc3339_nano(time_ns: int) -> str:
    """UTC, fractions without trailing zeros, as Go's RFC3339Nano; 0 is the zero time."""
    if time_ns == 0:
        return ZERO
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    fraction = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


def rfc3339_nano_fixed(time_ns: int) -> str:
    """Always nine decimals, as log lines have."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"


def parse_timestamp_ns(text: str, now_ns: int) -> int:
    """``since`` and ``until``: seconds since the epoch with an optional fraction, RFC 3339, or a duration before
    ``now_ns`` ("10m"); "" is 0."""
    if not text:
        return 0
    if match := _TIMESTAMP.fullmatch(text):
        return int(match[1]) * 1_000_000_000 + int((match[2] or "0").ljust(9, "0"))
    if match := _RFC3339.fullmatch(text):
        return _from_rfc3339(match, text)
    if _DURATION.fullmatch(text):
        return now_ns - int(sum(float(number) * _UNIT_NS[unit] for number, unit in _DURATION_PART.findall(text)))
    raise InvalidArgument(
        f'"{text[:64]}" is not a time: give seconds since 1970, an RFC 3339 time, or a duration such as 10m'
    )


def _from_rfc3339(match: re.Match[str], text: str) -> int:
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61 and year):
        raise InvalidArgument(f'"{text}" is not a time: a part of it is out of range')
    seconds = calendar.timegm((year, month, day, hour, minute, second))
    zone = match[8]
    if zone not in "Zz":
        shift_s = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        seconds += -shift_s if zone[0] == "+" else shift_s
    return seconds * 1_000_000_000 + int((match[7] or "0").ljust(9, "0"))


def human_duration(duration_s: float) -> str:
    """How long, roughly, in the words that ``docker ps`` shows."""
    seconds = int(duration_s)
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    minutes = seconds // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(duration_s / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{int(duration_s / 3600) // 24 // 365} years"
