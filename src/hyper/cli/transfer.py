"""How a pull or push is shown: on a terminal a line for each layer, rewritten in place; elsewhere a line for each step.

The engine's messages are docker's, so what is seen is what docker shows. Neighbour: ``registry.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from hyper.cli import human

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BAR_COLUMNS = 50


def show(messages: Iterable[dict[str, Any]], stream: TextIO, *, terminal: bool, columns: int) -> None:
    """To the end of the messages, whose errors the client raises."""
    rows: dict[str, int] = {}
    for message in messages:
        status, identifier = str(message.get("status", "")), str(message.get("id", ""))
        if not status:
            continue
        detail = message.get("progressDetail") or {}
        if not terminal:
            if not detail:
                stream.write(f"{identifier}: {status}\n" if identifier else f"{status}\n")
                stream.flush()
            continue
        text = status if not identifier else f"{identifier}: {status}"
        if detail:
            text += " " + bar(int(detail.get("current", 0)), int(detail.get("total", 0)), columns)
        text = human.shorten(text, max(columns - 1, 20))
        if not identifier or "progressDetail" not in message:
            rows.clear()  # what comes now stands below
            stream.write(f"{text}\n")
        elif identifier not in rows:
            for known in rows:
                rows[known] += 1
            rows[identifier] = 1
            stream.write(f"{text}\n")
        else:
            up = rows[identifier]
            stream.write(f"\x1b[{up}A\r\x1b[K{text}\x1b[{up}B\r")
        stream.flush()


def bar(current: int, total: int, columns: int) -> str:
    numbers = human.size(current) if current > total else f"{human.size(current)}/{human.size(total)}"
    if columns <= 110:
        return numbers
    full = min(int(current / total * 100) // 2, _BAR_COLUMNS) if total else 0
    return f"[{'=' * full}>{' ' * (_BAR_COLUMNS - full)}] {numbers}"
