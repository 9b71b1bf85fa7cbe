"""Names of images, parsed and normalised exactly as Docker does it.

``busybox`` is ``docker.io/library/busybox:latest``; users are shown the short ("familiar") form. The grammar is that
of github.com/distribution/reference (its regular expressions are documented in the package's comment); error texts are
Docker's, because scripts look for them. Neighbour: ``hyper.images.store`` (resolve, tag, remove).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hyper.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
OFFICIAL_PREFIX = "library/"
DEFAULT_TAG = "latest"
NAME_LENGTH_MAX = 255

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DOMAIN_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[[a-fA-F0-9:]+\])"
_DOMAIN = rf"{_HOST}(?::[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(
    rf"(?:(?P<domain>{_DOMAIN})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?"
)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True)
class Reference:
    """A normalised name: ``domain/path``, and a tag or a digest or both or neither."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(OFFICIAL_PREFIX)
        return short if "/" not in short else self.path

    def __str__(self) -> str:
        return self._with(self.name)

    @property
    def familiar(self) -> str:
        """What users are shown."""
        return self._with(self.familiar_name)

    def with_default_tag(self) -> Reference:
        """``:latest`` added when there is neither tag nor digest."""
        return self if self.tag or self.digest else Reference(self.domain, self.path, DEFAULT_TAG)

    def _with(self, name: str) -> str:
        return name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """The normalised reference. InvalidArgument with Docker's words."""
    if _IDENTIFIER.fullmatch(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    if not text:
        raise InvalidArgument("invalid reference format")
    domain, remainder = _split_domain(text)
    remote = remainder.partition(":")[0]
    if remote.lower() != remote:
        raise InvalidArgument(f"invalid reference format: repository name ({remote}) must be lowercase")
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if match is None or match["domain"] is None:
        raise InvalidArgument("invalid reference format")
    if len(match["path"]) > NAME_LENGTH_MAX:
        raise InvalidArgument(f"repository name must not be more than {NAME_LENGTH_MAX} characters")
    if match["digest"] and match["digest"].startswith("sha256:") and len(match["digest"]) != 71:
        raise InvalidArgument("invalid checksum digest length")
    return Reference(match["domain"], match["path"], match["tag"] or "", match["digest"] or "")


def familiar(canonical: str) -> str:
    """The short form of a canonical name that was recorded."""
    return parse(canonical).familiar


def is_identifier(text: str) -> bool:
    """Whether ``text`` is a full image ID without its algorithm."""
    return _IDENTIFIER.fullmatch(text) is not None


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    # A first part is a registry when it cannot be a user name: it has a dot, a port, capitals, or is localhost.
    if slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        domain, remainder = first, rest
    else:
        domain, remainder = DEFAULT_DOMAIN, text
    if domain == LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = OFFICIAL_PREFIX + remainder
    return domain, remainder
