"""Content digests: ``algorithm:hex`` as the OCI image specification writes them (descriptor.md, "Digests").

Only SHA-256 is accepted for content that Hyper stores: it is what every registry and builder writes. Neighbours:
``descriptor.py`` (uses digests), ``hyper.images.content`` (names blobs by them).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from hyper.errors import InvalidArgument

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


def parse(text: str) -> str:
    """``text`` itself when it is a SHA-256 digest in canonical form, else InvalidArgument."""
    if _SHA256.fullmatch(text) is None:
        raise InvalidArgument(f"{text[:100]!r} is not a digest; Hyper knows sha256:<64 lower-case hex digits>")
    return text


def is_digest(text: str) -> bool:
    return _SHA256.fullmatch(text) is not None


def of(data: bytes) -> str:
    """The digest of ``data``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def hex_of(digest: str) -> str:
    """The 64 hex digits."""
    return digest.removeprefix("sha256:")


def chain_id(diff_ids: Iterable[str]) -> str:
    """The chain ID of layers given lowest first (OCI image-spec config.md, "Layer ChainID"); "" without layers."""
    chain = ""
    for diff_id in diff_ids:
        chain = diff_id if not chain else of(f"{chain} {diff_id}".encode())
    return chain
