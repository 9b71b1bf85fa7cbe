"""What goes with pulls and pushes: the client's credentials, the name that it means, and progress lines as JSON.

Pure functions. Sources: the API description (``X-Registry-Auth``), and what dockerd sends for its client to draw.
Neighbour: ``routes/registries.py``.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from hyper.engine.api import TransferProgress
from hyper.errors import InvalidArgument
from hyper.oci import reference as references
from hyper.oci.distribution import Credentials
from hyper.oci.reference import Reference

_HEADER_BYTES = 64 << 10
_BAR_COLUMNS = 50
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


class AuthBody(msgspec.Struct, rename="lower"):
    """``AuthConfig`` of the API; ``auth`` is the pair in base64, from old clients."""

    username: str | None = None
    password: str | None = None
    auth: str | None = None
    email: str | None = None
    serveraddress: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None

    def credentials(self) -> Credentials:
        username, password = self.username or "", self.password or ""
        if self.auth and not username and not password:
            try:
                pair = base64.b64decode(self.auth, validate=True).decode()
            except (binascii.Error, ValueError) as error:
                raise InvalidArgument("invalid auth: it is no user:password in base64") from error
            username, _, password = pair.partition(":")
            password = password.rstrip("\0")
        return Credentials(
            username, password, self.identitytoken or "", self.registrytoken or "", self.serveraddress or ""
        )


def credentials(header: str) -> Credentials:
    """Of an ``X-Registry-Auth`` header, which may be missing (""). InvalidArgument when it cannot be read."""
    text = header.strip().rstrip("=")
    if not text:
        return Credentials()
    try:
        if len(text) > _HEADER_BYTES:
            raise ValueError("too long")
        data = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
        body = msgspec.json.decode(data, type=AuthBody | None) if data.strip() else None
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise InvalidArgument(f"invalid X-Registry-Auth header: {error}") from error
    return body.credentials() if body is not None else Credentials()


def name_of(image: str, tag: str) -> Reference:
    """``fromImage`` and ``tag`` as Docker joins them; ``tag`` may be a digest. Neither in any: the whole repository."""
    parsed = references.parse(image)
    if not tag:
        return parsed
    return references.parse(f"{parsed.name}@{tag}" if tag.startswith("sha256:") else f"{parsed.name}:{tag}")


def progress_json(item: TransferProgress) -> dict[str, Any]:
    """One line. Bars come as numbers for clients that draw, and drawn for those that print."""
    if (end := item.pushed) is not None:
        return {"progressDetail": {}, "aux": {"Tag": end.tag, "Digest": end.digest, "Size": end.size_bytes}}
    result: dict[str, Any] = {"status": item.status}
    if item.total:
        result["progressDetail"] = {"current": item.current, "total": item.total}
        result["progress"] = bar(item.current, item.total)
    elif item.layer:
        result["progressDetail"] = {}
    if item.id:
        result["id"] = item.id
    return result


def bar(current: int, total: int) -> str:
    """``[=====>     ]  1.2MB/5.9MB``."""
    full = min(int(current / total * 100) // 2, _BAR_COLUMNS) if total else 0
    numbers = f"{size(current):>8}/{size(total)}" if current <= total else f"{size(current):>8}"
    return f"[{'=' * full}>{' ' * (_BAR_COLUMNS - full)}] {numbers}"


def size(count: int) -> str:
    """Four digits and a decimal unit, as Go's units package writes them."""
    number, unit = float(count), 0
    while number >= 1000 and unit < len(_UNITS) - 1:
        number /= 1000
        unit += 1
    return f"{number:.4g}{_UNITS[unit]}"
