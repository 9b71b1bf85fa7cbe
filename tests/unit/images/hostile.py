"""Makers of tar entries, byte by byte, so that they can say what no honest tool would write."""

from __future__ import annotations


def header(
    name: bytes,
    *,
    kind: bytes = b"0",
    size: int = 0,
    mode: int = 0o644,
    link: bytes = b"",
    prefix: bytes = b"",
    uid: int = 0,
    mtime: int = 0,
    major: int = 0,
    minor: int = 0,
    size_field: bytes | None = None,
    magic: bytes = b"ustar\x0000",
) -> bytes:
    """One header record with a right checksum."""
    size_bytes = size_field if size_field is not None else b"%011o\0" % size
    record = b"".join(
        [
            name.ljust(100, b"\0")[:100],
            b"%07o\0" % mode,
            b"%07o\0" % uid,
            b"%07o\0" % 0,
            size_bytes,
            b"%011o\0" % mtime,
            b"        ",
            kind,
            link.ljust(100, b"\0")[:100],
            magic,
            bytes(64),
            b"%07o\0" % major,
            b"%07o\0" % minor,
            prefix.ljust(155, b"\0")[:155],
            bytes(12),
        ]
    )
    assert len(record) == 512
    return record[:148] + b"%06o\0 " % sum(record) + record[156:]


def entry(name: bytes, content: bytes = b"", **fields: object) -> bytes:
    """A header and its padded content."""
    fields.setdefault("size", len(content))
    return header(name, **fields) + content + bytes(-len(content) % 512)  # type: ignore[arg-type]


def pax(records: bytes) -> bytes:
    return entry(b"PaxHeaders/x", records, kind=b"x")


def pax_record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while length != len(str(length)) + len(body):
        length = len(str(length)) + len(body)
    return str(length).encode() + body


END = bytes(1024)
