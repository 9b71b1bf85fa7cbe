"""Writes the protocol vectors beside this file: run it by hand after changing docs/agent-protocol.md.

The encoder here is its own (struct only), so that it agrees with neither side by construction. Bytes are written as a
list of ``[hex, count]`` pairs, whose expansion is ``b"".join(bytes.fromhex(h) * n for h, n in pairs)``.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

PAD, HELLO, WELCOME, DATA, ACK, RESET, BYE = range(7)
NAMES = {HELLO: "HELLO", WELCOME: "WELCOME", DATA: "DATA", ACK: "ACK", RESET: "RESET", BYE: "BYE"}
NONCE = 0x44332211
NEW_NONCE = 0x88776655
MAGIC = b"HYPER-AGENT-v1\r\n"
ECHO = bytes(range(16))
HELLO_JSON = json.dumps({"versions": [1], "instance": "ab" * 16, "echo": ECHO.hex(), "nonce": NEW_NONCE}).encode()
WELCOME_JSON = json.dumps({"version": 1, "agent": "0.1.0", "boot_id": "b", "resumed": False}).encode()

Pairs = list[tuple[str, int]]


def header(type_: int, flags: int, zero: int, length: int, stream: int, offset: int) -> bytes:
    return struct.pack("<BBHIIQ", type_, flags, zero, length, stream, offset)


def frame(
    type_: int,
    stream: int = 0,
    offset: int = 0,
    payload: bytes = b"",
    *,
    flags: int = 0,
    nonce: int = NONCE,
    zero: int = 0,
    length: int | None = None,
) -> bytes:
    size = len(payload) if length is None else length
    return header(type_, flags, zero, size, stream, offset) + payload + struct.pack("<I", nonce)


def pairs(data: bytes) -> Pairs:
    """Runs of 64 equal bytes and more are folded, so that the file stays readable."""
    out: Pairs = []
    plain = bytearray()
    i = 0
    while i < len(data):
        j = i
        while j < len(data) and data[j] == data[i]:
            j += 1
        if j - i >= 64:
            if plain:
                out.append((plain.hex(), 1))
                plain.clear()
            out.append((f"{data[i]:02x}", j - i))
        else:
            plain += data[i:j]
        i = j
    if plain:
        out.append((plain.hex(), 1))
    return out


def valid(
    name: str,
    to: str,
    type_: int,
    stream: int = 0,
    offset: int = 0,
    payload: bytes = b"",
    flags: int = 0,
    nonce: int = NONCE,
) -> dict[str, Any]:
    return {
        "name": name,
        "to": to,
        "bytes": pairs(frame(type_, stream, offset, payload, flags=flags, nonce=nonce)),
        "frame": {
            "type": NAMES[type_],
            "flags": flags,
            "stream": stream,
            "offset": offset,
            "payload": pairs(payload),
            "nonce": nonce,
        },
    }


def ack(offset: int, limit: int, stream: int = 3, **kw: Any) -> bytes:
    return frame(ACK, stream, offset, struct.pack("<Q", limit), **kw)


hello_payload = MAGIC + HELLO_JSON
welcome_payload = ECHO + WELCOME_JSON
hello = frame(HELLO, payload=hello_payload, nonce=NEW_NONCE)
welcome = frame(WELCOME, payload=welcome_payload, nonce=NEW_NONCE)
big = 2**64 - 1

frames = {
    "about": "Frames of docs/agent-protocol.md section 2. `to`: agent, host or both "
    "(who receives it). The connection's "
    "nonce is `nonce`. Each entry of `invalid` is what a receiver in step must refuse with the rule named; the "
    "refusal may come as soon as the header is complete. `resync`: what a receiver that is out of step (or, "
    "`in_step`, was in step with `nonce`) finds in a run of bytes, fed whole or byte by byte.",
    "nonce": NONCE,
    "valid": [
        valid("hello", "agent", HELLO, payload=hello_payload, nonce=NEW_NONCE),
        valid("welcome", "host", WELCOME, payload=welcome_payload, nonce=NEW_NONCE),
        valid("data of three bytes", "both", DATA, 5, 1000, b"abc"),
        valid("data on the control stream", "both", DATA, 0, 0, struct.pack("<I", 2) + b"{}"),
        valid("data with FIN", "both", DATA, 5, 1003, b"xyz", flags=1),
        valid("data with FIN and no bytes", "both", DATA, 5, 1006, b"", flags=1),
        valid("data of the greatest length", "both", DATA, 2**32 - 1, 2**40, b"\xa5" * 65536),
        valid("data without bytes", "both", DATA, 5, 7, b""),
        valid("ack", "both", ACK, 5, 1006, struct.pack("<Q", 1006 + 262144)),
        valid("ack with no window", "both", ACK, 5, 9, struct.pack("<Q", 9)),
        valid("ack of the greatest positions", "both", ACK, 5, big, struct.pack("<Q", big)),
        valid("reset", "both", RESET, 5, 0, "closed by its reader: é".encode()),
        valid("reset without a reason", "both", RESET, 5, 0, b""),
        valid("reset with the longest reason", "both", RESET, 5, 0, b"r" * 1024),
        valid("bye", "both", BYE, 0, 0, b"gap in stream 5"),
        valid("bye without a reason", "both", BYE, 0, 0, b""),
    ],
    "invalid": [
        {"name": n, "to": to, "rule": rule, "bytes": pairs(b)}
        for n, to, rule, b in [
            ("type 7", "both", "unknown_type", frame(7)),
            ("type 255", "both", "unknown_type", frame(255)),
            ("padding sent to the host", "host", "unknown_type", b"\0" * 24),
            ("a WELCOME sent to the agent", "agent", "unknown_type", welcome),
            ("a HELLO sent to the host", "host", "unknown_type", hello),
            ("FIN on an ACK", "both", "unknown_flag", ack(1, 2, flags=1)),
            ("flag 2 on DATA", "both", "unknown_flag", frame(DATA, 5, 0, b"a", flags=2)),
            ("flag 128 on DATA", "both", "unknown_flag", frame(DATA, 5, 0, b"a", flags=0x81)),
            ("reserved field not zero", "both", "reserved_not_zero", frame(DATA, 5, 0, b"a", zero=1)),
            ("one byte too long", "both", "too_long", frame(DATA, 5, 0, b"a" * 65537)),
            ("length of 4 GiB", "both", "too_long", header(DATA, 0, 0, 2**32 - 1, 5, 0)),
            ("ACK of seven bytes", "both", "wrong_length", frame(ACK, 5, 0, b"\0" * 7)),
            ("ACK of nine bytes", "both", "wrong_length", frame(ACK, 5, 0, b"\0" * 9)),
            ("ACK without a limit", "both", "wrong_length", frame(ACK, 5, 0)),
            ("RESET reason too long", "both", "wrong_length", frame(RESET, 5, 0, b"r" * 1025)),
            ("BYE reason too long", "both", "wrong_length", frame(BYE, 0, 0, b"r" * 1025)),
            (
                "HELLO shorter than its magic",
                "agent",
                "wrong_length",
                frame(HELLO, payload=MAGIC[:15], nonce=NEW_NONCE),
            ),
            ("RESET of the control stream", "both", "wrong_stream", frame(RESET, 0)),
            ("BYE on a stream", "both", "wrong_stream", frame(BYE, 5)),
            ("HELLO on a stream", "agent", "wrong_stream", frame(HELLO, 1, payload=hello_payload, nonce=NEW_NONCE)),
            ("RESET with an offset", "both", "wrong_offset", frame(RESET, 5, 1)),
            ("BYE with an offset", "both", "wrong_offset", frame(BYE, 0, 1)),
            ("DATA that runs past the last position", "both", "wrong_offset", frame(DATA, 5, big, b"a")),
            ("limit below offset", "both", "limit_below_offset", ack(10, 9)),
            ("reason is not UTF-8", "both", "not_utf8", frame(RESET, 5, 0, b"\xff\xfe")),
            ("wrong trailer", "both", "wrong_trailer", frame(DATA, 5, 0, b"abc", nonce=NONCE ^ 1)),
            ("trailer of zero", "both", "wrong_trailer", frame(DATA, 5, 0, b"abc", nonce=0)),
            ("trailer of the connection before", "both", "wrong_trailer", ack(0, 9, nonce=NEW_NONCE)),
        ]
    ],
    "resync": [
        {
            "name": "hello after nothing",
            "to": "agent",
            "in_step": False,
            "bytes": pairs(hello),
            "finds": "HELLO",
            "rest": "",
        },
        {
            "name": "hello after padding",
            "to": "agent",
            "in_step": False,
            "bytes": pairs(b"\0" * 66000 + hello),
            "finds": "HELLO",
            "rest": "",
        },
        {
            "name": "hello after rubbish",
            "to": "agent",
            "in_step": False,
            "bytes": pairs(b"SeaBIOS\r\n\x01\x01\x00HYPER-AGENT" + MAGIC + hello),
            "finds": "HELLO",
            "rest": "",
        },
        {
            "name": "hello after a broken hello",
            "to": "agent",
            "in_step": False,
            "bytes": pairs(hello[:30] + hello),
            "finds": "HELLO",
            "rest": "",
        },
        {
            "name": "hello after a hello cut in its text, with padding",
            "to": "agent",
            "in_step": False,
            "bytes": pairs(hello[:60] + b"\0" * 66000 + hello),
            "finds": "HELLO",
            "rest": "",
        },
        {
            "name": "frames before a hello are not taken",
            "to": "agent",
            "in_step": False,
            "bytes": pairs(frame(DATA, 5, 0, b"abc") + hello),
            "finds": "HELLO",
            "rest": "",
        },
        {"name": "hello in step", "to": "agent", "in_step": True, "bytes": pairs(hello), "finds": "HELLO", "rest": ""},
        {
            "name": "padding between frames, then hello",
            "to": "agent",
            "in_step": True,
            "bytes": pairs(b"\0" * 100 + hello),
            "finds": "HELLO",
            "rest": "",
        },
        {
            "name": "hello after a frame cut in its header, with padding",
            "to": "agent",
            "in_step": True,
            "bytes": pairs(header(DATA, 0, 0, 65536, 5, 0)[:7] + b"\0" * 66000 + hello),
            "finds": "HELLO",
            "rest": "",
        },
        {
            "name": "hello after a frame cut in its payload, with padding",
            "to": "agent",
            "in_step": True,
            "bytes": pairs(header(DATA, 0, 0, 65536, 5, 0) + b"z" * 100 + b"\0" * 66000 + hello),
            "finds": "HELLO",
            "rest": "",
        },
        {
            "name": "hello after a frame cut in its trailer, with padding",
            "to": "agent",
            "in_step": True,
            "bytes": pairs(frame(DATA, 5, 0, b"abc")[:-2] + b"\0" * 66000 + hello),
            "finds": "HELLO",
            "rest": "",
        },
        {
            "name": "bytes behind the hello belong to the new connection",
            "to": "agent",
            "in_step": False,
            "bytes": pairs(hello + ack(0, 9, nonce=NEW_NONCE)),
            "finds": "HELLO",
            "rest": ack(0, 9, nonce=NEW_NONCE).hex(),
        },
        {
            "name": "welcome after nothing",
            "to": "host",
            "in_step": False,
            "bytes": pairs(welcome),
            "finds": "WELCOME",
            "rest": "",
        },
        {
            "name": "welcome after left-overs",
            "to": "host",
            "in_step": False,
            "bytes": pairs(frame(DATA, 5, 0, b"x" * 500)[13:] + frame(DATA, 5, 500, b"abc") + welcome),
            "finds": "WELCOME",
            "rest": "",
        },
        {
            "name": "welcome after one with another echo",
            "to": "host",
            "in_step": False,
            "bytes": pairs(frame(WELCOME, payload=bytes(16) + WELCOME_JSON, nonce=NONCE) + welcome),
            "finds": "WELCOME",
            "rest": "",
        },
        {
            "name": "welcome after a cut welcome",
            "to": "host",
            "in_step": False,
            "bytes": pairs(welcome[:40] + welcome),
            "finds": "WELCOME",
            "rest": "",
        },
        {
            "name": "bytes behind the welcome belong to the connection",
            "to": "host",
            "in_step": False,
            "bytes": pairs(welcome + ack(0, 9, nonce=NEW_NONCE)),
            "finds": "WELCOME",
            "rest": ack(0, 9, nonce=NEW_NONCE).hex(),
        },
    ],
    "hello": {"nonce": NEW_NONCE, "echo": ECHO.hex(), "instance": "ab" * 16, "versions": [1]},
}


def recv(offset: int, text: str, fin: bool = False, **expect: Any) -> dict[str, Any]:
    return {"data": {"offset": offset, "text": text, "fin": fin}, **expect}


def sent(offset: int, text: str, fin: bool = False) -> dict[str, Any]:
    return {"offset": offset, "text": text, "fin": fin}


streams = {
    "about": "One one-way flow seen from each end. `receiver`: starts at `next` and "
    "has granted up to `limit`; each step "
    "gives a DATA frame, then either what it delivers (`takes`) and the new `next` position (what an ACK would carry; "
    "the FIN counts as one), or the rule it breaks (`error`). `sender`: steps write "
    "bytes, finish, take an ACK, lose the connection "
    "(`disconnect`) or a RESET; `sends` is all that may be sent after the step, neighbouring frames joined; a step "
    "without `sends` sends nothing. `keeps`: bytes still held afterwards. `over`: the flow is over.",
    "receiver": [
        {
            "name": "takes bytes in order",
            "next": 0,
            "limit": 100,
            "steps": [recv(0, "abc", takes="abc", next=3), recv(3, "def", takes="def", next=6)],
        },
        {
            "name": "ignores a replay",
            "next": 0,
            "limit": 100,
            "steps": [
                recv(0, "abc", takes="abc", next=3),
                recv(0, "abc", takes="", next=3),
                recv(1, "bc", takes="", next=3),
            ],
        },
        {
            "name": "trims what it already has",
            "next": 0,
            "limit": 100,
            "steps": [recv(0, "abc", takes="abc", next=3), recv(1, "bcde", takes="de", next=5)],
        },
        {
            "name": "refuses a gap",
            "next": 0,
            "limit": 100,
            "steps": [recv(0, "abc", takes="abc", next=3), recv(4, "x", error="gap")],
        },
        {
            "name": "takes bytes up to the limit",
            "next": 0,
            "limit": 4,
            "steps": [recv(0, "abcd", takes="abcd", next=4)],
        },
        {
            "name": "refuses bytes above the limit",
            "next": 0,
            "limit": 4,
            "steps": [recv(0, "abcde", error="above_limit")],
        },
        {
            "name": "counts the FIN as a position",
            "next": 0,
            "limit": 100,
            "steps": [recv(0, "abc", True, takes="abc", next=4)],
        },
        {
            "name": "takes a FIN alone",
            "next": 0,
            "limit": 100,
            "steps": [recv(0, "abc", takes="abc", next=3), recv(3, "", True, takes="", next=4)],
        },
        {
            "name": "refuses a FIN above the limit",
            "next": 0,
            "limit": 3,
            "steps": [recv(0, "abc", True, error="above_limit")],
        },
        {
            "name": "takes a FIN just below the limit",
            "next": 0,
            "limit": 4,
            "steps": [recv(0, "abc", True, takes="abc", next=4)],
        },
        {
            "name": "ignores a replayed FIN",
            "next": 0,
            "limit": 100,
            "steps": [
                recv(0, "abc", True, takes="abc", next=4),
                recv(0, "abc", True, takes="", next=4),
                recv(3, "", True, takes="", next=4),
            ],
        },
        {
            "name": "trims a replay and takes the FIN behind it",
            "next": 0,
            "limit": 100,
            "steps": [recv(0, "abc", takes="abc", next=3), recv(0, "abc", True, takes="", next=4)],
        },
        {
            "name": "refuses bytes after a FIN",
            "next": 0,
            "limit": 100,
            "steps": [recv(0, "abc", True, takes="abc", next=4), recv(4, "x", error="after_fin")],
        },
        {
            "name": "refuses a byte in the FIN's place",
            "next": 0,
            "limit": 100,
            "steps": [recv(0, "abc", True, takes="abc", next=4), recv(3, "x", error="after_fin")],
        },
        {
            "name": "refuses a FIN before what it has",
            "next": 0,
            "limit": 100,
            "steps": [recv(0, "abc", takes="abc", next=3), recv(0, "ab", True, error="after_fin")],
        },
        {
            "name": "goes on from a recorded position",
            "next": 5000,
            "limit": 6000,
            "steps": [recv(4990, "0123456789new", takes="new", next=5003)],
        },
        {"name": "empty data changes nothing", "next": 0, "limit": 100, "steps": [recv(0, "", takes="", next=0)]},
    ],
    "sender": [
        {
            "name": "sends nothing before the first ACK",
            "steps": [
                {"write": "abc", "keeps": 3},
                {"ack": {"offset": 0, "limit": 100}, "sends": [sent(0, "abc")], "keeps": 3},
            ],
        },
        {
            "name": "frees what is acknowledged",
            "steps": [
                {"ack": {"offset": 0, "limit": 100}},
                {"write": "abcdef", "sends": [sent(0, "abcdef")], "keeps": 6},
                {"ack": {"offset": 4, "limit": 104}, "keeps": 2},
                {"ack": {"offset": 6, "limit": 106}, "keeps": 0},
            ],
        },
        {
            "name": "stops at the limit and goes on with more credit",
            "steps": [
                {"ack": {"offset": 0, "limit": 4}},
                {"write": "abcdef", "sends": [sent(0, "abcd")], "keeps": 6},
                {"ack": {"offset": 4, "limit": 8}, "sends": [sent(4, "ef")], "keeps": 2},
            ],
        },
        {
            "name": "replays after a reconnect from the ACK's position",
            "steps": [
                {"ack": {"offset": 0, "limit": 100}},
                {"write": "abcdef", "sends": [sent(0, "abcdef")]},
                {"disconnect": True},
                {"write": "gh", "keeps": 8},
                {"ack": {"offset": 2, "limit": 102}, "sends": [sent(2, "cdefgh")], "keeps": 6},
            ],
        },
        {
            "name": "may be given less credit on a new connection",
            "steps": [
                {"ack": {"offset": 0, "limit": 100}},
                {"write": "abcdef", "sends": [sent(0, "abcdef")]},
                {"disconnect": True},
                {"ack": {"offset": 0, "limit": 3}, "sends": [sent(0, "abc")], "keeps": 6},
            ],
        },
        {
            "name": "replays the FIN",
            "steps": [
                {"ack": {"offset": 0, "limit": 100}},
                {"write": "abc", "sends": [sent(0, "abc")]},
                {"finish": True, "sends": [sent(3, "", True)]},
                {"disconnect": True},
                {"ack": {"offset": 3, "limit": 100}, "sends": [sent(3, "", True)]},
                {"ack": {"offset": 4, "limit": 100}, "keeps": 0, "over": True},
            ],
        },
        {
            "name": "the FIN waits for credit",
            "steps": [
                {"ack": {"offset": 0, "limit": 3}},
                {"write": "abc", "sends": [sent(0, "abc")]},
                {"finish": True},
                {"ack": {"offset": 3, "limit": 4}, "sends": [sent(3, "", True)]},
            ],
        },
        {
            "name": "an empty stream is a FIN",
            "steps": [
                {"finish": True},
                {"ack": {"offset": 0, "limit": 1}, "sends": [sent(0, "", True)]},
                {"ack": {"offset": 1, "limit": 1}, "over": True},
            ],
        },
        {
            "name": "refuses an ACK above what was sent",
            "steps": [
                {"ack": {"offset": 0, "limit": 100}},
                {"write": "abc", "sends": [sent(0, "abc")]},
                {"ack": {"offset": 4, "limit": 100}, "error": "ack_above_sent"},
            ],
        },
        {
            "name": "refuses an ACK above what was sent on the connection before",
            "steps": [
                {"ack": {"offset": 0, "limit": 2}},
                {"write": "abcdef", "sends": [sent(0, "ab")]},
                {"disconnect": True},
                {"ack": {"offset": 3, "limit": 100}, "error": "ack_above_sent"},
            ],
        },
        {
            "name": "refuses an ACK that goes back within a connection",
            "steps": [
                {"ack": {"offset": 0, "limit": 100}},
                {"write": "abc", "sends": [sent(0, "abc")]},
                {"ack": {"offset": 3, "limit": 100}},
                {"ack": {"offset": 2, "limit": 100}, "error": "went_back"},
            ],
        },
        {
            "name": "refuses a limit that goes back within a connection",
            "steps": [{"ack": {"offset": 0, "limit": 100}}, {"ack": {"offset": 0, "limit": 99}, "error": "went_back"}],
        },
        {
            "name": "refuses an ACK below what was freed, after a reconnect",
            "steps": [
                {"ack": {"offset": 0, "limit": 100}},
                {"write": "abc", "sends": [sent(0, "abc")]},
                {"ack": {"offset": 3, "limit": 100}},
                {"disconnect": True},
                {"ack": {"offset": 2, "limit": 100}, "error": "went_back"},
            ],
        },
        {
            "name": "a RESET ends the flow and drops its bytes",
            "steps": [
                {"ack": {"offset": 0, "limit": 100}},
                {"write": "abc", "sends": [sent(0, "abc")]},
                {"reset": "closed by its reader", "keeps": 0, "over": True},
            ],
        },
    ],
}

if __name__ == "__main__":
    here = Path(__file__).parent
    for name, value in (("frames", frames), ("streams", streams)):
        (here / f"{name}.json").write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
