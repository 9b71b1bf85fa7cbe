"""The user's terminal: raw while a container has it, restored however we end; its size; the keys that detach."""

from __future__ import annotations

import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from hyper.errors import InvalidArgument

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"


def is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def size(descriptor: int = 1) -> tuple[int, int]:
    """(rows, columns); (0, 0) when it has none."""
    try:
        columns, rows = os.get_terminal_size(descriptor)
    except OSError:
        return 0, 0
    return rows, columns


@contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Keys go to the container as they are typed, ctrl-C included. Does nothing when it is no terminal."""
    if not is_terminal(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def parse_detach_keys(text: str) -> bytes:
    """ "ctrl-p,ctrl-q" or "a,b" as the bytes that they send. Raises InvalidArgument."""
    codes = bytearray()
    for key in text.split(","):
        name = key.removeprefix("ctrl-")
        if len(key) == 1 and key.isascii():
            codes.append(ord(key))
        elif name != key and len(name) == 1 and ("a" <= name.lower() <= "z" or name in "@[\\]^_"):
            codes.append(ord(name.upper()) & 0x1F)
        else:
            raise InvalidArgument(
                f"{key!r} in the detach keys is no key: write a character, or ctrl- and one of a to z @ [ \\ ] ^ _"
            )
    return bytes(codes)


class DetachFilter:
    """Watches what is typed for the detach keys. A beginning of them is held back until it is clear that it is none."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the keys are complete."""
        if not self._keys or (not self._matched and self._keys[0] not in typed):
            return typed, False  # nearly always, and 200 MB of stdin come this way
        passed = bytearray()
        for code in typed:
            if code == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(passed), True
                continue
            passed += self._keys[: self._matched]
            self._matched = 0
            if code == self._keys[0]:
                self._matched = 1
                continue
            passed.append(code)
        return bytes(passed), False
