"""The log in json-file format: what Docker's tools read, and the positions that make a restart lose and double
nothing."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyper.engine.log_file import (
    MAX_LINE_BYTES,
    LogWriter,
    format_time,
    parse_time,
    read_entries,
    tail_position,
)
from hyper.errors import ResourceExhausted

BOTH = frozenset({"stdout", "stderr"})


def texts(path: Path, position: int = 0) -> list[tuple[str, bytes]]:
    return [(entry.stream, entry.data) for _, entry in read_entries(path, position)]


def test_lines_are_written_as_docker_writes_them(tmp_path: Path) -> None:
    writer = LogWriter.begin(tmp_path / "log")
    writer.append("stdout", b'say "hi"\n')
    writer.close()
    last = json.loads((tmp_path / "log").read_bytes().splitlines()[-1])
    assert last["log"] == 'say "hi"\n'
    assert last["stream"] == "stdout"
    assert last["time"].endswith("Z")
    assert last["end"] == [9, 0]


def test_text_without_a_newline_is_not_acknowledged_until_one_comes(tmp_path: Path) -> None:
    writer = LogWriter.begin(tmp_path / "log")
    assert writer.append("stdout", b"one\ntw") == 4
    assert writer.pending("stdout") == b"tw"
    assert writer.append("stdout", b"o\n") == 8
    assert texts(tmp_path / "log") == [("stdout", b"one\n"), ("stdout", b"two\n")]
    writer.close()


def test_the_rest_is_logged_when_the_stream_ends(tmp_path: Path) -> None:
    writer = LogWriter.begin(tmp_path / "log")
    writer.append("stderr", b"no newline")
    assert writer.finish("stderr") == 10
    assert texts(tmp_path / "log") == [("stderr", b"no newline")]
    writer.close()


def test_a_line_over_16_kib_is_split_and_nothing_of_it_lost(tmp_path: Path) -> None:
    writer = LogWriter.begin(tmp_path / "log")
    data = b"x" * (3 * MAX_LINE_BYTES + 5)
    assert writer.append("stdout", data) == 3 * MAX_LINE_BYTES
    assert writer.append("stdout", b"\n") == len(data) + 1
    entries = texts(tmp_path / "log")
    assert [len(text) for _, text in entries] == [MAX_LINE_BYTES] * 3 + [6]
    writer.close()


@pytest.mark.parametrize("torn", [b'{"log":"to', b'{"log":"torn\\n","stream":"stdout","time":"2026', b"\xff\x00"])
def test_resuming_cuts_a_torn_line_and_knows_both_positions(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log"
    writer = LogWriter.begin(path)
    writer.append("stderr", b"err\n")
    writer.append("stdout", b"out\nput\n")
    writer.close()
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    resumed = LogWriter.resume(path)
    assert (resumed.position("stdout"), resumed.position("stderr")) == (8, 4)
    resumed.append("stdout", b"more\n")
    resumed.close()
    assert texts(path) == [("stderr", b"err\n"), ("stdout", b"out\n"), ("stdout", b"put\n"), ("stdout", b"more\n")]


def test_a_new_run_counts_from_zero_and_keeps_the_old_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    first = LogWriter.begin(path)
    first.append("stdout", b"first\n")
    first.close()
    LogWriter.begin(path).close()
    resumed = LogWriter.resume(path)
    assert resumed.position("stdout") == 0
    resumed.close()
    assert texts(path) == [("stdout", b"first\n")]


@given(
    pieces=st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=200)), max_size=30),
    cut=st.integers(0, 4000),
)
@settings(max_examples=60, deadline=None)
def test_cut_anywhere_and_replayed_from_the_position_the_log_is_complete(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[str, bytes]], cut: int
) -> None:
    """A daemon killed at any byte of the file: the next one replays from ``position`` and each stream reads as if
    nothing had happened."""
    path = tmp_path_factory.mktemp("log") / "log"
    streams = {"stdout": b"", "stderr": b""}
    writer = LogWriter.begin(path)
    mark = path.stat().st_size
    for stream, data in pieces:
        streams[stream] += data
        writer.append(stream, data)  # type: ignore[arg-type]
    writer.close()
    os.truncate(path, min(max(mark, cut), path.stat().st_size))
    resumed = LogWriter.resume(path)
    for stream, data in streams.items():
        resumed.append(stream, data[resumed.position(stream) :])  # type: ignore[arg-type]
        resumed.finish(stream)  # type: ignore[arg-type]
    resumed.close()
    for stream, data in streams.items():
        logged = "".join(text.decode() for name, text in texts(path) if name == stream)
        assert logged.count("\n") == data.count(b"\n")
        if data.isascii():
            assert logged.encode() == data


def test_tail_finds_the_last_lines_of_the_wanted_streams(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = LogWriter.begin(path)
    for number in range(20000):
        writer.append("stdout" if number % 2 else "stderr", b"%d\n" % number)
    writer.close()
    assert [text for _, text in texts(path, tail_position(path, 3, BOTH))] == [b"19997\n", b"19998\n", b"19999\n"]
    only = frozenset({"stderr"})
    wanted = [text for name, text in texts(path, tail_position(path, 9000, only)) if name == "stderr"]
    assert wanted[0] == b"2000\n"
    assert len(wanted) == 9000
    assert tail_position(path, 30000, BOTH) == 0
    assert tail_position(path, 0, BOTH) == path.stat().st_size


def test_a_missing_log_is_an_empty_one(tmp_path: Path) -> None:
    assert texts(tmp_path / "none") == []
    assert tail_position(tmp_path / "none", 5, BOTH) == 0


def test_times_survive_the_round_trip_to_the_nanosecond() -> None:
    for time_ns in (0, 1, 1_700_000_000_123_456_789, 2_000_000_000_000_000_001):
        assert parse_time(format_time(time_ns)) == time_ns


def test_a_full_disk_drops_whole_writes_and_leaves_a_readable_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log"
    writer = LogWriter.begin(path)
    writer.append("stdout", b"kept\n")
    with files_up_to(path.stat().st_size + 100):
        writer.append("stdout", b"y" * 5000 + b"\n")  # a real partial write, then EFBIG
    writer.append("stdout", b"after\n")
    writer.close()
    assert texts(path) == [("stdout", b"kept\n"), ("stdout", b"after\n")]
    assert "cannot be written" in caplog.text


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Within, no file of this process may become larger: what a full disk looks like to its writer. Not a fixture: the
    test runner's own output may be a file, which it writes before fixtures end."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("space_returns", [True, False])
def test_a_daemon_killed_on_a_full_disk_goes_on_where_it_acknowledged(tmp_path: Path, space_returns: bool) -> None:
    path = tmp_path / "log"
    writer = LogWriter.begin(path)
    writer.append("stdout", b"kept\n")
    size = path.stat().st_size
    with files_up_to(size + 10):
        assert writer.append("stdout", b"lost\n") == 10
        assert writer.append("stderr", b"lost too\n") == 9
        assert path.stat().st_size == size
    if space_returns:
        assert writer.append("stdout", b"kept again\n") == 21
    # Not closed: as kill -9 leaves it.
    with files_up_to(path.stat().st_size + 10):
        resumed = LogWriter.resume(path)
    assert (resumed.position("stdout"), resumed.position("stderr")) == (21 if space_returns else 10, 9)
    resumed.append("stdout", b"end\n")
    resumed.close()
    writer.close()
    kept = [b"kept\n", *([b"kept again\n"] if space_returns else []), b"end\n"]
    assert [text for _, text in texts(path)] == kept
    # The next run counts from 0 again, whatever was lost in this one.
    LogWriter.begin(path).close()
    again = LogWriter.resume(path)
    assert (again.position("stdout"), again.position("stderr")) == (0, 0)
    again.close()


def test_a_run_cannot_begin_without_space_for_its_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    first = LogWriter.begin(path)
    first.append("stdout", b"text\n")
    first.close()
    with files_up_to(path.stat().st_size), pytest.raises(ResourceExhausted, match="free some space"):
        LogWriter.begin(path)
    assert [text for _, text in texts(path)] == [b"text\n"]
