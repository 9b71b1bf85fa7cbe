"""HTTP to registries: one session for the whole daemon, redirects followed by our own rules, bounded answers.

aiohttp is imported when the first registry is asked for (it costs 150 ms). A redirect never carries credentials to
another origin, and never leads from TLS to plain HTTP: registries send blobs' readers to storage elsewhere, and what
comes from there is verified by its digest. Neighbours: ``certificates.py``, ``proxies.py``, ``failures.py``.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyper import __version__
from hyper.images.registry import certificates
from hyper.images.registry.endpoints import Endpoint
from hyper.images.registry.failures import RegistryFailure, translated
from hyper.images.registry.proxies import Proxies
from hyper.images.registry.settings import RegistrySettings
from hyper.oci import distribution
from hyper.system import blocking

if TYPE_CHECKING:
    import aiohttp

_REDIRECTS_MAX = 5
_ERROR_BYTES = 64 << 10
_READ_BYTES = 1 << 20
_RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_USER_AGENT = f"docker/28.0 hyper/{__version__}"
"""Some registries give old answers to clients that do not call themselves docker."""


@dataclass(frozen=True)
class Answer:
    """A response that was read whole; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    challenges: list[distribution.Challenge]
    url: str


class Transport:
    """Requests to any endpoint. To be closed."""

    def __init__(self, settings: RegistrySettings) -> None:
        self.settings = settings
        self.proxies = Proxies(settings.environment)
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[tuple[str, bool, bool], ssl.SSLContext] = {}

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def forget_certificates(self) -> None:
        """Read certs.d anew for what comes next: administrators add certificates while the daemon runs."""
        self._contexts.clear()

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: str,
        endpoint: Endpoint,
        *,
        headers: Mapping[str, str],
        body: bytes | AsyncIterable[bytes] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response of whoever answers in the end, its body unread. An answer of 400 or more is one too.

        RegistryFailure when there is none. A body that is a stream is not sent again after a redirect.
        """
        from yarl import URL

        target, sent = URL(url, encoded=True), dict(headers)
        for _ in range(_REDIRECTS_MAX + 1):
            response = await self._send(method, target, endpoint, sent, body)
            try:
                location = response.headers.get("Location", "")
                if response.status not in (301, 302, 303, 307, 308) or not location or method not in ("GET", "HEAD"):
                    yield response
                    return
            finally:
                if not response.content.is_eof():
                    response.close()  # the rest is not wanted; releasing would wait for it
                else:
                    response.release()
            origin, target = target, target.join(URL(location, encoded=True))
            _check_redirect(origin, target, endpoint)
            if origin.origin() != target.origin():
                sent.pop("Authorization", None)
        raise RegistryFailure(f'{method.capitalize()} "{url}": stopped after {_REDIRECTS_MAX} redirects')

    async def whole(
        self,
        method: str,
        url: str,
        endpoint: Endpoint,
        *,
        headers: Mapping[str, str],
        body: bytes | AsyncIterable[bytes] | None = None,
        most_bytes: int = 4 << 20,
    ) -> Answer:
        """The same with the body read. RegistryFailure when it is longer than ``most_bytes``; of an error's body only
        the beginning is read."""
        async with self.open(method, url, endpoint, headers=headers, body=body) as response:
            with translated(method, url):
                answer = await self.answer_of(response, most_bytes)
        if len(answer.body) > most_bytes and answer.status < 400:
            raise RegistryFailure(f'{method.capitalize()} "{url}": the answer is longer than {most_bytes} bytes')
        return answer

    async def answer_of(self, response: aiohttp.ClientResponse, most_bytes: int = 0) -> Answer:
        """The response with at least so much of its body; of an error's body only the beginning."""
        limit = _ERROR_BYTES if response.status >= 400 else most_bytes
        parts, size = [], 0
        async for part in response.content.iter_any():
            size += len(part)
            parts.append(part)
            if size > limit:
                break
        return Answer(
            response.status,
            {name.lower(): value for name, value in response.headers.items()},
            b"".join(parts),
            distribution.challenges(response.headers.getall("WWW-Authenticate", [])),
            str(response.url),
        )

    async def _send(
        self,
        method: str,
        target: object,
        endpoint: Endpoint,
        headers: Mapping[str, str],
        body: bytes | AsyncIterable[bytes] | None,
    ) -> aiohttp.ClientResponse:
        from yarl import URL

        assert isinstance(target, URL)
        session = self._opened()
        tls = await self._context(target, endpoint) if target.scheme == "https" else True
        proxy = self.proxies.for_url(target.scheme, target.host or "", target.port or 0)
        with translated(method, str(target)):
            return await session.request(
                method,
                target,
                headers={**headers, "User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
                data=body,
                ssl=tls,
                proxy=proxy,
                allow_redirects=False,
            )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            settings = self.settings
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_s, sock_read=settings.idle_s),
                auto_decompress=False,
                read_bufsize=_READ_BYTES,
                trust_env=False,
                skip_auto_headers=("Content-Type",),
            )
        return self._session

    async def _context(self, target: object, endpoint: Endpoint) -> ssl.SSLContext:
        """Servers elsewhere are held to the registry's authorities, but are not shown our certificate."""
        own = str(target).startswith(f"{endpoint.url}/")
        key = (endpoint.host, endpoint.verify, own)
        if key not in self._contexts:
            made = await blocking.run(
                certificates.context, self.settings.certificates, endpoint.host, verify=endpoint.verify, identify=own
            )
            self._contexts[key] = made
        return self._contexts[key]


def failure(answer: Answer) -> RegistryFailure:
    """The error that an answer of 400 or more stands for."""
    said = distribution.refusal(answer.status, reason(answer.status), answer.body, answer.challenges)
    return RegistryFailure(
        said.text,
        code=said.code,
        status=answer.status,
        transient=answer.status in _RETRIED_STATUS,
        retry_after_s=_retry_after_s(answer.headers.get("retry-after", "")),
    )


def reason(status: int) -> str:
    """``Not Found``; "" for a status that nobody knows."""
    from http import HTTPStatus

    return {int(known): known.phrase for known in HTTPStatus}.get(status, "")


def _retry_after_s(text: str) -> float:
    if text.isascii() and text.isdigit():
        return min(float(text), 86_400.0)
    if not text:
        return 0.0
    import email.utils
    import time

    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _check_redirect(origin: object, target: object, endpoint: Endpoint) -> None:
    from yarl import URL

    assert isinstance(origin, URL) and isinstance(target, URL)
    if target.scheme not in ("http", "https") or not target.host:
        raise RegistryFailure(
            f'Get "{origin}": the registry redirects to {str(target)[:200]!r}, which is no web address'
        )
    if origin.scheme == "https" and target.scheme == "http" and endpoint.verify:
        raise RegistryFailure(
            f'Get "{origin}": the registry redirects from TLS to plain HTTP ({target.host}), which is refused; '
            "--insecure-registry allows it for this registry"
        )
