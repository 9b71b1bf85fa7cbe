"""Words of the registry protocol as data: credentials, challenges, and the errors that registries answer with.

Sources: OCI distribution-spec 1.1 ("Error Codes"), RFC 7235 (challenges), Docker's token specification. The texts of
errors are those that the docker client has always shown, because scripts look for them. Pure: what is sent and received
is in ``hyper.images.registry``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import msgspec

HUB_DOMAIN = "docker.io"
HUB_HOST = "registry-1.docker.io"
HUB_SERVER = "https://index.docker.io/v1/"
"""What clients call Docker Hub in their lists of credentials."""

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
SCHEMA_1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
CONFIG_TYPES = frozenset({DOCKER_CONFIG, OCI_CONFIG, "application/octet-stream", "text/html", "application/json", ""})
"""Old registries gave configurations types of their own; what is no image says so with a type that is none of these."""
LAYER_TYPES = frozenset(
    {
        DOCKER_LAYER,
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        OCI_LAYER,
        f"{OCI_LAYER}+gzip",
        f"{OCI_LAYER}+zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/octet-stream",
        "",
    }
)

_MESSAGES = {
    "UNAUTHORIZED": "authentication required",
    "DENIED": "requested access to the resource is denied",
    "MANIFEST_UNKNOWN": "manifest unknown",
    "NAME_UNKNOWN": "repository name not known to registry",
    "BLOB_UNKNOWN": "blob unknown to registry",
    "TOOMANYREQUESTS": "too many requests",
    "UNSUPPORTED": "The operation is unsupported.",
    "UNAVAILABLE": "service unavailable",
}
_CHALLENGE = re.compile(r'\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(,|$)')
_SHOWN_BYTES = 1000


@dataclass(frozen=True)
class Credentials:
    """What the client gave us for one registry. Secrets do not show in the representation."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    server_address: str = ""

    def __bool__(self) -> bool:
        return bool(self.username or self.password or self.identity_token or self.registry_token)


@dataclass(frozen=True)
class Challenge:
    """One way to authenticate that a server offers; ``scheme`` in lower case."""

    scheme: str
    parameters: dict[str, str]


def challenges(headers: list[str]) -> list[Challenge]:
    """The challenges of ``WWW-Authenticate`` headers, one in each; what cannot be read is left out."""
    found = []
    for header in headers[:16]:
        scheme, _, rest = header.strip().partition(" ")
        parameters = {}
        position = 0
        while match := _CHALLENGE.match(rest, position):
            quoted = match[2]
            parameters[match[1].lower()] = match[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            position = match.end()
        found.append(Challenge(scheme.lower(), parameters))
    return found


class _One(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct):
    errors: list[_One] | None = None
    details: str = ""


@dataclass(frozen=True)
class Refusal:
    """What a registry's error answer says: ``code`` of the (first) error, "" for an answer that is no such list."""

    code: str
    text: str


def refusal(status: int, reason: str, body: bytes, offered: list[Challenge]) -> Refusal:
    """An answer of 400 or more in the docker client's words."""
    if status >= 500:
        found = _listed(body)
        return found or Refusal("", f"received unexpected HTTP status: {status} {reason}".rstrip())
    for challenge in offered:
        code = {"invalid_token": "UNAUTHORIZED", "insufficient_scope": "DENIED"}.get(
            challenge.parameters.get("error", "")
        )
        if challenge.scheme == "bearer" and code:
            return Refusal(code, _text(code, challenge.parameters.get("error_description", "")))
    found = _listed(body)
    if found is not None:
        return found
    try:
        details = msgspec.json.decode(body, type=_Errors).details
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        details = ""
    code = {401: "UNAUTHORIZED", 429: "TOOMANYREQUESTS", 403: "DENIED"}.get(status, "")
    if code:
        return Refusal(code, _text(code, details))
    if details:
        return Refusal("UNKNOWN", _text("UNKNOWN", details))
    shown = body[:_SHOWN_BYTES].decode("utf-8", "replace").strip()
    return Refusal("", f"error parsing HTTP {status} response body: {shown!r}" if shown else f"{status} {reason}")


def _listed(body: bytes) -> Refusal | None:
    try:
        errors = msgspec.json.decode(body, type=_Errors).errors
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if not errors:
        return None
    texts = [_text(one.code, one.message)[:_SHOWN_BYTES] for one in errors[:10]]
    return Refusal(errors[0].code, texts[0] if len(texts) == 1 else "errors:\n" + "".join(f"{one}\n" for one in texts))


def _text(code: str, message: str) -> str:
    """``manifest unknown: manifest unknown``: the code in words, then the message."""
    return f"{(code or 'UNKNOWN').lower().replace('_', ' ')}: {message or _MESSAGES.get(code, 'unknown error')}"
