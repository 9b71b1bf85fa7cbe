"""The key sequence that leaves a terminal's process alone: found in what the client types, kept from the process."""

from __future__ import annotations

from hyper.errors import InvalidArgument

DEFAULT = "ctrl-p,ctrl-q"


def parse(text: str) -> bytes:
    """ "ctrl-p,ctrl-q", "a", "ctrl-@,x": the bytes in order. "" is the default. InvalidArgument for anything else."""
    sequence = bytearray()
    for key in (text or DEFAULT).split(","):
        if len(key) == 1 and key.isascii():
            sequence += key.encode()
            continue
        control = key.removeprefix("ctrl-")
        if control == key or len(control) != 1:
            raise InvalidArgument(f"Invalid detach keys ({text}) provided")
        letter = control.lower()
        if "a" <= letter <= "z":
            sequence.append(ord(letter) - 96)
        elif letter in "@[\\]^_":
            sequence.append(ord(letter) & 0x1F)
        else:
            raise InvalidArgument(f"Invalid detach keys ({text}) provided")
    return bytes(sequence)


class DetachScanner:
    """Feed what arrives; a started sequence is held back until it is known not to be one, also across pieces."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._held = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the sequence was completed (what follows it is dropped)."""
        sequence = self._sequence
        if not self._held and sequence[0] not in data:
            return data, False
        out = bytearray()
        for byte in data:
            if byte == sequence[self._held]:
                self._held += 1
                if self._held == len(sequence):
                    self._held = 0
                    return bytes(out), True
                continue
            if self._held:
                out += sequence[: self._held]
                self._held = 1 if byte == sequence[0] else 0
                if self._held:
                    continue
            out.append(byte)
        return bytes(out), False
