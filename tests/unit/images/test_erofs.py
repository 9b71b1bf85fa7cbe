"""The image file itself: the same bytes for the same input, and sound at the edges of the format."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from disks import build, extract
from hostile import END, entry, header, pax, pax_record

from hyper.images.erofs.format import crc32c, device_number

GOLDEN_LAYERS = [
    header(b"d/", kind=b"5", mode=0o755, mtime=5)
    + entry(b"d/file", b"content" * 1000, mtime=7)
    + header(b"d/hard", kind=b"1", link=b"d/file")
    + header(b"l", kind=b"2", link=b"d/file", mtime=7)
    + header(b"null", kind=b"3", major=1, minor=3, mtime=7)
    + pax(pax_record(b"SCHILY.xattr.user.a", b"b") + pax_record(b"mtime", b"9.5"))
    + entry(b"x", b"attributes")
    + END,
    entry(b"d/.wh.hard") + entry(b"new", b"n" * 5000, mtime=7) + END,
]
GOLDEN = "f90e7ae822ba34d45f56fa0619bb9c7ceeeefdf550df5ce70e7fd961e661d0ba"
"""Of the whole image. When it changes on purpose, change ``_FORMAT`` in layers/build.py too."""


def test_the_same_layers_give_the_same_bytes(tmp_path: Path) -> None:
    image, _ = build(tmp_path, GOLDEN_LAYERS)
    assert hashlib.sha256(image.read_bytes()).hexdigest() == GOLDEN


@pytest.mark.parametrize(
    "size", [0, 1, 4031, 4032, 4033, 4064, 4095, 4096, 4097, 8191, 8192, 12_000, 1 << 20, (1 << 20) + 5]
)
def test_file_sizes_around_block_borders(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    image, _ = build(tmp_path, [entry(b"a", content) + entry(b"b", content)])
    extract(image, tmp_path / "out")
    assert (tmp_path / "out" / "a").read_bytes() == (tmp_path / "out" / "b").read_bytes() == content


@pytest.mark.parametrize("count", [1, 150, 160, 170, 500, 3000])
def test_directories_of_many_sizes(tmp_path: Path, count: int) -> None:
    names = [b"%s-%05d" % (b"n" * (number % 40), number) for number in range(count)] + [b"#before-dots", b"\xff\xfe"]
    image, _ = build(tmp_path, [b"".join(header(name) for name in names)])
    extract(image, tmp_path / "out")
    assert set(os.listdir(os.fsencode(tmp_path / "out"))) == set(names)


@pytest.mark.parametrize("length", [1, 59, 4000, 4031, 4032, 4033, 4095])
def test_symbolic_links_of_all_lengths(tmp_path: Path, length: int) -> None:
    target = b"t" * length
    image, _ = build(tmp_path, [pax(pax_record(b"linkpath", target)) + header(b"l", kind=b"2", link=b"x")])
    assert extract(image, tmp_path / "out")["l"][2] == target.decode()


@pytest.mark.parametrize("size", [1, 100, 4000, 4096, 20_000, 60_000])
def test_attributes_of_all_sizes_leave_the_data_whole(tmp_path: Path, size: int) -> None:
    content = os.urandom(6000)
    records = pax_record(b"SCHILY.xattr.user.big", b"v" * size)
    image, _ = build(
        tmp_path, [pax(records) + entry(b"f", content) + pax(records) + header(b"d/", kind=b"5") + entry(b"d/g", b"g")]
    )
    extract(image, tmp_path / "out")
    assert (tmp_path / "out" / "f").read_bytes() == content
    assert (tmp_path / "out" / "d" / "g").read_bytes() == b"g"


def test_hidden_data_is_not_written(tmp_path: Path) -> None:
    big = os.urandom(4 << 20)
    image, built = build(tmp_path, [entry(b"a", big) + entry(b"d/b", big), entry(b"a", b"small") + entry(b".wh.d")])
    assert built.hidden_bytes == 8 << 20
    assert image.stat().st_size < 64 << 10


def test_a_link_brings_hidden_data_back(tmp_path: Path) -> None:
    big = os.urandom(1 << 20)
    lower = entry(b"a", big) + header(b"b", kind=b"1", link=b"a")
    image, _ = build(tmp_path, [lower, entry(b".wh.a")])
    extract(image, tmp_path / "out")
    assert (tmp_path / "out" / "b").read_bytes() == big
    assert not (tmp_path / "out" / "a").exists()


def test_a_link_reaches_down_to_a_file_that_is_replaced_above(tmp_path: Path) -> None:
    layers = [entry(b"a", b"old"), header(b"b", kind=b"1", link=b"a"), entry(b"a", b"new")]
    image, _ = build(tmp_path, layers)
    found = extract(image, tmp_path / "out")
    assert (found["a"][2], found["b"][2]) == ("new", "old")


def test_checksum_and_device_numbers() -> None:
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283
    assert device_number(8, 1) == 0x801
    assert device_number(259, 0x12345) == 0x12310345
