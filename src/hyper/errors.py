"""The whole error taxonomy; imports nothing.

Every failure that a user can meet is a :class:`HyperError` of one of the kinds below. Each *door* (the Docker API,
later CRI's gRPC) maps kinds to its own codes in one table. The message says what was asked, what is wrong and what
to do about it; it is shown to users as it is.

HyperError
├── InvalidArgument      the request itself is malformed or contradicts itself
├── NotFound             a named object does not exist
├── Conflict             the object's state or name does not allow this now
│   └── AlreadyExists    the name is taken
├── NotModified          the object already is in the state asked for
├── FailedPrecondition   something else must be done first
├── PermissionDenied     not allowed
├── Unauthenticated      credentials are missing or wrong
├── ResourceExhausted    disk, memory, addresses or a limit ran out
├── Unavailable          a part we depend on (VMM, agent) does not answer
│   └── RemoteFailure    a server elsewhere (a registry) cannot be reached, refuses, or answers wrongly
├── Unsupported          not there (yet), or cannot work in a VM; the message says which
├── DeadlineExceeded     it took longer than allowed
├── DataLoss             stored data is damaged (checksum, truncated file)
└── Internal             a bug of ours
"""

from __future__ import annotations


class HyperError(Exception):
    """Base of all errors shown to users. ``message`` is complete on its own."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgument(HyperError):
    """The request itself is malformed or contradicts itself."""


class NotFound(HyperError):
    """A named object does not exist."""


class Conflict(HyperError):
    """The object's state or name does not allow this now."""


class AlreadyExists(Conflict):
    """The name is taken."""


class NotModified(HyperError):
    """The object already is in the state asked for."""


class FailedPrecondition(HyperError):
    """Something else must be done first."""


class PermissionDenied(HyperError):
    """Not allowed."""


class Unauthenticated(HyperError):
    """Credentials are missing or wrong."""


class ResourceExhausted(HyperError):
    """Disk, memory, addresses or a configured limit ran out."""


class Unavailable(HyperError):
    """A part we depend on (VMM, agent) does not answer."""


class RemoteFailure(Unavailable):
    """A server elsewhere (a registry) cannot be reached, refuses, or answers wrongly."""


class Unsupported(HyperError):
    """Not there (yet), or cannot work in a VM; the message says which."""


class DeadlineExceeded(HyperError):
    """It took longer than allowed."""


class DataLoss(HyperError):
    """Stored data is damaged."""


class Internal(HyperError):
    """A bug of ours."""


KINDS: dict[str, type[HyperError]] = {
    cls.__name__: cls
    for cls in (
        InvalidArgument,
        NotFound,
        Conflict,
        AlreadyExists,
        NotModified,
        FailedPrecondition,
        PermissionDenied,
        Unauthenticated,
        ResourceExhausted,
        Unavailable,
        RemoteFailure,
        Unsupported,
        DeadlineExceeded,
        DataLoss,
        Internal,
    )
}


def from_kind(kind: str, message: str) -> HyperError:
    """The error of that kind; kinds we do not know (from a newer peer) become :class:`Internal`."""
    return KINDS.get(kind, Internal)(message)
