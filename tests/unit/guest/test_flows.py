"""Positions and credit of one flow, against the shared vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyper.guest.flows import Receiver, Sender
from hyper.guest.protocol import ProtocolError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/streams.json").read_text())


def named(entries: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(entry, id=entry["name"]) for entry in entries]


@pytest.mark.parametrize("vector", named(VECTORS["receiver"]))
def test_receiver_vector(vector: dict[str, Any]) -> None:
    receiver = Receiver(vector["next"], vector["limit"])
    for step in vector["steps"]:
        data = step["data"]
        if "error" in step:
            with pytest.raises(ProtocolError) as caught:
                receiver.take(data["offset"], data["text"].encode(), data["fin"])
            assert caught.value.rule == step["error"]
            return
        assert receiver.take(data["offset"], data["text"].encode(), data["fin"]) == step["takes"].encode()
        assert receiver.next == step["next"]


@pytest.mark.parametrize("vector", named(VECTORS["sender"]))
def test_sender_vector(vector: dict[str, Any]) -> None:
    sender = Sender()
    for step in vector["steps"]:
        if "error" in step:
            with pytest.raises(ProtocolError) as caught:
                sender.acknowledge(step["ack"]["offset"], step["ack"]["limit"])
            assert caught.value.rule == step["error"]
            return
        if "write" in step:
            sender.write(step["write"].encode())
        if step.get("finish"):
            sender.finish()
        if "ack" in step:
            sender.acknowledge(step["ack"]["offset"], step["ack"]["limit"])
        if step.get("disconnect"):
            sender.disconnect()
        if "reset" in step:
            sender.reset()
        assert joined(sender) == [(part["offset"], part["text"], part["fin"]) for part in step.get("sends", [])]
        if "keeps" in step:
            assert sender.kept_bytes == step["keeps"]
        if "over" in step:
            assert sender.over == step["over"]


def joined(sender: Sender) -> list[tuple[int, str, bool]]:
    """All that may be sent now, neighbouring frames joined as the vectors do."""
    parts: list[tuple[int, str, bool]] = []
    while (frame := sender.next_frame()) is not None:
        offset, data, fin = frame[0], bytes(frame[1]).decode(), frame[2]
        if parts and parts[-1][0] + len(parts[-1][1]) == offset:
            offset, data = parts[-1][0], parts.pop()[1] + data
        parts.append((offset, data, fin))
    return parts


def test_an_adopted_sender_starts_where_the_peer_says() -> None:
    sender = Sender(None)
    sender.write(b"abc")
    sender.acknowledge(1_000, 2_000)
    assert joined(sender) == [(1_000, "abc", False)]


def test_large_writes_leave_in_frames_of_64_kib() -> None:
    sender = Sender()
    sender.acknowledge(0, 1 << 30)
    sender.write(bytes(200_000))
    sizes = []
    while (frame := sender.next_frame()) is not None:
        sizes.append(len(frame[1]))
    assert sizes == [65_536, 65_536, 65_536, 3_392]
