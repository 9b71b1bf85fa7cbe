"""The configuration of an image: what its ID is the digest of (OCI image-spec config.md, plus Docker's own members).

Members that Hyper does not know are kept in ``raw``, which is the blob itself: it is never written anew from the
parsed form, because then the image's ID would change. Neighbours: ``manifest.py``, ``hyper.images.changes``.
"""

from __future__ import annotations

import calendar
import re
import time
from typing import Any

import msgspec

from hyper.errors import InvalidArgument
from hyper.oci import digest

_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


class Healthcheck(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """Times are in nanoseconds."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """How a container of the image runs when the user does not say otherwise."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    exposed_ports: dict[str, Any] | None = None
    env: list[str] | None = None
    cmd: list[str] | str | None = None
    entrypoint: list[str] | str | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    on_build: list[str] | None = None
    shell: list[str] | str | None = None

    @property
    def cmd_words(self) -> list[str] | None:
        return _words(self.cmd)

    @property
    def entrypoint_words(self) -> list[str] | None:
        return _words(self.entrypoint)


class RootFs(msgspec.Struct, frozen=True):
    """``diff_ids``: digests of the uncompressed layers, lowest first."""

    type: str = "layers"
    diff_ids: list[str] | None = None


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of ``docker history``; ``empty_layer`` ones have no layer of their own."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image's configuration. ``id`` is the digest of ``raw``."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    created: str | None = None
    author: str = ""
    comment: str = ""
    config: ContainerConfig | None = None
    rootfs: RootFs = RootFs()
    history: list[History] | None = None
    docker_version: str = ""
    container: str = ""
    parent: str = ""
    raw: bytes = msgspec.field(default=b"", name="(the document itself)")

    @property
    def id(self) -> str:
        return digest.of(self.raw)

    @property
    def diff_ids(self) -> tuple[str, ...]:
        return tuple(self.rootfs.diff_ids or ())

    @property
    def container_config(self) -> ContainerConfig:
        return self.config or ContainerConfig()

    @property
    def created_ns(self) -> int:
        return parse_time_ns(self.created) if self.created else 0


def decode(raw: bytes) -> ImageConfig:
    """The configuration in ``raw``; InvalidArgument when it is no image configuration for Linux."""
    try:
        config = msgspec.json.decode(raw, type=ImageConfig)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the image's configuration is not valid: {error}") from error
    config = msgspec.structs.replace(config, raw=raw)
    if config.os not in ("", "linux"):
        raise InvalidArgument(f"cannot load {config.os} image on linux: Hyper's sandboxes boot a Linux kernel")
    if config.rootfs.type != "layers":
        raise InvalidArgument(f"the image's rootfs has type {config.rootfs.type!r}; only 'layers' is known")
    for diff_id in config.diff_ids:
        digest.parse(diff_id)
    if config.created:
        parse_time_ns(config.created)
    return config


def encode(config: ImageConfig) -> ImageConfig:
    """The same with ``raw`` made from its members: for images that Hyper itself makes. Deterministic."""
    raw = msgspec.json.encode(msgspec.structs.replace(config, raw=b""))
    # omit_defaults drops an all-default rootfs, but readers expect the member: diff_ids is what an image is.
    return msgspec.structs.replace(config, raw=raw)


def parse_time_ns(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time; InvalidArgument when it is none."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"{text[:100]!r} is not a time in RFC 3339 form, such as 2024-01-31T12:00:00Z")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
        raise InvalidArgument(f"{text!r} is not a time: a member is out of range")
    seconds = calendar.timegm((max(year, 1), month, day, hour, minute, second))
    zone = match[8]
    if zone != "Z":
        shift_s = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        seconds -= shift_s if zone[0] == "+" else -shift_s
    return seconds * 1_000_000_000 + int((match[7] or "0").ljust(9, "0"))


def format_time_ns(time_ns: int) -> str:
    """RFC 3339 in UTC with nine decimals, as Docker writes it."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"


def _words(value: list[str] | str | None) -> list[str] | None:
    # Configurations from before Docker 1.6 hold a single string.
    return [value] if isinstance(value, str) else value
