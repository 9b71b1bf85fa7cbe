"""The frame parser against the shared vectors, and against anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyper.guest import protocol
from hyper.guest.protocol import FIN, Frame, FrameParser, FrameType, ProtocolError, encode, encode_ack, encode_reason

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/frames.json").read_text())
NONCE = VECTORS["nonce"]
HELLO = VECTORS["hello"]
ECHO = bytes.fromhex(HELLO["echo"])


def unpacked(pairs: list[tuple[str, int]]) -> bytes:
    return b"".join(bytes.fromhex(text) * count for text, count in pairs)


def in_step(nonce: int = NONCE) -> FrameParser:
    parser = FrameParser(nonce, ECHO)
    parser.in_step = True
    return parser


def fed(parser: FrameParser, data: bytes, piece: int) -> list[Frame]:
    frames = []
    for begin in range(0, len(data), piece):
        frames += parser.feed(data[begin : begin + piece])
    return frames


def by_name(entries: list[dict[str, Any]], *to: str) -> list[Any]:
    return [pytest.param(entry, id=entry["name"]) for entry in entries if entry["to"] in to]


@pytest.mark.parametrize("piece", [1, 7, 65_536, 1 << 30])
@pytest.mark.parametrize("vector", by_name(VECTORS["valid"], "host", "both"))
def test_valid_frames_are_taken_however_they_are_cut(vector: dict[str, Any], piece: int) -> None:
    expected = vector["frame"]
    (frame,) = fed(in_step(expected["nonce"]), unpacked(vector["bytes"]), piece)
    assert FrameType(frame.type).name == expected["type"]
    assert (frame.flags, frame.stream, frame.offset) == (expected["flags"], expected["stream"], expected["offset"])
    assert frame.payload == unpacked(expected["payload"])


@pytest.mark.parametrize("vector", by_name(VECTORS["valid"], "host", "agent", "both"))
def test_valid_frames_are_encoded_as_the_vectors_say(vector: dict[str, Any]) -> None:
    frame = vector["frame"]
    kind = FrameType[frame["type"]]
    made = encode(kind, frame["stream"], frame["offset"], unpacked(frame["payload"]), frame["nonce"], frame["flags"])
    assert made == unpacked(vector["bytes"])


@pytest.mark.parametrize("piece", [1, 1 << 30])
@pytest.mark.parametrize("vector", by_name(VECTORS["invalid"], "host", "both"))
def test_invalid_frames_are_refused_by_the_rule_they_break(vector: dict[str, Any], piece: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        fed(in_step(), unpacked(vector["bytes"]), piece)
    assert caught.value.rule == vector["rule"]


@pytest.mark.parametrize("piece", [1, 1_000, 1 << 30])
@pytest.mark.parametrize("vector", by_name(VECTORS["resync"], "host"))
def test_the_welcome_is_found_among_left_overs(vector: dict[str, Any], piece: int) -> None:
    parser = FrameParser(HELLO["nonce"], ECHO)
    frames = fed(parser, unpacked(vector["bytes"]), piece)
    assert FrameType(frames[0].type).name == vector["finds"]
    assert frames[0].payload[:16] == ECHO
    rest = b"".join(
        encode_ack(frame.stream, frame.offset, frame.limit, HELLO["nonce"])
        if frame.type == FrameType.ACK
        else encode(frame.type, frame.stream, frame.offset, frame.payload, HELLO["nonce"], frame.flags)
        for frame in frames[1:]
    )
    assert rest == bytes.fromhex(vector["rest"])


def test_our_hello_is_the_vectors() -> None:
    expected = unpacked(VECTORS["valid"][0]["bytes"])
    made = protocol.encode_hello(HELLO["instance"], ECHO, HELLO["nonce"])
    assert made[20:36] == expected[20:36] == protocol.HELLO_MAGIC
    assert json.loads(made[36:-4]) == json.loads(expected[36:-4])


def test_a_bye_before_the_welcome_is_found() -> None:
    parser = FrameParser(NONCE, ECHO)
    (frame,) = parser.feed(b"left-overs" + encode_reason(FrameType.BYE, 0, "I speak version 9", NONCE))
    assert (frame.type, frame.payload) == (FrameType.BYE, b"I speak version 9")


def test_a_bye_of_another_connection_is_not() -> None:
    parser = FrameParser(NONCE, ECHO)
    assert list(parser.feed(encode_reason(FrameType.BYE, 0, "old", NONCE ^ 1))) == []


@given(st.binary(max_size=4_000), st.integers(1, 4_000))
def test_rubbish_before_the_welcome_is_skipped_or_waited_for(rubbish: bytes, piece: int) -> None:
    """Rubbish may end in what looks like a header; then the welcome is found all the same."""
    parser = FrameParser(NONCE, ECHO)
    welcome = encode(FrameType.WELCOME, 0, 0, ECHO + b"{}", NONCE)
    frames = fed(parser, rubbish + welcome, piece)
    assert [frame.type for frame in frames] == [FrameType.WELCOME]


@given(st.binary(max_size=70_000), st.integers(1, 70_000))
def test_anything_in_step_is_frames_or_a_named_rule(data: bytes, piece: int) -> None:
    parser = in_step()
    try:
        fed(parser, data, piece)
    except ProtocolError as error:
        assert error.rule


@st.composite
def data_frames(draw: st.DrawFn) -> tuple[int, int, bytes, int]:
    payload = draw(st.binary(max_size=300)) * draw(st.sampled_from([1, 1, 100, 218]))
    return draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 2**63)), payload, draw(st.sampled_from([0, FIN]))


@given(st.lists(data_frames(), max_size=20), st.integers(1, 300_000))
def test_what_was_encoded_comes_back(frames: list[tuple[int, int, bytes, int]], piece: int) -> None:
    data = b"".join(encode(FrameType.DATA, stream, at, payload, NONCE, fin) for stream, at, payload, fin in frames)
    back = fed(in_step(), data, piece)
    assert [(frame.stream, frame.offset, frame.payload, frame.flags) for frame in back] == frames


def test_the_parser_holds_no_more_than_a_frame_and_a_read() -> None:
    parser = FrameParser(NONCE, ECHO)
    for _ in range(50):
        for _frame in parser.feed(b"\x02\0\0\0\0\0\1\0" + bytes(12) + b"x" * 70_000):
            pytest.fail("there is no frame in this")
    room = parser.room()
    assert 65_536 <= len(room) <= 400_000


def test_reasons_are_cut_at_a_character() -> None:
    frame = encode_reason(FrameType.BYE, 0, "é" * 2_000, NONCE)
    (back,) = in_step().feed(frame)
    assert back.payload.decode() == "é" * 512
