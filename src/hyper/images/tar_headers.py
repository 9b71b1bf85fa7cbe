"""Parsing of what tar headers carry: numbers, PAX records, the four notations of sparse files. Pure functions.

``bad`` makes the error to raise from a description of what is wrong. Neighbour: ``tar.py``, which says where the facts
are from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyper.images.tar import Entry, Segments

EXTENSION_BYTES_MAX = 1 << 20
SEGMENTS_MAX = 65_536
_SIZE_MAX = (1 << 63) - 1
_XATTR = b"SCHILY.xattr."

Bad = Callable[[str], Exception]
Pax = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class PaxSparse:
    """``inner``: the map lies in the body (format 1.0)."""

    size: int
    segments: Segments
    inner: bool


def show(name: bytes) -> str:
    """A hostile name, fit for a message."""
    return repr(name[:200].decode("utf-8", "backslashreplace"))


def parse_number(field: bytes, what: str, bad: Bad) -> int:
    """A header's number: octal digits between blanks, or base-256 when the first bit is set. Empty is 0."""
    if field and field[0] & 0x80:
        value = int.from_bytes(field, "big")
        value &= (1 << (8 * len(field) - 1)) - 1
        if field[0] & 0x40:  # negative, two's complement
            value -= 1 << (8 * len(field) - 1)
        if not -_SIZE_MAX <= value <= _SIZE_MAX:
            raise bad(f"a {what} does not fit 64 bits")
        return value
    text = field.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    if text.strip(b"01234567"):
        raise bad(f"a {what} is not a number: {field[:12]!r}")
    return int(text, 8)


def parse_pax(content: bytes, bad: Bad) -> Pax:
    """The records of an extended header, in order: ``length key=value newline`` each, the length counting all of it."""
    records: Pax = []
    position = 0
    while position < len(content):
        space = content.find(b" ", position, position + 21)
        digits = content[position:space]
        if space < 0 or not digits.isdigit():
            raise bad("a PAX record has no length")
        end = position + int(digits)
        if end > len(content) or end <= space + 1 or content[end - 1] != 0x0A:
            raise bad("a PAX record's length is wrong")
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise bad("a PAX record has no key")
        records.append((key, value))
        position = end
    return records


def apply_pax(entry: Entry, records: Pax, bad: Bad) -> None:
    """Let the records override the header. An empty value means: the header's stands."""
    xattrs: dict[bytes, bytes] = {}
    for key, value in records:
        if key.startswith(_XATTR):
            xattrs[key[len(_XATTR) :]] = value
        elif not value:
            continue
        elif key == b"path":
            entry.name = _text(key, value, bad)
        elif key == b"linkpath":
            entry.linkname = _text(key, value, bad)
        elif key == b"size":
            entry.size = _decimal(key, value, bad)
        elif key == b"uid":
            entry.uid = _decimal(key, value, bad)
        elif key == b"gid":
            entry.gid = _decimal(key, value, bad)
        elif key == b"mtime":
            entry.mtime_s, entry.mtime_ns = _time(value, bad)
    if xattrs:
        entry.xattrs = xattrs


def sparse_map_from_pax(records: Pax, entry: Entry, bad: Bad) -> PaxSparse | None:
    """The sparse file that the records describe (GNU formats 0.0, 0.1, 1.0), or None. Also sets " "the file's real
    name.
    """
    found: dict[bytes, bytes] = {}
    offsets: list[int] = []
    numbers: list[int] = []
    for key, value in records:
        if not key.startswith(b"GNU.sparse."):
            continue
        key = key[11:]
        if key == b"offset":
            offsets.append(_decimal(key, value, bad))
        elif key == b"numbytes":
            numbers.append(_decimal(key, value, bad))
        else:
            found[key] = value
    if not found and not offsets:
        return None
    if name := found.get(b"name"):
        entry.name = _text(b"name", name, bad)
    if found.get(b"major", b"0") == b"1" and found.get(b"minor") == b"0":
        return PaxSparse(_decimal(b"realsize", found.get(b"realsize", b""), bad), (), True)
    if found.get(b"major", b"0") != b"0":
        raise bad(f"the sparse file {show(entry.name)} is in an unknown format")
    if b"size" not in found:
        return None
    if b"map" in found:
        values = [_decimal(b"map", part, bad) for part in found[b"map"].split(b",")] if found[b"map"] else []
        if len(values) % 2:
            raise bad(f"the map of sparse file {show(entry.name)} has an odd number of values")
        offsets, numbers = values[::2], values[1::2]
    if len(offsets) != len(numbers):
        raise bad(f"the map of sparse file {show(entry.name)} has an odd number of values")
    size = _decimal(b"size", found[b"size"], bad)
    return PaxSparse(
        size, _segments(list(zip(offsets, numbers, strict=True)), size, entry, entry.body_bytes, bad), False
    )


def inner_sparse_map(records: Iterator[bytes], entry: Entry, size: int, bad: Bad) -> tuple[Segments, int]:
    """Format 1.0's map, read from the records at the start of the body: (segments, bytes of the map)."""
    buffer = b""
    used = 0
    numbers: list[int] = []
    wanted = 1
    while len(numbers) < wanted:
        newline = buffer.find(b"\n")
        if newline < 0:
            if len(buffer) > 20:
                raise bad(f"the map of sparse file {show(entry.name)} is not made of numbers")
            buffer += next(records)
            used += 512
            if used > EXTENSION_BYTES_MAX:
                raise bad(f"the map of sparse file {show(entry.name)} is too long")
            continue
        numbers.append(_decimal(b"map", buffer[:newline], bad))
        buffer = buffer[newline + 1 :]
        if len(numbers) == 1:
            if numbers[0] > SEGMENTS_MAX:
                raise bad(f"the sparse file {show(entry.name)} has more than {SEGMENTS_MAX} segments")
            wanted = 1 + 2 * numbers[0]
    pairs = list(zip(numbers[1::2], numbers[2::2], strict=True))
    return _segments(pairs, size, entry, entry.body_bytes - used, bad), used


def old_sparse_map(fields: bytes, entry: Entry, bad: Bad) -> Segments:
    """The old GNU map: pairs of 12-byte numbers, ended by an empty one."""
    pairs = []
    for position in range(0, len(fields) - 23, 24):
        if not fields[position]:
            break
        pairs.append(
            (
                parse_number(fields[position : position + 12], "sparse offset", bad),
                parse_number(fields[position + 12 : position + 24], "sparse length", bad),
            )
        )
    return _segments(pairs, entry.size, entry, entry.body_bytes, bad)


def _segments(pairs: list[tuple[int, int]], size: int, entry: Entry, body_bytes: int, bad: Bad) -> Segments:
    """Checked: ascending, disjoint, inside the file, and exactly the body's bytes in sum."""
    if len(pairs) > SEGMENTS_MAX:
        raise bad(f"the sparse file {show(entry.name)} has more than {SEGMENTS_MAX} segments")
    end = total = 0
    for offset, length in pairs:
        if offset < end or length < 0 or offset + length > size:
            raise bad(f"the map of sparse file {show(entry.name)} is out of order or goes past the file's end")
        end = offset + length
        total += length
    if total != body_bytes:
        raise bad(f"the map of sparse file {show(entry.name)} names {total} bytes, the archive holds {body_bytes}")
    return tuple((offset, length) for offset, length in pairs if length)


def _text(key: bytes, value: bytes, bad: Bad) -> bytes:
    if b"\0" in value:
        raise bad(f"a PAX {key.decode()} contains a zero byte")
    return value


def _decimal(key: bytes, value: bytes, bad: Bad) -> int:
    if not value.isdigit() or len(value) > 19 or int(value) > _SIZE_MAX:
        raise bad(f"a PAX {key.decode()} is not a number: {value[:24]!r}")
    return int(value)


def _time(value: bytes, bad: Bad) -> tuple[int, int]:
    """Seconds and nanoseconds (0 to 999,999,999, counted upwards also before 1970)."""
    whole, _, fraction = value.partition(b".")
    negative = whole.startswith(b"-")
    digits = whole.removeprefix(b"-")
    if (
        (digits and not digits.isdigit())
        or (fraction and not fraction.isdigit())
        or len(digits) > 18
        or not (digits or fraction)
    ):
        raise bad(f"a PAX mtime is not a time: {value[:40]!r}")
    seconds = int(digits or b"0")
    nanoseconds = int(fraction[:9].ljust(9, b"0"))
    if not negative:
        return seconds, nanoseconds
    return (-seconds, 0) if not nanoseconds else (-seconds - 1, 1_000_000_000 - nanoseconds)
