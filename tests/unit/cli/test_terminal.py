from __future__ import annotations

import os
import pty
import termios

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyper.cli import terminal
from hyper.errors import InvalidArgument

KEYS = terminal.parse_detach_keys(terminal.DEFAULT_DETACH_KEYS)


@pytest.mark.parametrize(
    ("text", "codes"), [("ctrl-p,ctrl-q", b"\x10\x11"), ("a,ctrl-A", b"a\x01"), ("ctrl-[,ctrl-@", b"\x1b\0")]
)
def test_detach_keys_are_read(text: str, codes: bytes) -> None:
    assert terminal.parse_detach_keys(text) == codes


@pytest.mark.parametrize("text", ["", "ctrl-", "ctrl-1", "ab", "é"])
def test_what_are_no_keys_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        terminal.parse_detach_keys(text)


def test_keys_detach_also_when_they_come_one_by_one() -> None:
    filter = terminal.DetachFilter(KEYS)
    assert filter.feed(b"ls\x10") == (b"ls", False)
    assert filter.feed(b"\x11more") == (b"", True)


def test_half_of_the_keys_is_passed_on_when_the_other_half_does_not_come() -> None:
    filter = terminal.DetachFilter(KEYS)
    assert filter.feed(b"\x10") == (b"", False)
    assert filter.feed(b"\x10") == (b"\x10", False)
    assert filter.feed(b"x") == (b"\x10x", False)


@given(st.lists(st.binary(max_size=8), max_size=8))
def test_everything_else_is_passed_on_unchanged(typed: list[bytes]) -> None:
    typed = [piece.replace(b"\x10", b"") for piece in typed]
    filter = terminal.DetachFilter(KEYS)
    assert b"".join(filter.feed(piece)[0] for piece in typed) == b"".join(typed)


def test_terminal_is_restored_after_a_failure() -> None:
    controller, terminal_fd = pty.openpty()
    try:
        before = termios.tcgetattr(terminal_fd)
        with pytest.raises(RuntimeError), terminal.raw(terminal_fd):
            assert termios.tcgetattr(terminal_fd) != before
            raise RuntimeError
        assert termios.tcgetattr(terminal_fd) == before
    finally:
        os.close(controller)
        os.close(terminal_fd)
