"""Where the guest agent is: the configured one, the installed package's, or the one that cargo built in this source
tree."""

from __future__ import annotations

import platform
from pathlib import Path

import hyper

_PACKAGE = Path(hyper.__file__).parent


def find_agent(configured: Path | None) -> Path:
    """The first that there is. When there is none, the place where ``make agent`` would put it: whoever reads it
    says so."""
    if configured is not None:
        return configured
    triple = f"{platform.machine()}-unknown-linux-gnu"
    built = _PACKAGE.parents[1] / "agent" / "target" / triple / "release" / "hyper-agent"
    installed = _PACKAGE / "guest" / "bin" / "hyper-agent"
    return next((path for path in (installed, built) if path.exists()), built)
