"""Archives by real tools: GNU tar in all its formats, Python's tarfile. Read the same by Hyper and by them."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from disks import build, read_by_kernel
from hostile import entry, header, pax, pax_record

from hyper.images.tar import TarReader

LONG = "d" * 120 + "/" + "n" * 200


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / ("d" * 120)).mkdir(parents=True)
    (root / LONG).write_bytes(b"long")
    (root / "link").symlink_to("t" * 150)
    os.link(root / LONG, root / "hard")
    with (root / "sparse").open("wb") as file:
        for number in range(40):  # more segments than the first header holds
            file.seek(number * 100_000)
            file.write(b"%05d" % number)
        file.truncate(5_000_000)
    (root / "empty-sparse").touch()
    os.truncate(root / "empty-sparse", 3_000_000)
    (root / "plain").write_bytes(bytes(range(256)) * 40)
    (root / "old").write_bytes(b"x")
    os.utime(root / "old", (1, -86_400))
    return root


@pytest.mark.parametrize(
    "options",
    [
        ("--format=gnu",),
        ("--format=gnu", "--sparse"),
        ("--format=pax",),
        ("--format=pax", "--sparse", "--sparse-version=0.0"),
        ("--format=pax", "--sparse", "--sparse-version=0.1"),
        ("--format=pax", "--sparse", "--sparse-version=1.0"),
    ],
    ids=" ".join,
)
def test_gnu_tar(tree: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    made = subprocess.run(
        ["tar", *options, "--sort=name", "-cf", "-", "-C", tree, "."], capture_output=True, check=True
    )
    image, _ = build(tmp_path, [made.stdout])
    # The kernel is asked, because fsck.erofs 1.5 leaves holes out when it extracts.
    found = read_by_kernel(image, tmp_path / "mnt")
    assert set(found) == {"d" * 120, LONG, "link", "hard", "sparse", "empty-sparse", "plain", "old"}
    for name in (LONG, "hard", "sparse", "empty-sparse", "plain"):
        assert str(found[name][2]).encode("latin-1") == (tree / name).read_bytes()
    assert found["link"][2] == "t" * 150
    assert found["old"][3] == -86_400
    if "--sparse" in options:
        assert image.stat().st_blocks * 512 < 1_500_000


def test_numbers_in_base_256() -> None:
    record = bytearray(header(b"f"))
    record[108:116] = b"\x80" + (3_000_000_000).to_bytes(7, "big")
    record[136:148] = b"\xff" * 11 + b"\xfe"
    record[148:156] = b"        "
    record[148:156] = b"%06o\0 " % sum(record)
    (found,) = TarReader(iter([bytes(record)]), "it")
    assert (found.uid, found.mtime_s) == (3_000_000_000, -2)


def test_pax_overrides_the_header() -> None:
    records = b"".join(
        pax_record(key, value)
        for key, value in [
            (b"mtime", b"-1.25"),
            (b"uid", b"70000"),
            (b"hdrcharset", b"BINARY"),
            (b"path", b"n\xff\xfe"),
            (b"SCHILY.xattr.security.capability", b"\1\0\0\2=\n\0"),
        ]
    )
    (found,) = TarReader(iter([pax(records) + entry(b"f", b"x")]), "it")
    assert (found.mtime_s, found.mtime_ns, found.uid, found.name) == (-2, 750_000_000, 70_000, b"n\xff\xfe")
    assert found.xattrs == {b"security.capability": b"\1\0\0\2=\n\0"}


@pytest.mark.parametrize("chunk_bytes", [1, 7, 511, 512, 513, 10_000])
def test_chunks_may_be_cut_anywhere(chunk_bytes: int) -> None:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in (("a" * 150, b"1" * 700), ("b", b""), ("c", b"2" * 512)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = output.getvalue()
    reader = TarReader((content[at : at + chunk_bytes] for at in range(0, len(content), chunk_bytes)), "it")
    found = [(entry.name, b"".join(reader.body()) if entry.name != b"c" else None) for entry in reader]
    assert found == [(b"a" * 150, b"1" * 700), (b"b", b""), (b"c", None)]


def test_bsdtar_if_there(tree: Path, tmp_path: Path) -> None:
    if shutil.which("bsdtar") is None:
        pytest.skip("bsdtar (libarchive-tools) is not installed")
    made = subprocess.run(["bsdtar", "-cf", "-", "-C", tree, "."], capture_output=True, check=True)
    image, _ = build(tmp_path, [made.stdout])
    found = read_by_kernel(image, tmp_path / "mnt")
    for name in (LONG, "sparse", "empty-sparse", "plain"):
        assert str(found[name][2]).encode("latin-1") == (tree / name).read_bytes()
