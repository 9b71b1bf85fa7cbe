"""Why a process could not be started, in the words that the docker CLI looks for.

The CLI exits with 127 when the message has "executable file not found" or "no such file or directory" in it, with 126
for "permission
denied" and "is a directory", else with 125. dockerd's own status for these is 400.
"""

from __future__ import annotations

from hyper.errors import HyperError, InvalidArgument, NotFound, PermissionDenied

_TASK = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    "runc create failed: unable to start container process: "
)
_EXEC = "OCI runtime exec failed: exec failed: unable to start container process: "

_NOT_FOUND = ("executable file not found", "no such file or directory")
_REFUSED = ("permission denied", "is a directory")


def launch_error(error: HyperError, program: str) -> InvalidArgument | None:
    """The error of ``start`` when the program itself was the reason, else None."""
    text = _reason(error, program)
    return None if text is None else InvalidArgument(f"{_TASK}{text}: unknown")


def exec_failure_text(error: HyperError, program: str) -> str | None:
    """What an attached exec's output shows instead, when the program was the reason, else None."""
    text = _reason(error, program)
    return None if text is None else f"{_EXEC}{text}: unknown"


def _reason(error: HyperError, program: str) -> str | None:
    if isinstance(error, NotFound):
        if any(words in error.message for words in _NOT_FOUND):
            return error.message
        missing = "no such file or directory" if "/" in program else "executable file not found in $PATH"
        return f'exec: "{program}": {missing}' + _detail(error, program)
    if isinstance(error, PermissionDenied):
        if any(words in error.message for words in _REFUSED):
            return error.message
        return f'exec: "{program}": permission denied' + _detail(error, program)
    if isinstance(error, InvalidArgument):
        return error.message
    return None


def _detail(error: HyperError, program: str) -> str:
    return f" ({error.message})" if error.message and error.message != program else ""
