"""The exit code that Docker records when a process could not be started (chroot(1)'s convention)."""

from __future__ import annotations

from hyper.errors import HyperError, NotFound, PermissionDenied


def start_failure_code(error: HyperError) -> int:
    if isinstance(error, NotFound):
        return 127
    if isinstance(error, PermissionDenied):
        return 126
    return 128
