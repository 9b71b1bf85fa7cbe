"""Signal names and numbers as Docker takes them: "SIGTERM", "term", "15", "RTMIN+3". The numbers are Linux's (same
on x86-64 and aarch64)."""

from __future__ import annotations

import re
import signal

from hyper.errors import InvalidArgument

_NUMBERS = {member.name.removeprefix("SIG"): int(member) for member in signal.Signals}
_RTMIN, _RTMAX = 34, 64


def parse_signal(text: str) -> int:
    """The signal's number. InvalidArgument with Docker's words when there is none such."""
    name = text.strip().upper().removeprefix("SIG")
    if name.isascii() and name.isdigit() and len(name) <= 2:
        number = int(name)
        if 1 <= number <= _RTMAX:
            return number
    elif name in _NUMBERS:
        return _NUMBERS[name]
    elif match := re.fullmatch(r"RT(MIN|MAX)(?:([+-])(\d{1,2}))?", name):
        base = _RTMIN if match[1] == "MIN" else _RTMAX
        number = base + int((match[2] or "+") + (match[3] or "0"))
        if _RTMIN <= number <= _RTMAX:
            return number
    raise InvalidArgument(f"Invalid signal: {text[:64]}")
