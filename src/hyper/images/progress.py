"""What pulls and pushes tell while they work, in the docker CLI's words. Pure data.

Neighbours: ``pull.py``, ``push.py``; ``hyper.api.docker.transfer_json`` (puts it on the wire).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pushed:
    """The end of a push, for programs."""

    tag: str
    digest: str
    size_bytes: int


@dataclass(frozen=True)
class Progress:
    """One line. ``id``: a layer's short digest or a tag, or ""; with ``total`` it is a bar. ``layer``: about a layer,
    where Docker gives an empty bar when there is none. Unfinished bars may be left out when the client is slow."""

    status: str = ""
    id: str = ""
    current: int = 0
    total: int = 0
    layer: bool = False
    pushed: Pushed | None = None


Tell = Callable[[Progress], None]
