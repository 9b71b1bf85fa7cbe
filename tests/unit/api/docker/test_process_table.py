"""ps over what the agent tells."""

from __future__ import annotations

import os

import msgspec
import pytest

from hyper.api.docker.process_table import table
from hyper.engine.model import ProcessInfo
from hyper.errors import HyperError, InvalidArgument, Unsupported

SECOND_NS = 1_000_000_000
INIT = ProcessInfo(
    pid=41,
    uid=0,
    name="sh",
    arguments="sh -c sleep 9",
    state="S",
    parent=1,
    group=41,
    session=41,
    terminal=os.makedev(136, 3),
    foreground_group=41,
    cpu_ns=3661 * SECOND_NS,
    nice=0,
    priority=20,
    threads=2,
    age_ns=7322 * SECOND_NS,
    virtual_bytes=4 << 20,
    resident_bytes=1 << 20,
)
OTHER = msgspec.structs.replace(INIT, pid=42, uid=1000, terminal=0, arguments="", session=41, nice=5, threads=1)


def shown(arguments: str) -> tuple[list[str], list[list[str]]]:
    return table(arguments, (INIT, OTHER), now_ns=1_700_000_000 * SECOND_NS, memory_bytes=4 << 20)


def test_the_full_format_is_dockers_default() -> None:
    titles, [init, other] = shown("-ef")
    assert titles == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert init[:4] == ["root", "41", "1", "50"]
    assert init[5:] == ["pts/3", "01:01:01", "sh -c sleep 9"]
    assert (other[0], other[5], other[7]) == ("1000", "?", "[sh]")


def test_the_users_format() -> None:
    titles, [init, other] = shown("aux")
    assert titles == [
        *("USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME", "COMMAND"),
    ]
    assert (init[2:8], init[9]) == (["50.0", "25.0", "4096", "1024", "pts/3", "Ssl+"], "61:01")
    assert other[7] == "SN"


@pytest.mark.parametrize(
    "arguments", ["-o pid,cmd", "-eo pid,cmd", "o pid,cmd", "-opid,cmd", "-o pid -o cmd", "--format pid,cmd"]
)
def test_columns_of_choice(arguments: str) -> None:
    assert shown(arguments) == (["PID", "CMD"], [["41", "sh -c sleep 9"], ["42", "[sh]"]])


def test_titles_of_choice() -> None:
    assert shown("-o pid,etime=AGE,comm")[0] == ["PID", "AGE", "COMMAND"]
    assert shown("-o pid,etime")[1][0] == ["41", "02:02:02"]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ("-o cmd", InvalidArgument, "Couldn't find PID field in ps output"),
        ("-o", InvalidArgument, "names of columns"),
        ("-o pid,nosuch", Unsupported, 'ps column "nosuch"'),
        ("-Z", Unsupported, 'ps argument "-Z"'),
        ("--forest", Unsupported, 'ps argument "--forest"'),
    ],
)
def test_what_is_not_there_is_named(arguments: str, kind: type[HyperError], message: str) -> None:
    with pytest.raises(kind) as caught:
        shown(arguments)
    assert message in caught.value.message
