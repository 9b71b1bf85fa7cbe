"""Sizes, durations and times as docker writes and reads them, so that scripts made for docker's output fit."""

from __future__ import annotations

from hyper.errors import InvalidArgument

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size(size_bytes: float, *, digits: int = 3) -> str:
    """4260000 is "4.26MB": powers of 1000."""
    return _scaled(size_bytes, 1000, _DECIMAL, digits)


def binary_size(size_bytes: float, *, digits: int = 4) -> str:
    """2147483648 is "2GiB"."""
    return _scaled(size_bytes, 1024, _BINARY, digits)


def _scaled(number: float, base: int, units: tuple[str, ...], digits: int) -> str:
    unit = 0
    while number >= base and unit < len(units) - 1:
        number /= base
        unit += 1
    return f"{number:.{digits}g}{units[unit]}"


def parse_size(text: str, what: str) -> int:
    """ "512m", "1.5g", "64KiB", "4096": powers of 1024 whatever the letter's case. Raises InvalidArgument."""
    letters = text.strip().lower().removesuffix("ib").removesuffix("b")
    factor = 1
    if letters and letters[-1] in "kmgtp":
        factor = 1024 ** ("kmgtp".index(letters[-1]) + 1)
        letters = letters[:-1]
    try:
        number = float(letters)
        result = int(number * factor)
    except (ValueError, OverflowError):
        result = -1
    if result < 0:
        raise InvalidArgument(f"{what} {text!r} is no size: write for example 512m or 2g")
    return result


def ago(seconds: float) -> str:
    """A length of time in words: "3 minutes", "About an hour"."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    minutes = whole // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for unit, length_h, up_to in (
        ("days", 24, 2 * 7),
        ("weeks", 24 * 7, 2 * 30 / 7),
        ("months", 24 * 30, 2 * 365 / 30),
    ):
        if hours < up_to * length_h:
            return f"{hours // length_h} {unit}"
    return f"{hours // (24 * 365)} years"


def local_time(epoch_s: float) -> str:
    """ "2026-11-23 08:32:00 +0000 UTC", as CreatedAt is written."""
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(epoch_s))


def epoch_of(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time as the API writes it (nanoseconds, "Z"); 0.0 for the zero time or
    none."""
    import datetime

    if not text or text.startswith("0001-01-01"):
        return 0.0
    main, dot, rest = text.partition(".")
    if dot:
        digits = len(rest) - len(rest.lstrip("0123456789"))
        main, fraction, zone = main, rest[:digits][:6], rest[digits:]
        text = f"{main}.{fraction}{zone}"
    try:
        return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0.0


def parse_duration(text: str) -> float:
    """Go's durations, "1h30m", "90s", "250ms", in seconds. Raises ValueError."""
    units = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    total, rest = 0.0, text
    if not rest:
        raise ValueError("empty duration")
    while rest:
        end = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = float(rest[:end]), rest[end:]
        end = len(rest) - len(rest.lstrip("nuµmsh"))
        word = next((rest[:length] for length in range(min(2, end), 0, -1) if rest[:length] in units), None)
        if word is None:
            raise ValueError(f"no unit in {text!r}")
        total += number * units[word]
        rest = rest[len(word) :]
    return total


def timestamp(text: str, now_s: float, what: str) -> str:
    """``--since`` and ``--until`` as the API takes them ("seconds.nanoseconds"): a Unix time, an RFC 3339 time, a
    date, or a
    duration before now. Raises InvalidArgument."""
    import datetime

    if text.replace(".", "", 1).isdecimal():
        return text
    try:
        return f"{now_s - parse_duration(text):.9f}"
    except ValueError:
        pass
    try:
        moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise InvalidArgument(
            f"{what} {text!r} is no time: write for example 10m, 2026-11-23T08:00:00 or seconds since 1970"
        ) from None
    return f"{moment.timestamp():.9f}"


def shorten(text: str, width: int) -> str:
    """At most ``width`` characters, "…" for what is left out."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"
