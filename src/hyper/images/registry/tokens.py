"""Authentication at one endpoint: basic, or bearer tokens for the scopes that are needed (Docker's token protocol).

A registry says how it wants to be asked in its first 401; tokens are then fetched ahead of requests and kept until they
expire. Passwords go to a token server only over TLS, unless the registry itself is not secure. Neighbours:
``transport.py``, ``repository.py``.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

import msgspec

from hyper.images.registry.endpoints import Endpoint
from hyper.images.registry.failures import RegistryFailure
from hyper.images.registry.transport import Answer, Transport, failure
from hyper.oci.distribution import Challenge, Credentials

_CLIENT_ID = "docker"
_TOKEN_BYTES = 1 << 20
_LEAST_S = 60
_MARGIN_S = 5.0


class _TokenAnswer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    refresh_token: str = ""
    expires_in: float | None = None


@dataclass(frozen=True)
class _Token:
    value: str
    ends_s: float


class Authenticator:
    """Knows how to make an endpoint let us in, as one user."""

    def __init__(self, transport: Transport, endpoint: Endpoint, credentials: Credentials) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._credentials = credentials
        self._challenges: list[Challenge] = []
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self.identity_token = ""
        """What a token server gave for the password, to be used instead of it from now on (``docker login``)."""

    def learn(self, offered: Sequence[Challenge]) -> None:
        """How the endpoint wants to be asked; an answer of 401 says so."""
        known = [one for one in offered if one.scheme in ("basic", "bearer")]
        if known:
            self._challenges = known

    async def header(self, scopes: tuple[str, ...], *, about: str, login: bool = False) -> str:
        """The ``Authorization`` header for ``scopes``, "" when the endpoint wants none. ``about`` begins errors."""
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        for challenge in sorted(self._challenges, key=lambda one: one.scheme != "bearer"):
            if challenge.scheme == "bearer":
                return f"Bearer {await self._token(challenge, scopes, login=login)}"
            basic = self._basic()
            if not basic:
                raise RegistryFailure(f"{about}no basic auth credentials", code="UNAUTHORIZED", status=401)
            return basic
        return ""

    def forget(self) -> None:
        """The endpoint does not take our tokens any more."""
        self._tokens.clear()

    @property
    def asks(self) -> bool:
        return bool(self._challenges)

    @property
    def renews(self) -> bool:
        """Whether asking again may give another answer: passwords do not change."""
        return any(one.scheme == "bearer" for one in self._challenges) and not self._credentials.registry_token

    def _basic(self) -> str:
        known = self._credentials
        if not known.username and not known.password:
            return ""
        return "Basic " + base64.b64encode(f"{known.username}:{known.password}".encode()).decode()

    async def _token(self, challenge: Challenge, scopes: tuple[str, ...], *, login: bool) -> str:
        now_s = time.monotonic()
        kept = self._tokens.get(scopes)
        if kept is not None and kept.ends_s > now_s:
            return kept.value
        answer = await self._ask(challenge, scopes, login=login)
        try:
            found = msgspec.json.decode(answer.body, type=_TokenAnswer)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise RegistryFailure(f"unable to decode token response: {error}") from error
        value = found.token or found.access_token
        if not value or any(not 0x20 < ord(character) < 0x7F for character in value):
            raise RegistryFailure("authorization server did not include a token in the response")
        self.identity_token = found.refresh_token or self.identity_token
        lasts_s = max(found.expires_in or _LEAST_S, _LEAST_S)
        self._tokens[scopes] = _Token(value, now_s + lasts_s - _MARGIN_S)
        return value

    async def _ask(self, challenge: Challenge, scopes: tuple[str, ...], *, login: bool) -> Answer:
        realm = challenge.parameters.get("realm", "")
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise RegistryFailure(f"invalid token auth challenge realm: {realm[:200]!r}")
        service = challenge.parameters.get("service", "")
        headers: dict[str, str] = {}
        known = self._credentials
        if known and parts.scheme == "http" and self._endpoint.secure and self._endpoint.verify:
            raise RegistryFailure(
                f"{self._endpoint.host} wants its password sent to {realm[:200]} without TLS, which is refused; "
                "--insecure-registry allows it for this registry"
            )
        if known.identity_token:
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": _CLIENT_ID,
                "scope": " ".join(scopes),
                "refresh_token": known.identity_token,
            }
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            answer = await self._transport.whole(
                "POST", realm, self._endpoint, headers=headers, body=urlencode(form).encode(), most_bytes=_TOKEN_BYTES
            )
        else:
            query = [("service", service)] if service else []
            query += [("scope", scope) for scope in scopes]
            if login:
                query += [("offline_token", "true"), ("client_id", _CLIENT_ID)]
            if basic := self._basic():
                query.append(("account", known.username))
                headers["Authorization"] = basic
            url = realm + ("&" if parts.query else "?") + urlencode(query) if query else realm
            answer = await self._transport.whole("GET", url, self._endpoint, headers=headers, most_bytes=_TOKEN_BYTES)
        if answer.status >= 400:
            raise failure(answer)
        return answer
