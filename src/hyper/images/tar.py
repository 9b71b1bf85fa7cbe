"""A strict streaming tar reader for archives nobody vouches for.

Reads V7, ustar, GNU (long names, base-256 numbers, old sparse files) and PAX (extended headers, SCHILY.xattr, sparse
0.0, 0.1 and 1.0) from an iterator of byte chunks, going forward only. Names stay bytes. Every number is checked before
it is used, and every header-borne text is bounded, so that memory does not depend on what the archive claims. Python's
tarfile was measured at 5 times the cost per entry, and it accepts more damage than an image should contain.

Sources: POSIX.1-2017 pax ("ustar Interchange Format", "pax Extended Header"), the GNU tar manual ("Basic Tar Format",
"Sparse Formats"). Like Docker (Go's archive/tar): global PAX headers are ignored, links and directories have no body.

Neighbours: ``layers/merge.py`` and ``archives.py`` (readers), ``compression.py`` (makes the chunks).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from hyper.errors import InvalidArgument
from hyper.images.tar_headers import (
    EXTENSION_BYTES_MAX,
    apply_pax,
    inner_sparse_map,
    old_sparse_map,
    parse_number,
    parse_pax,
    show,
    sparse_map_from_pax,
)

RECORD_BYTES = 512
_ZERO_RECORD = bytes(RECORD_BYTES)
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_REGULAR = frozenset(b"07\0")
_BODYLESS = frozenset(b"123456")
_PLAIN_OCTAL = re.compile(rb" *([0-7]+)[ \0]*\Z")

Segments = tuple[tuple[int, int], ...]


class Entry:
    """One member. ``kind`` is the type byte's value, regular files always ``ord("0")``; ``size`` is the file's, in
    bytes.

    ``body_bytes`` lie in the archive; ``sparse`` says where they go when the file has holes. ``number`` counts from 0.
    """

    __slots__ = (
        "body_bytes",
        "gid",
        "kind",
        "linkname",
        "major",
        "minor",
        "mode",
        "mtime_ns",
        "mtime_s",
        "name",
        "number",
        "size",
        "sparse",
        "uid",
        "xattrs",
    )

    def __init__(self) -> None:
        self.number = 0
        self.name = b""
        self.kind = 0
        self.mode = 0
        self.uid = 0
        self.gid = 0
        self.size = 0
        self.mtime_s = 0
        self.mtime_ns = 0
        self.linkname = b""
        self.major = 0
        self.minor = 0
        self.xattrs: dict[bytes, bytes] | None = None
        self.sparse: Segments | None = None
        self.body_bytes = 0


class TarReader:
    """Iterate for entries; between two of them, :meth:`body` gives the content of the last one (or it is skipped).

    Raises InvalidArgument for anything that is not a sound tar archive; ``what`` names the archive in the message.
    """

    def __init__(self, chunks: Iterator[bytes], what: str) -> None:
        self._chunks = chunks
        self._what = what
        self._chunk: bytes = b""
        self._position = 0
        self._body_left = 0
        self._padding = 0
        self._numbers: dict[bytes, int] = {}

    def __iter__(self) -> Iterator[Entry]:
        number = 0
        while True:
            entry = self._next()
            if entry is None:
                self._finish()
                return
            entry.number = number
            number += 1
            yield entry

    def body(self) -> Iterator[memoryview]:
        """The content of the current entry, in pieces; each is valid until the next is taken."""
        while self._body_left:
            available = len(self._chunk) - self._position
            if not available:
                self._more()
                continue
            count = min(available, self._body_left)
            view = memoryview(self._chunk)[self._position : self._position + count]
            self._position += count
            self._body_left -= count
            yield view

    def read_body(self, limit_bytes: int, what: str) -> bytes:
        """The whole content of a small entry. InvalidArgument when it is larger than ``limit_bytes``."""
        if self._body_left > limit_bytes:
            raise self._bad(f"{what} has {self._body_left} bytes; at most {limit_bytes} are allowed")
        return b"".join(self.body())

    def _more(self) -> None:
        """Take the next chunk; there must be one."""
        chunk = next(self._chunks, b"")
        if not chunk:
            raise self._bad("it ends in the middle of an entry: it was truncated, make or transfer it again")
        self._chunk = chunk
        self._position = 0

    def _record(self) -> bytes | None:
        """The next 512 bytes; None at the end of the input."""
        end = self._position + RECORD_BYTES
        if end <= len(self._chunk):
            record = self._chunk[self._position : end]
            self._position = end
            return record
        parts = self._chunk[self._position :]
        while len(parts) < RECORD_BYTES:
            self._chunk = next(self._chunks, b"")
            self._position = 0
            if not self._chunk:
                if parts:
                    raise self._bad("it ends in the middle of a header: it was truncated, make or transfer it again")
                return None
            take = min(RECORD_BYTES - len(parts), len(self._chunk))
            parts += self._chunk[:take]
            self._position = take
        return parts

    def _skip(self) -> None:
        count = self._body_left + self._padding
        self._body_left = self._padding = 0
        while count:
            available = len(self._chunk) - self._position
            if available >= count:
                self._position += count
                return
            count -= available
            self._more()

    def _finish(self) -> None:
        """After the end-of-archive records only zeros may follow (archives are padded to a multiple of 10 KiB)."""
        rest: bytes = self._chunk[self._position :]
        while rest or (rest := next(self._chunks, b"")):
            if rest.count(0) != len(rest):
                raise self._bad("something follows its end-of-archive mark: it is damaged, or two archives in one")
            rest = b""

    def _bad(self, problem: str) -> InvalidArgument:
        return InvalidArgument(f"{self._what} is not a sound tar archive: {problem}")

    def _next(self) -> Entry | None:
        """The next entry, with the extension headers before it applied; None at the end."""
        pax: list[tuple[bytes, bytes]] | None = None
        long_name = long_link = None
        extension_bytes = 0
        while True:
            if self._body_left or self._padding:
                self._skip()
            record = self._record()
            if record is None or (record == _ZERO_RECORD and self._at_end()):
                if pax is not None or long_name is not None or long_link is not None:
                    raise self._bad("it ends after an extension header")
                return None
            entry = self._parse(record)
            kind = entry.kind
            if kind in _REGULAR or kind in _BODYLESS or kind == 0x53:
                break
            if kind not in b"LKxXgVN":
                raise self._bad(f"entry {show(entry.name)} has the unknown type {chr(kind)!r}")
            self._set_body(entry.size)
            extension_bytes += entry.size
            if extension_bytes > EXTENSION_BYTES_MAX:
                raise self._bad(f"an extension header has more than {EXTENSION_BYTES_MAX} bytes")
            if kind in b"gVN":  # global header (ignored, as by Docker), volume label, old long names
                continue
            content = self.read_body(EXTENSION_BYTES_MAX, "an extension header")
            if kind == 0x4C:
                long_name = content.partition(b"\0")[0]
            elif kind == 0x4B:
                long_link = content.partition(b"\0")[0]
            else:
                pax = parse_pax(content, self._bad)
        if long_name is not None:
            entry.name = long_name
        if long_link is not None:
            entry.linkname = long_link
        if pax is not None:
            apply_pax(entry, pax, self._bad)
        if kind in _BODYLESS:
            entry.size = 0
        elif kind != 0x53:
            # V7 archives mark a directory by a slash at the end of its name only.
            entry.kind = 0x35 if kind == 0 and entry.name.endswith(b"/") else 0x30
        entry.body_bytes = entry.size
        if kind == 0x53:
            self._old_sparse(entry, record)
        else:
            self._set_body(entry.size)
            if pax is not None:
                self._pax_sparse(entry, pax)
        return entry

    def _at_end(self) -> bool:
        """After one zero record: the archive ends here, by a second one or by the end of input."""
        record = self._record()
        if record is not None and record != _ZERO_RECORD:
            raise self._bad("a single zero record stands between its entries")
        return True

    def _set_body(self, count: int) -> None:
        self._body_left = count
        self._padding = -count % RECORD_BYTES

    def _number(self, field: bytes, what: str) -> int:
        """A header number; the same few fields come again and again, so they are remembered."""
        value = self._numbers.get(field)
        if value is None:
            match = _PLAIN_OCTAL.match(field)
            value = int(match[1], 8) if match else parse_number(field, what, self._bad)
            if len(self._numbers) < 4096:
                self._numbers[field] = value
        return value

    def _parse(self, record: bytes) -> Entry:
        (name, mode, uid, gid, size, mtime, checksum, kind, linkname, magic, _, _, major, minor, prefix) = (
            _HEADER.unpack(record)
        )
        # The checksum is the sum of all bytes with its own field as 8 spaces; Adler-32's low half is 1 + that sum,
        # modulo 65521.
        blanked = zlib.adler32(b"        ", zlib.adler32(record[:148]))
        plain = zlib.adler32(record[156:], blanked) & 0xFFFF
        claimed = self._number(checksum, "checksum")
        if (claimed + 1) % 65521 != plain and not _signed_checksum_matches(record, claimed):
            raise self._bad("a header's checksum is wrong: it is damaged, or no tar archive at all")
        entry = Entry()
        number = self._number
        entry.name = name.partition(b"\0")[0]
        entry.kind = kind[0]
        entry.mode = number(mode, "mode") & 0o7777
        entry.uid = number(uid, "uid")
        entry.gid = number(gid, "gid")
        entry.size = number(size, "size")
        entry.mtime_s = number(mtime, "mtime")
        entry.linkname = linkname.partition(b"\0")[0]
        if magic[:6] == b"ustar\0" and prefix[0]:
            entry.name = prefix.partition(b"\0")[0] + b"/" + entry.name
        if kind in b"34":
            entry.major = number(major, "device number")
            entry.minor = number(minor, "device number")
        if entry.size < 0 or entry.uid < 0 or entry.gid < 0:
            raise self._bad(f"entry {show(entry.name)} has a negative size or owner")
        return entry

    def _old_sparse(self, entry: Entry, record: bytes) -> None:
        extra = []
        more = record[482]
        while more:
            following = self._record()
            if following is None:
                raise self._bad("it ends in the middle of a sparse file's map: it was truncated")
            extra.append(following[:504])
            if len(extra) * RECORD_BYTES > EXTENSION_BYTES_MAX:
                raise self._bad(f"the map of sparse file {show(entry.name)} is too long")
            more = following[504]
        self._set_body(entry.body_bytes)
        entry.kind = 0x30
        entry.size = self._number(record[483:495], "size")
        entry.sparse = old_sparse_map(record[386:482] + b"".join(extra), entry, self._bad)

    def _pax_sparse(self, entry: Entry, pax: list[tuple[bytes, bytes]]) -> None:
        described = sparse_map_from_pax(pax, entry, self._bad)
        if described is None or entry.kind != 0x30:
            return
        if described.inner:
            # Format 1.0: the map is the first part of the body, in whole records.
            entry.sparse, map_bytes = inner_sparse_map(self._records_of_body(), entry, described.size, self._bad)
            entry.body_bytes -= map_bytes
        else:
            entry.sparse = described.segments
        entry.size = described.size

    def _records_of_body(self) -> Iterator[bytes]:
        while self._body_left >= RECORD_BYTES:
            record = self._record()
            if record is None:
                raise self._bad("it ends in the middle of a sparse file's map: it was truncated")
            self._body_left -= RECORD_BYTES
            yield record
        raise self._bad("a sparse file's map is longer than the file")


def _signed_checksum_matches(record: bytes, claimed: int) -> bool:
    """Some old tars summed signed bytes."""
    total = sum(struct.unpack("148b", record[:148])) + 256 + sum(struct.unpack("356b", record[156:]))
    return bool(total == claimed)
