"""Image manifests, indexes, and the ``manifest.json`` of ``docker save`` archives, as data.

Sources: OCI image-spec manifest.md and image-index.md; moby's image/spec (docker save). Neighbour: ``descriptor.py``.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from hyper.errors import InvalidArgument
from hyper.oci.descriptor import Descriptor

T = TypeVar("T")


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """One image for one platform: its configuration and its layers, lowest first."""

    config: Descriptor
    layers: list[Descriptor]
    media_type: str = ""
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, frozen=True, rename="camel"):
    """A list of manifests (or of further indexes)."""

    manifests: list[Descriptor]
    media_type: str = ""
    annotations: dict[str, str] | None = None


class DockerArchiveItem(msgspec.Struct, frozen=True, rename="pascal"):
    """One image in a ``docker save`` archive; ``config`` and ``layers`` are paths inside the archive."""

    config: str
    layers: list[str] | None = None
    repo_tags: list[str] | None = None


def decode(data: bytes, kind: type[T], what: str) -> T:
    """``data`` as ``kind``; InvalidArgument names ``what`` when it is not valid JSON of that shape."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{what} is not valid: {error}") from error
