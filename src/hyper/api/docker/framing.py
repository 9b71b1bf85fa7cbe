"""Output of a process without a terminal, as one byte stream: each piece behind an 8-byte header (the API file:
"Stream format")."""

from __future__ import annotations

import struct
from typing import Literal

_HEADER = struct.Struct(">BxxxL")
_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"


def header(stream: Literal["stdin", "stdout", "stderr"], size: int) -> bytes:
    return _HEADER.pack(_NUMBERS[stream], size)


def media_type(*, multiplexed: bool, version: tuple[int, int]) -> str:
    """Before 1.42 clients had to know by themselves which of the two it was."""
    return MULTIPLEXED_STREAM if multiplexed and version >= (1, 42) else RAW_STREAM
