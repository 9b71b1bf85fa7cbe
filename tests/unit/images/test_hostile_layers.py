"""Layers that no honest tool writes: a clear error, and no harm done."""

from __future__ import annotations

import gzip
import lzma
import os
from pathlib import Path

import pytest
import zstandard
from disks import build, extract
from hostile import END, entry, header, pax, pax_record

from hyper.errors import DataLoss, HyperError, InvalidArgument, ResourceExhausted
from hyper.images.limits import ImageLimits

_FILE = entry(b"file", b"content")
_SMALL = ImageLimits(
    uncompressed_bytes=8 << 20,
    expansion_free_bytes=1 << 20,
    expansion_ratio=50,
    entries=100,
    path_bytes=512,
    depth=20,
    xattr_bytes=1000,
    metadata_bytes=1 << 20,
    sparse_file_bytes=1 << 30,
)
_BOMB = bytes(6 << 20)

REFUSED = {
    "name climbs out of the root": (entry(b"../evil", b"x"), InvalidArgument, "outside of the image's root"),
    "name climbs out after going in": (entry(b"a/../../evil", b"x"), InvalidArgument, "outside of the image's root"),
    "hard link to outside": (
        header(b"evil", kind=b"1", link=b"../../etc/shadow"),
        InvalidArgument,
        "outside of the image's root",
    ),
    "hard link to nothing": (header(b"evil", kind=b"1", link=b"missing"), InvalidArgument, "which no layer has"),
    "hard links to each other": (
        header(b"a", kind=b"1", link=b"b") + header(b"b", kind=b"1", link=b"a"),
        InvalidArgument,
        "which no layer has",
    ),
    "hard link to a directory": (
        header(b"d", kind=b"5") + header(b"l", kind=b"1", link=b"d"),
        InvalidArgument,
        "is to the directory",
    ),
    "loop of symbolic links": (
        header(b"a", kind=b"2", link=b"b") + header(b"b", kind=b"2", link=b"a") + entry(b"a/x", b"x"),
        InvalidArgument,
        "loop of symbolic links",
    ),
    "file inside a file": (_FILE + entry(b"file/x", b"x"), InvalidArgument, "not a directory"),
    "file in place of the root": (entry(b"./", b"x", kind=b"0"), InvalidArgument, "replace the root"),
    "truncated in a body": (header(b"f", size=5000) + b"short", InvalidArgument, "truncated"),
    "truncated in a header": (_FILE + b"\1" * 100, InvalidArgument, "truncated"),
    "size far beyond the data": (
        header(b"f", size_field=b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7),
        InvalidArgument,
        "truncated",
    ),
    "negative size": (header(b"f", size_field=b"\xff" * 12), InvalidArgument, "negative"),
    "size that is no number": (header(b"f", size_field=b"0x0000000ff\0"), InvalidArgument, "not a number"),
    "wrong checksum": (b"x" + _FILE[1:], InvalidArgument, "checksum"),
    "not a tar at all": (os.urandom(3000), InvalidArgument, "not a sound tar archive"),
    "garbage after the end": (_FILE + END + b"garbage", InvalidArgument, "follows its end-of-archive"),
    "second archive after the end": (_FILE + END + _FILE, InvalidArgument, "follows its end-of-archive"),
    "lone zero record": (_FILE + bytes(512) + _FILE, InvalidArgument, "single zero record"),
    "unknown type": (header(b"f", kind=b"Q"), InvalidArgument, "unknown type"),
    "name over 255 bytes": (pax(pax_record(b"path", b"n" * 256)) + _FILE, InvalidArgument, "longer than 255"),
    "path over the limit": (pax(pax_record(b"path", b"a/" * 300)) + _FILE, InvalidArgument, "at most 512"),
    "path too deep": (pax(pax_record(b"path", b"a/" * 30 + b"f")) + _FILE, InvalidArgument, "deep"),
    "zero byte in a PAX path": (pax(pax_record(b"path", b"a\0b")) + _FILE, InvalidArgument, "zero byte"),
    "PAX record with a lying length": (pax(b"99 path=x\n") + _FILE, InvalidArgument, "PAX record"),
    "PAX record without a length": (pax(b"path=x\n") + _FILE, InvalidArgument, "PAX record"),
    "PAX size that is no number": (pax(pax_record(b"size", b"-1")) + _FILE, InvalidArgument, "not a number"),
    "PAX header at the end": (pax(pax_record(b"path", b"x")) + END, InvalidArgument, "ends after an extension header"),
    "huge PAX header": (header(b"x", kind=b"x", size=2 << 20), InvalidArgument, "extension header"),
    "endless long names": (
        b"".join(entry(b"L", b"n" * 4096, kind=b"L") for _ in range(400)),
        InvalidArgument,
        "extension header",
    ),
    "owner beyond 32 bits": (pax(pax_record(b"uid", b"4294967296")) + _FILE, InvalidArgument, "32 bits"),
    "xattrs over the limit": (
        pax(pax_record(b"SCHILY.xattr.user.a", b"v" * 2000)) + _FILE,
        InvalidArgument,
        "extended attributes",
    ),
    "device number unknown to Linux": (
        header(b"d", kind=b"3", major=5000),
        InvalidArgument,
        "number Linux does not know",
    ),
    "whiteout of nothing": (entry(b".wh."), InvalidArgument, "invalid whiteout"),
    "whiteout of the parent": (entry(b"a/.wh..."), InvalidArgument, "invalid whiteout"),
    "symbolic link without a target": (header(b"l", kind=b"2"), InvalidArgument, "empty or overlong"),
    "too many entries": (
        b"".join(header(b"f%d" % number) for number in range(101)),
        ResourceExhausted,
        "more than 100 files",
    ),
    "too many implied directories": (
        b"".join(header(b"/".join(b"%d" % (number + at) for at in range(15))) for number in range(20)),
        ResourceExhausted,
        "more than 100 files",
    ),
    "sparse file beyond the limit": (
        pax(pax_record(b"GNU.sparse.size", b"1099511627776") + pax_record(b"GNU.sparse.map", b"0,7")) + _FILE,
        ResourceExhausted,
        "sparse file",
    ),
    "sparse map out of order": (
        pax(pax_record(b"GNU.sparse.size", b"100") + pax_record(b"GNU.sparse.map", b"50,4,0,3")) + _FILE,
        InvalidArgument,
        "out of order",
    ),
    "sparse map beyond the data": (
        pax(pax_record(b"GNU.sparse.size", b"100") + pax_record(b"GNU.sparse.map", b"0,50")) + _FILE,
        InvalidArgument,
        "names 50 bytes",
    ),
    "more than the limit in all": (entry(b"f", bytes(9 << 20)), ResourceExhausted, "uncompressed"),
    "gzip bomb": (gzip.compress(entry(b"f", _BOMB)), ResourceExhausted, "decompression bomb"),
    "zstd bomb": (zstandard.compress(entry(b"f", _BOMB)), ResourceExhausted, "decompression bomb"),
    "xz bomb": (lzma.compress(entry(b"f", _BOMB)), ResourceExhausted, "decompression bomb"),
    "truncated gzip": (gzip.compress(_FILE + entry(b"r", os.urandom(5000)) + END)[:-2000], DataLoss, "truncated"),
    "truncated zstd": (zstandard.compress(_FILE + END)[:-5], DataLoss, "truncated"),
    "truncated xz": (lzma.compress(_FILE + END)[:-8], DataLoss, "truncated"),
    "garbage after gzip": (gzip.compress(_FILE + END) + b"garbage", DataLoss, "damaged"),
    "garbage after zstd": (zstandard.compress(_FILE + END) + b"garbage", DataLoss, "damaged"),
    "damaged gzip": (gzip.compress(_FILE + END)[:-8] + b"\1" * 8, DataLoss, "damaged"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_clear_error(case: str, tmp_path: Path) -> None:
    layer, kind, words = REFUSED[case]
    with pytest.raises(HyperError) as caught:
        build(tmp_path, [layer], _SMALL)
    assert type(caught.value) is kind
    assert words in caught.value.message


ACCEPTED = {
    "absolute name is below the root": (
        entry(b"/etc/x", b"1"),
        {"etc": ("directory", 0o755), "etc/x": ("file", 0o644, "1")},
    ),
    "dots inside a name are resolved": (
        entry(b"./a//b/../c", b"1"),
        {"a": ("directory", 0o755), "a/c": ("file", 0o644, "1")},
    ),
    "the last duplicate wins": (entry(b"f", b"1") + entry(b"f", b"2"), {"f": ("file", 0o644, "2")}),
    "a file replaces a directory": (
        header(b"f/", kind=b"5") + entry(b"f/x", b"1") + entry(b"f", b"2"),
        {"f": ("file", 0o644, "2")},
    ),
    "a symbolic link may point anywhere": (
        header(b"l", kind=b"2", link=b"/../../etc"),
        {"l": ("symlink", 0o777, "/../../etc")},
    ),
    "a parent link is followed inside the root": (
        header(b"lib", kind=b"2", link=b"../../usr/lib") + entry(b"lib/x", b"1"),
        {
            "lib": ("symlink", 0o777, "../../usr/lib"),
            "usr": ("directory", 0o755),
            "usr/lib": ("directory", 0o755),
            "usr/lib/x": ("file", 0o644, "1"),
        },
    ),
    "no end mark": (entry(b"f", b"1"), {"f": ("file", 0o644, "1")}),
    "one zero record as end mark": (entry(b"f", b"1") + bytes(512), {"f": ("file", 0o644, "1")}),
    "an empty layer": (END, {}),
    "V7 directory": (header(b"d/", kind=b"\0", magic=bytes(8), mode=0o755), {"d": ("directory", 0o755)}),
    "ustar prefix": (
        entry(b"f", b"1", prefix=b"p/q"),
        {"p": ("directory", 0o755), "p/q": ("directory", 0o755), "p/q/f": ("file", 0o644, "1")},
    ),
    "zeros after gzip": (gzip.compress(entry(b"f", b"1") + END) + bytes(512), {"f": ("file", 0o644, "1")}),
    "two gzip members": (gzip.compress(entry(b"f", b"1")) + gzip.compress(END), {"f": ("file", 0o644, "1")}),
    "two zstd frames and a skippable one": (
        zstandard.compress(entry(b"f", b"1")) + b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstandard.compress(END),
        {"f": ("file", 0o644, "1")},
    ),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_unusual_but_sound(case: str, tmp_path: Path) -> None:
    layer, expected = ACCEPTED[case]
    image, _ = build(tmp_path, [layer])
    assert extract(image, tmp_path / "out") == expected


def test_memory_of_a_reader_does_not_follow_the_claimed_size(tmp_path: Path) -> None:
    import tracemalloc

    layer = gzip.compress(entry(b"f", bytes(64 << 20)), 1)
    tracemalloc.start()
    build(tmp_path, [layer])
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 24 << 20
