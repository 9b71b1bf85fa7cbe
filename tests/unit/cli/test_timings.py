from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyper.cli.timings import Timings, chart, heading, parse

TOLD = (
    "rung;desc=pool, address;dur=1, sandbox.wake;dur=2, sandbox.resize;dur=1, sandbox;dur=4, disks;dur=3, total;dur=8"
)


def test_phases_stand_one_after_the_other_with_their_parts_below() -> None:
    rung, phases = parse(TOLD)
    assert (rung, list(phases)) == ("pool", ["address", "sandbox.wake", "sandbox.resize", "sandbox", "disks", "total"])
    assert chart(phases, 8 + 3 + 7 + 16, coloured=False, blocks=True) == [
        "  address   1.0  ██",
        "  sandbox   4.0    ████████",
        "    wake    2.0    ████",
        "    resize  1.0        ██",
        "  disks     3.0            ██████",
    ]
    assert chart(phases, 0, coloured=False, blocks=False)[1] == "  sandbox   4.0   ####"


def test_the_heading_says_where_the_vm_came_from() -> None:
    rung, phases = parse(TOLD)
    assert heading(rung, phases, None) == "started in 8.0 ms from the pool\n"
    assert heading("cold", phases, 1.25) == "started in 8.0 ms by a cold boot; first output 1.2 ms later\n"
    assert heading("", {"a": 1.0, "a.b": 0.5, "c": 2.0}, None) == "started in 3.0 ms\n"


@pytest.mark.parametrize("text", ["", ";", "a", "a;dur=", "a;dur=x", "a;dur=nan", "a;dur=inf", "a;dur=-1", ",,;=;"])
def test_what_another_engine_says_is_passed_over(text: str) -> None:
    assert parse(text) == ("", {})


@given(
    st.dictionaries(st.from_regex(r"\A[a-z]{1,12}(\.[a-z]{1,12})?\Z"), st.floats(0, 1e6), min_size=1, max_size=15),
    st.integers(0, 250),
    st.booleans(),
)
def test_no_line_is_wider_than_the_terminal(phases: dict[str, float], width: int, blocks: bool) -> None:
    plain = chart(phases, width, coloured=False, blocks=blocks)
    narrowest = 7 + 8 + max((len(line.rstrip(" ▏▎▍▌▋▊▉█#")) for line in plain), default=0)
    assert all(len(line) <= max(width, narrowest) for line in plain)
    assert all(line[-1] not in " 0123456789" for line in plain)  # each has a bar
    assert len(plain) == len(phases) - ("total" in phases)


def test_colours_are_around_the_bars_only() -> None:
    lines = chart({"a": 1.0, "b.c": 1.0, "b": 1.0}, 40, coloured=True, blocks=False)
    assert lines[1].split("\x1b")[0].split() == ["b", "1.0"]
    assert "\x1b[36m#" in lines[1] and "\x1b[2;36m#" in lines[2]
    assert all(line.endswith("\x1b[0m") for line in lines)


def test_nothing_is_shown_when_nothing_was_started(capsys: pytest.CaptureFixture[str]) -> None:
    Timings().show()
    assert capsys.readouterr().err == ""


def test_an_engine_that_tells_nothing_is_said_to(capsys: pytest.CaptureFixture[str]) -> None:
    timings = Timings()
    timings.started({"content-length": "0"})
    timings.show()
    assert capsys.readouterr().err.startswith("hyper: no timings: ")


def test_first_output_is_counted_from_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    timings = Timings()
    timings.first_output_s = 0.0  # it came before the answer was read
    timings.started({"server-timing": TOLD})
    timings.show()
    assert "; first output 0.0 ms later\n" in capsys.readouterr().err
