"""API versions: which are spoken, and how a request says which it means."""

from __future__ import annotations

import re

from hyper.errors import InvalidArgument

Version = tuple[int, int]

NEWEST: Version = (1, 50)
OLDEST: Version = (1, 24)

_PREFIX = re.compile(r"/v(\d{1,4})\.(\d{1,4})(?=/)", re.ASCII)


def text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def split_version(path: str) -> tuple[Version, str]:
    """The version that ``path`` begins with (the newest without one), and the rest. InvalidArgument, in Docker's
    words, when not spoken."""
    match = _PREFIX.match(path)
    if match is None:
        return NEWEST, path
    version = (int(match[1]), int(match[2]))
    if version < OLDEST:
        raise InvalidArgument(
            f"client version {text(version)} is too old. Minimum supported API version is {text(OLDEST)}, "
            "please upgrade your client to a newer version"
        )
    if version > NEWEST:
        raise InvalidArgument(
            f"client version {text(version)} is too new. Maximum supported API version is {text(NEWEST)}"
        )
    return version, path[match.end() :]
