"""Platforms of images, ``os/architecture[/variant]``: reading, writing, and which of an index's entries is the best.

Names are Go's (amd64, arm64), aliases those that containerd's platform package takes. Neighbour: ``descriptor.py``.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable

from hyper.errors import InvalidArgument
from hyper.oci.descriptor import Descriptor, Platform

_PART = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ALIASES = {"x86_64": ("amd64", ""), "x86-64": ("amd64", ""), "aarch64": ("arm64", ""), "armhf": ("arm", "v7")}
_ALIASES |= {"armel": ("arm", "v6"), "i386": ("386", "")}
_IMPLIED = {("arm64", "v8"): "", ("amd64", "v1"): "", ("arm", ""): "v7"}


def host() -> Platform:
    """This machine's."""
    return normalised(Platform(platform.machine(), "linux"))


def parse(text: str) -> Platform:
    """InvalidArgument when it is none; a lone word is an operating system or an architecture."""
    parts = text.strip().split("/")
    if len(parts) > 3:
        raise InvalidArgument(f'"{text[:100]}": cannot parse platform specifier: invalid argument')
    if not all(_PART.fullmatch(part) for part in parts):
        raise InvalidArgument(
            f'"{text[:100]}" is an invalid platform: it is os/architecture[/variant], such as linux/amd64'
        )
    if len(parts) == 1:
        if parts[0].lower() == "linux":
            return host()
        return normalised(Platform(parts[0], "linux"))
    return normalised(Platform(parts[1], parts[0], parts[2] if len(parts) == 3 else ""))


def normalised(wanted: Platform) -> Platform:
    architecture, variant = wanted.architecture.lower(), wanted.variant.lower()
    architecture, implied = _ALIASES.get(architecture, (architecture, ""))
    variant = variant or implied
    if variant.isdigit():
        variant = f"v{variant}"
    return Platform(architecture, wanted.os.lower() or "linux", _IMPLIED.get((architecture, variant), variant))


def text(wanted: Platform) -> str:
    return "/".join(part for part in (wanted.os, wanted.architecture, wanted.variant) if part)


def fits(offered: Platform, wanted: Platform) -> bool:
    """Whether what is made for ``offered`` runs on ``wanted``; an older variant runs on a newer processor."""
    offered = normalised(offered)
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return False
    return offered.variant == wanted.variant or offered.variant in _older(wanted)


def best(entries: Iterable[Descriptor], wanted: Platform) -> list[Descriptor]:
    """Those of an index's entries that fit, the best first; entries without a platform come last."""
    order = [wanted.variant, *_older(wanted)]

    def rank(entry: Descriptor) -> int:
        assert entry.platform is not None
        return order.index(normalised(entry.platform).variant)

    named = [entry for entry in entries if entry.platform is not None and fits(entry.platform, wanted)]
    return [*sorted(named, key=rank), *(entry for entry in entries if entry.platform is None)]


def _older(wanted: Platform) -> list[str]:
    number = wanted.variant[1:]
    if wanted.architecture in ("arm", "amd64") and number.isdigit() and int(number) < 100:
        least = 5 if wanted.architecture == "arm" else 1
        older = [f"v{one}" for one in range(int(number) - 1, least - 1, -1)]
        return [*("" if (wanted.architecture, one) == ("amd64", "v1") else one for one in older)]
    return []
