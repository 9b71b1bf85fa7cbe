"""Error kinds to HTTP: the one table of this door, and the one place that writes ``{"message": …}``."""

from __future__ import annotations

import logging

import msgspec

from hyper import errors
from hyper.api.http.head import BadRequest
from hyper.api.http.messages import Response

_log = logging.getLogger(__name__)

STATUS: dict[type[errors.HyperError], int] = {
    errors.InvalidArgument: 400,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.AlreadyExists: 409,
    errors.NotModified: 304,
    errors.FailedPrecondition: 400,
    errors.PermissionDenied: 403,
    errors.Unauthenticated: 401,
    errors.ResourceExhausted: 500,
    errors.Unavailable: 503,
    errors.RemoteFailure: 500,  # as dockerd answers for what a registry did
    errors.Unsupported: 501,
    errors.DeadlineExceeded: 500,
    errors.DataLoss: 500,
    errors.Internal: 500,
}


def status_of(error: errors.HyperError) -> int:
    """The status of an error's kind, or of the nearest kind above it."""
    for kind in type(error).__mro__:
        if (status := STATUS.get(kind)) is not None:
            return status
    return 500


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    if status == 304:
        return Response(304)
    return Response(status, msgspec.json.encode({"message": message}) + b"\n", "application/json", headers or {})


def response_for(error: Exception) -> Response:
    """The answer to any error. One that is none of ours is a bug: it is logged with its traceback, and the client is
    told that much."""
    if isinstance(error, errors.HyperError):
        status = status_of(error)
        if status >= 500 and status != 501:
            _log.error("request failed: %s: %s", type(error).__name__, error.message)
        return error_response(status, error.message)
    if isinstance(error, BadRequest):
        return error_response(error.status, error.message)
    _log.error("a request failed because of a bug", exc_info=error)
    return error_response(500, f"internal error: {type(error).__name__}: {error}; the daemon's log has the details")
