"""Where a start's time went, in the headers of the answer to it.

``Server-Timing`` (W3C) is made for this, Docker's clients pass it over, and it reaches who asked for the start whatever
becomes of the container: one with ``--rm`` may be gone before anybody could inspect it.
"""

from __future__ import annotations

from hyper.engine.model import Container


def timeline_headers(started: Container) -> dict[str, str]:
    """``Server-Timing: rung;desc=pool, address;dur=0.1, …, total;dur=35.2``: milliseconds, phases in their order."""
    metrics = [f"rung;desc={started.state.rung}"] if started.state.rung else []
    metrics += [f"{phase};dur={ms:g}" for phase, ms in started.timings_ms.items()]
    return {"Server-Timing": ", ".join(metrics)} if metrics else {}
