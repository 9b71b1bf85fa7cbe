"""A container's log in Docker's json-file format, with the position of each output stream beside every line.

A line is ``{"log":"text\\n","stream":"stdout","time":"2026-01-02T03:04:05.678901234Z","end":[O,E]}``: Docker's three
members and ours,
``end``, the positions up to which the agent's stdout and stderr streams of *this run* are in the file. They are
written with the text in
one write, so after ``kill -9`` the last whole line says exactly where to go on: nothing lost, nothing twice. A torn
last line is cut off.
``{"run":N}`` lines mark where a run begins and positions start again at 0.

On a full disk output is lost rather than the container stopped, but its bytes are acknowledged, so the agent has them
no longer: how far that went is written to ``log-positions`` beside the log, a few bytes whose space was taken when the
run began. The next daemon goes on from the later of the two.

As in Docker, text is logged line by line; a line over 16 KiB is split, text without a newline waits for one
(unacknowledged,
so the agent still holds it) until 16 KiB or the end. Times have nine decimals always, so that they sort as text.
"""

from __future__ import annotations

import calendar
import logging
import os
import re
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import msgspec

from hyper.engine.model import LogEntry
from hyper.errors import ResourceExhausted

StreamName = Literal["stdout", "stderr"]
MAX_LINE_BYTES: Final = 16 * 1024
_READ_BYTES: Final = 256 * 1024
_POSITIONS: Final = re.compile(rb"(\d{20}) (\d{20})\n")
_INDEX: Final[dict[str, int]] = {"stdout": 0, "stderr": 1}
_log = logging.getLogger(__name__)


class _Line(msgspec.Struct):
    log: str = ""
    stream: str = "stdout"
    time: str = ""
    end: tuple[int, int] = (0, 0)
    run: int | None = None


_decoder = msgspec.json.Decoder(_Line)


def format_time(time_ns: int) -> str:
    """RFC 3339 in UTC with nine decimals."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"


def parse_time(text: str) -> int:
    """The inverse of :func:`format_time`, in ns since the epoch."""
    return _parse_seconds(text[:19]) * 1_000_000_000 + int(text[20:29])


@lru_cache(maxsize=64)
def _parse_seconds(text: str) -> int:
    """Neighbouring lines share their second, and strptime is slow."""
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))


class LogWriter:
    """Appends one run's output. Not safe for two writers; the run owns it."""

    def __init__(self, path: Path, descriptor: int, positions: int, ends: list[int]) -> None:
        self.path = path
        self._descriptor = descriptor
        self._positions = positions
        self._ends = ends
        self._partial: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self._dropped = 0

    @classmethod
    def begin(cls, path: Path) -> LogWriter:
        """For a new run: positions start at 0. ResourceExhausted when there is no space even for saying so."""
        try:
            writer = cls._open(path)
            writer._ends = [0, 0]
            try:
                writer._keep_positions()  # before the mark: those of the last run must not hold for this one
                writer._write_all(b'{"run":%d}\n' % time.time_ns())
            except BaseException:
                writer.close()
                raise
        except OSError as error:
            raise ResourceExhausted(
                f"the log {path} cannot be written ({error.strerror}); free some space and try again"
            ) from error
        return writer

    @classmethod
    def resume(cls, path: Path) -> LogWriter:
        """For a run that another daemon began: positions are the file's, or further. A torn last line is cut off."""
        writer = cls._open(path)
        kept = _POSITIONS.fullmatch(os.pread(writer._positions, 64, 0))
        if kept is not None:
            writer._ends = [max(end, int(other)) for end, other in zip(writer._ends, kept.groups(), strict=True)]
        return writer

    @classmethod
    def _open(cls, path: Path) -> LogWriter:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o640)
        try:
            ends, size = _last_position(descriptor)
            os.ftruncate(descriptor, size)
            os.lseek(descriptor, size, os.SEEK_SET)
            return cls(path, descriptor, os.open(path.with_name("log-positions"), flags, 0o640), ends)
        except BaseException:
            os.close(descriptor)
            raise

    def position(self, stream: StreamName) -> int:
        """The agent's stream position up to which the file holds the output."""
        return self._ends[_INDEX[stream]]

    def pending(self, stream: StreamName) -> bytes:
        """Text that waits for its newline."""
        return self._partial[stream]

    def append(self, stream: StreamName, data: bytes) -> int:
        """Log what can be logged of ``data``; returns the new :meth:`position`, which may be acknowledged."""
        text = self._partial[stream] + data
        lines, rest = _split(text)
        self._partial[stream] = rest
        if lines:
            self._write_lines(stream, lines)
        return self.position(stream)

    def finish(self, stream: StreamName) -> int:
        """The stream has ended: log the rest of it."""
        rest, self._partial[stream] = self._partial[stream], b""
        if rest:
            self._write_lines(stream, [rest])
        return self.position(stream)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            os.close(self._positions)
            self._descriptor = -1

    def _write_lines(self, stream: StreamName, lines: list[bytes]) -> None:
        index = _INDEX[stream]
        tail = f',"stream":"{stream}","time":"{format_time(time.time_ns())}","end":['.encode()
        encode = msgspec.json.encode
        out, err = self._ends
        parts: list[bytes] = []
        for line in lines:
            if index == 0:
                out += len(line)
            else:
                err += len(line)
            parts.append(b'{"log":%b%b%d,%d]}\n' % (encode(line.decode("utf-8", "replace")), tail, out, err))
        self._ends[:] = (out, err)
        self._write(b"".join(parts))

    def _write(self, data: bytes) -> None:
        """All of it, or (disk full) none of it: a container must not stop because its log cannot grow."""
        start = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        try:
            self._write_all(data)
        except OSError as error:
            os.ftruncate(self._descriptor, start)
            os.lseek(self._descriptor, start, os.SEEK_SET)
            if not self._dropped:
                _log.error(
                    "log %s cannot be written (%s): output is lost until there is space", self.path, error.strerror
                )
            self._dropped += len(data)
            try:
                self._keep_positions()
            except OSError as worse:  # a broken disk: the container runs on, the next daemon may lose it
                _log.error("log positions of %s cannot be kept (%s)", self.path, worse.strerror)
            return
        if self._dropped:
            _log.warning("log %s can be written again; %d bytes of log were lost", self.path, self._dropped)
            self._dropped = 0

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def _keep_positions(self) -> None:
        """In place, in one write: it needs no space after the first time, and ``kill -9`` does not tear it."""
        os.pwrite(self._positions, b"%020d %020d\n" % tuple(self._ends), 0)


def read_entries(path: Path, position: int = 0) -> Iterator[tuple[int, LogEntry]]:
    """Entries from a byte position on, each with the position behind it; ends at the last whole line."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        rest = b""
        while block := os.pread(descriptor, _READ_BYTES, position + len(rest)):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            for raw in lines:
                position += len(raw) + 1
                line = _parse(raw)
                if line is not None:
                    yield position, line
    finally:
        os.close(descriptor)


def tail_position(path: Path, count: int, streams: frozenset[str]) -> int:
    """Where the last ``count`` entries of these streams begin, found from the end of the file backwards."""
    if count <= 0:
        return path.stat().st_size if path.exists() else 0
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        end = os.fstat(descriptor).st_size
        rest = b""
        while end > 0:
            start = max(0, end - _READ_BYTES)
            block = os.pread(descriptor, end - start, start) + rest
            first_newline = block.find(b"\n") + 1 if start else 0
            head, lines = block[:first_newline], block[first_newline:].split(b"\n")
            position = start + len(block)
            for raw in reversed(lines):
                position -= len(raw)
                entry = _parse(raw)
                if entry is not None and entry.stream in streams:
                    count -= 1
                    if count == 0:
                        return position
                position -= 1
            rest, end = head, start
        return 0
    finally:
        os.close(descriptor)


def _parse(raw: bytes) -> LogEntry | None:
    """None for run marks and for what is not a line of ours (somebody edited the file)."""
    try:
        line = _decoder.decode(raw)
        if line.run is not None or line.stream not in _INDEX:
            return None
        stream: StreamName = "stderr" if line.stream == "stderr" else "stdout"
        return LogEntry(time_ns=parse_time(line.time), stream=stream, data=line.log.encode())
    except (msgspec.MsgspecError, ValueError):
        return None


def _split(text: bytes) -> tuple[list[bytes], bytes]:
    """Whole lines, over-long ones in pieces of MAX_LINE_BYTES, and the rest."""
    lines: list[bytes] = []
    for line in text.splitlines(keepends=True) if b"\r" not in text else _split_newlines(text):
        while len(line) > MAX_LINE_BYTES:
            lines.append(line[:MAX_LINE_BYTES])
            line = line[MAX_LINE_BYTES:]
        lines.append(line)
    if lines and not lines[-1].endswith(b"\n"):
        rest = lines.pop()
        if len(rest) >= MAX_LINE_BYTES:
            lines.append(rest)
            rest = b""
        return lines, rest
    return lines, b""


def _split_newlines(text: bytes) -> list[bytes]:
    pieces = [piece + b"\n" for piece in text.split(b"\n")]
    pieces[-1] = pieces[-1][:-1]
    return [piece for piece in pieces if piece]


def _last_position(descriptor: int) -> tuple[list[int], int]:
    """The ``end`` of the last whole line and the size of the file up to it."""
    size = os.fstat(descriptor).st_size
    block_end, rest = size, b""
    whole: int | None = None
    while block_end > 0:
        start = max(0, block_end - _READ_BYTES)
        data = os.pread(descriptor, block_end - start, start) + rest
        if whole is None:
            last = data.rfind(b"\n")
            if last < 0:
                rest, block_end = data, start
                continue
            whole = start + last + 1
            data = data[: last + 1]
        lines = data.split(b"\n")
        for raw in reversed(lines[1:] if start else lines):
            if not raw:
                continue
            try:
                line = _decoder.decode(raw)
            except msgspec.MsgspecError:
                continue
            return ([0, 0] if line.run is not None else list(line.end)), whole
        rest, block_end = lines[0] + b"\n", start
    return [0, 0], whole or 0
