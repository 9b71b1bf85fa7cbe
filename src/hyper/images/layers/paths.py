"""Names in layers, made safe: cleaned into the image's root as Docker does it, and bounded.

``./a``, ``/a`` and ``a/`` are all ``a``; ``b/../a`` is too; a name that climbs out of the root is an error. Neighbour:
``merge.py``.
"""

from __future__ import annotations

import re

from hyper.errors import InvalidArgument
from hyper.images.limits import ImageLimits
from hyper.images.tar_headers import show

_UNCLEAN = re.compile(rb"(?:^|/)(?:\.{0,2})(?:/|$)")


def clean(name: bytes, limits: ImageLimits) -> bytes:
    """The name below the root, without leading or trailing slash; empty is the root itself. InvalidArgument when it
    escapes.
    """
    if len(name) > limits.path_bytes:
        raise InvalidArgument(
            f"the layer has a name of {len(name)} bytes ({show(name)}…); at most {limits.path_bytes} are allowed"
        )
    if _UNCLEAN.search(name):
        name = _normalise(name)
    if len(name) > limits.name_bytes:
        parts = name.split(b"/")
        if len(parts) > limits.depth:
            raise InvalidArgument(
                f"{show(name)} in the layer lies {len(parts)} directories deep; at most {limits.depth} are allowed"
            )
        for part in parts:
            if len(part) > limits.name_bytes:
                raise InvalidArgument(
                    f"{show(part)} in the layer is longer than {limits.name_bytes} bytes, Linux' limit for a file name"
                )
    elif name.count(b"/") >= limits.depth:
        raise InvalidArgument(
            f"{show(name)} in the layer lies too deep; at most {limits.depth} directories are allowed"
        )
    return name


def _normalise(name: bytes) -> bytes:
    absolute = name.startswith(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part in (b"", b"."):
            continue
        if part != b"..":
            parts.append(part)
        elif parts:
            parts.pop()
        elif not absolute:
            raise InvalidArgument(f"{show(name)} in the layer points outside of the image's root; the image is refused")
    return b"/".join(parts)
