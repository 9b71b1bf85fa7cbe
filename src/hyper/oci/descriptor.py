"""OCI content descriptors and the media types that Hyper understands (image-spec descriptor.md, media-types.md).

Neighbours: ``manifest.py`` (made of descriptors), ``digest.py``.
"""

from __future__ import annotations

import msgspec

MANIFEST_TYPES = frozenset(
    {"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}
)
INDEX_TYPES = frozenset(
    {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
)


class Platform(msgspec.Struct, frozen=True):
    """What a manifest is for. ``unknown/unknown`` marks BuildKit's attestations."""

    architecture: str = ""
    os: str = ""
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """A pointer to content: its type, digest and size in bytes."""

    digest: str
    size: int
    media_type: str = ""
    annotations: dict[str, str] | None = None
    platform: Platform | None = None

    def annotation(self, name: str) -> str:
        return (self.annotations or {}).get(name, "")
