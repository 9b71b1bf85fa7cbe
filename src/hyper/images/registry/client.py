"""The registry client's face: find the endpoint that answers, sign in, search. One for the whole daemon.

Neighbours: ``endpoints.py``, ``tokens.py``, ``repository.py``; used by ``hyper.images.pull`` and ``push``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec

from hyper.errors import DataLoss, HyperError, InvalidArgument, RemoteFailure, Unauthenticated
from hyper.images.registry.endpoints import Endpoint, endpoints
from hyper.images.registry.failures import NoConnection, RegistryFailure
from hyper.images.registry.repository import Repository
from hyper.images.registry.retry import retrying
from hyper.images.registry.settings import RegistrySettings
from hyper.images.registry.tokens import Authenticator
from hyper.images.registry.transport import Answer, Transport, failure, reason
from hyper.oci import reference as references
from hyper.oci.distribution import HUB_DOMAIN, Credentials
from hyper.oci.reference import Reference

T = TypeVar("T")
_SEARCH_BYTES = 4 << 20


class SearchResult(msgspec.Struct, frozen=True):
    """One line of ``docker search``, members named as the index names them."""

    name: str = ""
    description: str = ""
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False


class _SearchAnswer(msgspec.Struct):
    results: list[SearchResult] | None = None


@dataclass(frozen=True)
class SignedIn:
    """``identity_token``: to be kept by the client instead of the password, "" when there is none."""

    identity_token: str
    status: str = "Login Succeeded"


class RegistryClient:
    """All methods are for the event loop's thread. Errors are RegistryFailure and other ``hyper.errors`` kinds."""

    def __init__(self, settings: RegistrySettings) -> None:
        self.settings = settings
        self.transport = Transport(settings)

    async def close(self) -> None:
        await self.transport.close()

    async def reading(self, name: Reference, credentials: Credentials, work: Callable[[Repository], Awaitable[T]]) -> T:
        """``work`` on the repository at the first place that has what is wanted: mirrors, then the registry itself."""
        return await self._somewhere(name, credentials, work, push=False)

    async def writing(self, name: Reference, credentials: Credentials, work: Callable[[Repository], Awaitable[T]]) -> T:
        """The same at the registry itself, with tokens for writing."""
        return await self._somewhere(name, credentials, work, push=True)

    async def _somewhere(
        self, name: Reference, credentials: Credentials, work: Callable[[Repository], Awaitable[T]], *, push: bool
    ) -> T:
        self.transport.forget_certificates()
        last: HyperError | None = None
        spoken = False
        for endpoint in await endpoints(name.domain, self.settings, mirrors=not push):
            if spoken and not endpoint.secure and not endpoint.mirror:
                break  # it does speak TLS: what it said there counts
            known = Credentials() if endpoint.mirror else credentials
            auth = Authenticator(self.transport, endpoint, known)
            try:
                await self._greet(endpoint, auth)
                spoken = spoken or not endpoint.mirror
                return await work(Repository(self.transport, endpoint, auth, name.path, push=push))
            except (RemoteFailure, DataLoss) as error:
                # A mirror may lack, refuse or break what the registry has; the registry's own word is the last.
                if not endpoint.mirror and not isinstance(error, NoConnection):
                    raise
                last = error
        assert last is not None
        raise last

    async def _greet(self, endpoint: Endpoint, auth: Authenticator) -> Answer:
        """Ask for ``/v2/``: whether anybody is there, and how it wants to be asked."""

        async def attempt() -> Answer:
            answer = await self.transport.whole("GET", f"{endpoint.url}/v2/", endpoint, headers={})
            if answer.status >= 400 and answer.status not in (401, 403, 404):
                raise failure(answer)
            return answer

        async def patient() -> Answer:
            return await retrying(self.settings, attempt)

        # Nobody there is mostly for good, and another endpoint may follow: only answers are worth waiting for.
        try:
            answer = await attempt()
        except NoConnection:
            raise
        except RegistryFailure as error:
            if not error.transient:
                raise
            answer = await patient()
        if answer.status == 401:
            auth.learn(answer.challenges)
        return answer

    async def sign_in(self, credentials: Credentials) -> SignedIn:
        """``docker login``. Unauthenticated when a token server does not take the credentials, RegistryFailure when the
        registry itself does not: so dockerd tells them apart."""
        domain = _server_domain(credentials.server_address)
        self.transport.forget_certificates()
        last: HyperError | None = None
        for endpoint in await endpoints(domain, self.settings, mirrors=False):
            auth = Authenticator(self.transport, endpoint, credentials)
            url = f"{endpoint.url}/v2/"
            try:
                await self._greet(endpoint, auth)
                value = await auth.header((), about=f'Get "{url}": ', login=True)
                answer = await self.transport.whole(
                    "GET", url, endpoint, headers={"Authorization": value} if value else {}
                )
            except NoConnection as error:
                last = error
                continue
            except RegistryFailure as error:
                if error.status in (401, 403):
                    raise Unauthenticated(f'Get "{url}": {error.message}') from error
                raise
            if answer.status != 200:
                raise RegistryFailure(
                    f"login attempt to {url} failed with status: {answer.status} {reason(answer.status)}".rstrip(),
                    status=answer.status,
                )
            return SignedIn(auth.identity_token)
        assert last is not None
        raise last

    async def search(self, term: str, limit: int, credentials: Credentials) -> list[SearchResult]:
        """``docker search``: an index's own protocol, which few registries but Docker Hub have."""
        domain, term = _search_domain(term)
        self.transport.forget_certificates()
        last: HyperError | None = None
        for endpoint in await endpoints(domain, self.settings, mirrors=False):
            base = "https://index.docker.io" if domain == HUB_DOMAIN else endpoint.url
            url = f"{base}/v1/search?" + urlencode({"q": term, "n": str(limit)})
            auth = Authenticator(self.transport, endpoint, credentials)
            try:
                answer = await self.transport.whole("GET", url, endpoint, headers={}, most_bytes=_SEARCH_BYTES)
                if answer.status == 401 and credentials:
                    auth.learn(answer.challenges)
                    value = await auth.header((), about=f'Get "{url}": ')
                    answer = await self.transport.whole(
                        "GET", url, endpoint, headers={"Authorization": value}, most_bytes=_SEARCH_BYTES
                    )
            except NoConnection as error:
                last = error
                continue
            if answer.status != 200:
                raise RegistryFailure(f"Unexpected status code {answer.status}", status=answer.status)
            try:
                return msgspec.json.decode(answer.body, type=_SearchAnswer).results or []
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise RegistryFailure(f"error decoding registry search results: {error}") from error
        assert last is not None
        raise last


def _server_domain(address: str) -> str:
    """A client's word for a registry (``https://index.docker.io/v1/``, ``localhost:5000``) as references have it."""
    host = urlsplit(address if "://" in address else f"//{address}").netloc.rpartition("@")[2]
    if not host or host in ("index.docker.io", "docker.io", "registry-1.docker.io"):
        return HUB_DOMAIN
    try:
        return references.parse(f"{host}/x").domain
    except InvalidArgument:
        raise InvalidArgument(f"{address[:200]!r} is no registry's address: it is host[:port]") from None


def _search_domain(term: str) -> tuple[str, str]:
    if "://" in term:
        raise InvalidArgument("invalid repository name: repository name should not contain a scheme")
    first, slash, rest = term.partition("/")
    if not slash or ("." not in first and ":" not in first and first != "localhost"):
        return HUB_DOMAIN, term.removeprefix("library/")
    return _server_domain(first), rest
