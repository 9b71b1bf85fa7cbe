from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyper.client.frames import split_frames
from hyper.errors import DataLoss


def frame(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


@given(st.lists(st.tuples(st.integers(1, 2), st.binary(max_size=30)), max_size=10), st.integers(1, 50))
def test_each_stream_gets_its_bytes_however_the_pieces_are_cut(frames: list[tuple[int, bytes]], cut: int) -> None:
    wire = b"".join(frame(stream, payload) for stream, payload in frames)
    pieces = [wire[at : at + cut] for at in range(0, len(wire), cut)]
    for wanted in (1, 2):
        got = b"".join(part for stream, part in split_frames(pieces) if stream == wanted)
        assert got == b"".join(payload for stream, payload in frames if stream == wanted)


def test_part_of_a_payload_is_passed_on_before_the_frame_ends() -> None:
    parts = split_frames(iter([frame(1, b"0123456789")[:12]]))
    assert next(parts) == (1, b"0123")
    with pytest.raises(DataLoss, match="ended in the middle"):
        next(parts)


@pytest.mark.parametrize("wire", [b"hello, world", b"\x07\0\0\0\0\0\0\x01x", b"\x01\0\0"])
def test_what_are_no_frames_is_an_error(wire: bytes) -> None:
    with pytest.raises(DataLoss):
        list(split_frames([wire]))
