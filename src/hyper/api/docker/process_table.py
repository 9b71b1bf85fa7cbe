"""``ps`` over a container's processes: what ``docker top`` shows. Docker runs the host's ps; here the guest's agent
tells of the processes and the columns are made here, for the ps arguments that people use. Others are refused by name.

Sources: ps(1) of procps. Neighbour: ``hyper.engine.model.ProcessInfo`` (what is known of a process).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hyper.engine.model import ProcessInfo
from hyper.errors import InvalidArgument, Unsupported

_PTS_MAJORS = range(136, 144)


@dataclass(frozen=True)
class _View:
    """What a column may need beside the process. ``now_ns``: since the epoch."""

    now_ns: int
    memory_bytes: int


_Column = tuple[str, Callable[[ProcessInfo, _View], str]]


def table(
    arguments: str, processes: Sequence[ProcessInfo], *, now_ns: int, memory_bytes: int
) -> tuple[list[str], list[list[str]]]:
    """Titles and rows. InvalidArgument for what ps would not take, Unsupported for what is not there."""
    chosen = columns(arguments)
    view = _View(now_ns, memory_bytes)
    rows = [[make(process, view) for _, make in chosen] for process in processes]
    return [title for title, _ in chosen], rows


def columns(arguments: str) -> list[_Column]:
    """Titles and how to fill them; errors as :func:`table`."""
    words = arguments.split()
    chosen: list[str] = []
    letters = ""
    while words:
        word = words.pop(0)
        keys = word.removeprefix("-")
        if word == "--format" or (keys.endswith("o") and set(keys[:-1]) <= set("aAefuwx")):
            if not words:
                raise InvalidArgument(f"ps: {word} wants names of columns behind it")
            chosen += words.pop(0).split(",")
        elif word.startswith("--format="):
            chosen += word.removeprefix("--format=").split(",")
        elif word.startswith("-o") or (word.startswith("o") and len(word) > 1):
            chosen += keys[1:].split(",")
        elif keys and set(keys) <= set("aAefuwx"):
            letters += word if word.startswith("-") else f" {word}"
        else:
            raise Unsupported(
                f'ps argument "{word[:64]}" is not there: use -ef, aux, -e, ax or -o with names of columns'
            )
    if chosen:
        if "pid" not in [name.partition("=")[0].lower() for name in chosen]:
            raise InvalidArgument("Couldn't find PID field in ps output")
        return [_named(name) for name in chosen]
    if "u" in letters:
        return [_named(name) for name in _USER]
    if "f" in letters:
        return [_named(name) for name in _FULL]
    return [_named(name) for name in (_BSD if letters.startswith(" ") else _SHORT)]


def _named(text: str) -> _Column:
    name, equals, title = text.partition("=")
    found = _COLUMNS.get(name.lower())
    if found is None:
        raise Unsupported(f'ps column "{name[:64]}" is not there; there are {", ".join(sorted(_COLUMNS))}')
    return (title, found[1]) if equals else found


_FULL = ("uid_name", "pid", "ppid", "c", "stime", "tty", "time", "cmd")
_USER = ("user", "pid", "%cpu", "%mem", "vsz", "rss", "tty", "stat", "start", "time_short", "command")
_SHORT = ("pid", "tty", "time", "comm_cmd")
_BSD = ("pid", "tty", "stat", "time_short", "command")


def _user(process: ProcessInfo, _view: _View) -> str:
    """The sandbox has no list of users but root's."""
    return "root" if process.uid == 0 else str(process.uid)


def _command(process: ProcessInfo, _view: _View) -> str:
    return process.arguments or f"[{process.name}]"


def _terminal(process: ProcessInfo, _view: _View) -> str:
    major, minor = os.major(process.terminal), os.minor(process.terminal)
    return f"pts/{(major - _PTS_MAJORS.start) * 256 + minor}" if major in _PTS_MAJORS else "?"


def _state(process: ProcessInfo, _view: _View) -> str:
    marks = (
        ("<", process.nice < 0),
        ("N", process.nice > 0),
        ("s", process.session == process.pid),
        ("l", process.threads > 1),
        ("+", process.foreground_group == process.group and process.terminal != 0),
    )
    return process.state + "".join(mark for mark, on in marks if on)


def _share(process: ProcessInfo) -> float:
    return 100 * process.cpu_ns / process.age_ns if process.age_ns > 0 else 0.0


def _clock(seconds: int) -> str:
    days, rest = divmod(seconds, 86400)
    return (f"{days}-" if days else "") + f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"


def _short_time(process: ProcessInfo, _view: _View) -> str:
    seconds = process.cpu_ns // 1_000_000_000
    return f"{seconds // 60}:{seconds % 60:02}"


def _began(process: ProcessInfo, view: _View) -> str:
    began_s = (view.now_ns - process.age_ns) // 1_000_000_000
    return time.strftime("%H:%M" if process.age_ns < 86400 * 10**9 else "%b%d", time.localtime(began_s))


def _elapsed(process: ProcessInfo, _view: _View) -> str:
    text = _clock(process.age_ns // 1_000_000_000)
    return text.removeprefix("00:")


_COLUMNS: dict[str, _Column] = {
    "uid_name": ("UID", _user),
    "user": ("USER", _user),
    "euser": ("EUSER", _user),
    "uname": ("USER", _user),
    "uid": ("UID", lambda p, _: str(p.uid)),
    "pid": ("PID", lambda p, _: str(p.pid)),
    "ppid": ("PPID", lambda p, _: str(p.parent)),
    "pgid": ("PGID", lambda p, _: str(p.group)),
    "sid": ("SID", lambda p, _: str(p.session)),
    "c": ("C", lambda p, _: str(int(_share(p)))),
    "%cpu": ("%CPU", lambda p, _: f"{_share(p):.1f}"),
    "pcpu": ("%CPU", lambda p, _: f"{_share(p):.1f}"),
    "%mem": ("%MEM", lambda p, v: f"{100 * p.resident_bytes / v.memory_bytes:.1f}"),
    "pmem": ("%MEM", lambda p, v: f"{100 * p.resident_bytes / v.memory_bytes:.1f}"),
    "vsz": ("VSZ", lambda p, _: str(p.virtual_bytes // 1024)),
    "rss": ("RSS", lambda p, _: str(p.resident_bytes // 1024)),
    "tty": ("TTY", _terminal),
    "tt": ("TT", _terminal),
    "stat": ("STAT", _state),
    "s": ("S", lambda p, _: p.state),
    "state": ("S", lambda p, _: p.state),
    "start": ("START", _began),
    "stime": ("STIME", _began),
    "etime": ("ELAPSED", _elapsed),
    "etimes": ("ELAPSED", lambda p, _: str(p.age_ns // 1_000_000_000)),
    "time": ("TIME", lambda p, _: _clock(p.cpu_ns // 1_000_000_000)),
    "cputime": ("TIME", lambda p, _: _clock(p.cpu_ns // 1_000_000_000)),
    "time_short": ("TIME", _short_time),
    "ni": ("NI", lambda p, _: str(p.nice)),
    "nice": ("NI", lambda p, _: str(p.nice)),
    "nlwp": ("NLWP", lambda p, _: str(p.threads)),
    "thcount": ("THCNT", lambda p, _: str(p.threads)),
    "comm": ("COMMAND", lambda p, _: p.name),
    "comm_cmd": ("CMD", lambda p, _: p.name),
    "ucmd": ("CMD", lambda p, _: p.name),
    "cmd": ("CMD", _command),
    "args": ("COMMAND", _command),
    "command": ("COMMAND", _command),
}
"""By the names of ps; those with an underscore are other widths and titles of the same, for the formats above."""
