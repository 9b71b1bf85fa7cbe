"""``update``: new limits for containers, at once for those that run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hyper.cli.create_flags import LIMIT_FLAGS, limits, restart_policy
from hyper.cli.flags import UsageError, parse, value
from hyper.cli.run import for_each
from hyper.client.engine import path_part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hyper.cli.flags import Flag, Parsed
    from hyper.cli.main import Session

FLAGS: tuple[Flag, ...] = (
    *LIMIT_FLAGS,
    # The engine refuses these, and says why.
    value("--blkio-weight", "Block IO (relative weight)", metavar="int"),
    value("--cpu-rt-period", "Period of the CPU's real-time scheduling in microseconds", metavar="int"),
    value("--cpu-rt-runtime", "Runtime of the CPU's real-time scheduling in microseconds", metavar="int"),
    value("--cpuset-mems", "Memory nodes that may be used"),
    value("--restart", "Restart policy (no, on-failure[:count], always, unless-stopped)"),
)


def update(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "update",
        arguments,
        FLAGS,
        usage="[FLAGS] CONTAINER [CONTAINER...]",
        summary="Change limits of one or more containers. A VM that is too small for them is made bigger.",
        at_least=1,
    )
    body = update_body(parsed)
    engine = session.engine

    def change(name: str) -> None:
        answer = engine.object("POST", f"/containers/{path_part(name)}/update", body=body)
        for warning in answer.get("Warnings") or ():
            print(f"hyper: warning: {warning}", file=sys.stderr)

    return for_each(parsed.arguments, change)


def update_body(parsed: Parsed) -> dict[str, Any]:
    """The body of ``POST /containers/{id}/update``."""
    body: dict[str, Any] = {
        **limits(parsed),
        "BlkioWeight": parsed.integer("blkio-weight"),
        "CpuRealtimePeriod": parsed.integer("cpu-rt-period"),
        "CpuRealtimeRuntime": parsed.integer("cpu-rt-runtime"),
        "CpusetMems": parsed.value("cpuset-mems") or None,
        "RestartPolicy": restart_policy(parsed.value("restart")) if parsed.value("restart") else None,
    }
    if not any(parsed.given(flag.key) for flag in FLAGS):
        raise UsageError("update wants at least one flag that says what to change")
    return {name: setting for name, setting in body.items() if setting is not None}
