"""One repository at one endpoint: manifests, blobs, tags, uploads, as the OCI distribution specification has them.

Every request is retried with back-off when the failure may go away by itself, and repeated once with a new token when
the registry asks for one. Neighbours: ``tokens.py``, ``transport.py``, ``retry.py``; ``download.py`` and
``hyper.images.push`` use it.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from hyper.errors import DataLoss
from hyper.images.registry.endpoints import Endpoint
from hyper.images.registry.failures import RegistryFailure
from hyper.images.registry.retry import retrying
from hyper.images.registry.tokens import Authenticator
from hyper.images.registry.transport import Answer, Transport, failure
from hyper.oci import digest
from hyper.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES
from hyper.oci.distribution import SCHEMA_1

if TYPE_CHECKING:
    import aiohttp

_MANIFEST_BYTES = 4 << 20
_TAGS_BYTES = 16 << 20
_TAG_PAGES_MAX = 1000
_ACCEPTED = ", ".join((*sorted(MANIFEST_TYPES), *sorted(INDEX_TYPES)))
_Waiting = Callable[[float], None]


@dataclass(frozen=True)
class FetchedManifest:
    """A manifest or an index, as its bytes: its digest has been verified where one was asked for."""

    raw: bytes
    media_type: str
    digest: str


@dataclass(frozen=True)
class Existing:
    """What the registry says of something that it has."""

    digest: str
    size: int
    media_type: str


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class Repository:
    """``path`` is the repository's name without its registry. ``push``: tokens are asked for writing too."""

    def __init__(
        self, transport: Transport, endpoint: Endpoint, auth: Authenticator, path: str, *, push: bool = False
    ) -> None:
        self.endpoint = endpoint
        self.path = path
        self._transport = transport
        self._auth = auth
        self._push = push
        self._scope = f"repository:{path}:{'pull,push' if push else 'pull'}"

    # Manifests.

    async def manifest(self, tag_or_digest: str) -> FetchedManifest:
        """DataLoss when it is not what the digest promises. RegistryFailure MANIFEST_UNKNOWN when there is none."""
        answer = await self._whole(
            "GET", f"manifests/{tag_or_digest}", headers={"Accept": _ACCEPTED}, most_bytes=_MANIFEST_BYTES
        )
        _check(answer, 200)
        found = digest.of(answer.body)
        if ":" in tag_or_digest and found != tag_or_digest:
            raise DataLoss(f"manifest verification failed for digest {tag_or_digest}: the registry sent {found}")
        promised = answer.headers.get("docker-content-digest", "")
        if digest.is_digest(promised) and promised != found:
            raise DataLoss(f"manifest verification failed for digest {promised}: the registry sent {found}")
        media_type = answer.headers.get("content-type", "").partition(";")[0].strip()
        return FetchedManifest(answer.body, _media_type(answer.body, media_type), found)

    async def has_manifest(self, tag_or_digest: str) -> Existing | None:
        answer = await self._whole("HEAD", f"manifests/{tag_or_digest}", headers={"Accept": _ACCEPTED})
        if answer.status == 404:
            return None
        _check(answer, 200)
        return _existing(answer)

    async def put_manifest(self, tag_or_digest: str, raw: bytes, media_type: str) -> str:
        """Its digest, as the registry says."""
        answer = await self._whole("PUT", f"manifests/{tag_or_digest}", headers={"Content-Type": media_type}, body=raw)
        _check(answer, 201)
        return answer.headers.get("docker-content-digest", "") or digest.of(raw)

    async def tags(self) -> list[str]:
        """All of them, in the registry's order."""
        found: list[str] = []
        target = "tags/list"
        for _ in range(_TAG_PAGES_MAX):
            answer = await self._whole("GET", target, headers={}, most_bytes=_TAGS_BYTES)
            _check(answer, 200)
            try:
                found += msgspec.json.decode(answer.body, type=_Tags).tags or []
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise RegistryFailure(f"the registry's list of tags is not valid: {error}") from error
            link = answer.headers.get("link", "")
            if 'rel="next"' not in link or not link.startswith("<"):
                return found
            target = urljoin(answer.url, link[1 : link.index(">")])
        raise RegistryFailure(f"the registry's list of tags has more than {_TAG_PAGES_MAX} pages")

    # Blobs.

    @asynccontextmanager
    async def open_blob(self, blob: str, start: int) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response of 200 or 206 with its body unread. No retry: the reader knows how far it came."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with self._open("GET", f"blobs/{blob}", headers=headers) as response:
            yield response

    async def has_blob(self, blob: str) -> Existing | None:
        answer = await self._whole("HEAD", f"blobs/{blob}", headers={})
        if answer.status == 404:
            return None
        _check(answer, 200)
        return _existing(answer)

    async def begin_upload(self, *, mount: str = "", source: str = "") -> str:
        """The upload's address; "" when the blob ``mount`` was taken over from the repository ``source``."""
        query = f"?mount={quote(mount)}&from={quote(source, safe='')}" if mount else ""
        answer = await self._whole("POST", f"blobs/uploads/{query}", headers={}, body=b"", source=source)
        if answer.status == 201 and mount:
            return ""
        _check(answer, 202)
        return self._location(answer)

    async def upload_chunk(self, location: str, chunk: AsyncIterable[bytes], size: int) -> str:
        """The address for what follows. A stream cannot be sent twice, so nothing is retried here.

        One chunk with the whole blob in it, as dockerd sends it: no registry minds its size."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        answer = await self._once("PATCH", location, headers=headers, body=chunk)
        _check(answer, 202, 204)
        return self._location(answer)

    async def finish_upload(self, location: str, blob: str) -> None:
        separator = "&" if urlsplit(location).query else "?"
        answer = await self._once(
            "PUT",
            f"{location}{separator}digest={quote(blob)}",
            headers={"Content-Type": "application/octet-stream"},
            body=b"",
        )
        _check(answer, 201, 204)

    async def cancel_upload(self, location: str) -> None:
        await self._once("DELETE", location, headers={})

    def _location(self, answer: Answer) -> str:
        location = answer.headers.get("location", "")
        target = urljoin(answer.url, location)
        if not location or urlsplit(target).scheme not in ("http", "https"):
            raise RegistryFailure("the registry did not say where to upload to")
        if target.startswith("http://") and self.endpoint.secure:
            if self.endpoint.verify and urlsplit(target).netloc != urlsplit(self.endpoint.url).netloc:
                raise RegistryFailure(
                    f"the registry wants uploads sent to {target[:200]} without TLS, which is refused"
                )
            # Registries behind a proxy that ends TLS do not know that they are spoken to by it.
            target = "https" + target.removeprefix("http")
        return target

    # Requests.

    async def _whole(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        most_bytes: int = 1 << 20,
        source: str = "",
    ) -> Answer:
        async def attempt() -> Answer:
            answer = await self._once(method, target, headers=headers, body=body, most_bytes=most_bytes, source=source)
            if answer.status >= 400 and (failed := failure(answer)).transient:
                raise failed
            return answer

        return await retrying(self._transport.settings, attempt)

    async def _once(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | AsyncIterable[bytes] | None = None,
        most_bytes: int = 1 << 20,
        source: str = "",
    ) -> Answer:
        url = self._url(target)
        sent = {**headers, **await self._authorization(method, url, source)}
        answer = await self._transport.whole(method, url, self.endpoint, headers=sent, body=body, most_bytes=most_bytes)
        if answer.status == 401 and (body is None or isinstance(body, bytes)) and self._refused(answer):
            sent = {**headers, **await self._authorization(method, url, source)}
            answer = await self._transport.whole(
                method, url, self.endpoint, headers=sent, body=body, most_bytes=most_bytes
            )
        return answer

    @asynccontextmanager
    async def _open(
        self, method: str, target: str, *, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        from hyper.images.registry.failures import translated

        url = self._url(target)
        for second in (False, True):
            sent = {**headers, **await self._authorization(method, url, "")}
            async with self._transport.open(method, url, self.endpoint, headers=sent) as response:
                if response.status < 400:
                    yield response
                    return
                with translated(method, url):
                    answer = await self._transport.answer_of(response)
            if second or answer.status != 401 or not self._refused(answer):
                raise failure(answer)

    async def _authorization(self, method: str, url: str, source: str) -> dict[str, str]:
        if not url.startswith(f"{self.endpoint.url}/"):
            return {}  # an upload's address elsewhere says all that is needed by itself
        scopes = (self._scope, f"repository:{source}:pull") if source else (self._scope,)
        value = await self._auth.header(scopes, about=self._about(method, url))
        return {"Authorization": value} if value else {}

    def _about(self, method: str, url: str) -> str:
        """As dockerd begins it: a push's errors stand alone, and a pull asks for a manifest's head first there."""
        if self._push:
            return ""
        return f'{"Head" if "/manifests/" in url else method.capitalize()} "{url}": '

    def _refused(self, answer: Answer) -> bool:
        """Whether it is worth asking again: the challenge is new, or the token may have become too old."""
        first = not self._auth.asks
        self._auth.learn(answer.challenges)
        self._auth.forget()
        return self._auth.renews or (first and self._auth.asks)

    def _url(self, target: str) -> str:
        if target.startswith(("http://", "https://")):
            return target
        return f"{self.endpoint.url}/v2/{self.path}/{target}"


def _check(answer: Answer, *expected: int) -> None:
    if answer.status not in expected:
        if answer.status >= 400:
            raise failure(answer)
        raise RegistryFailure(f"received unexpected HTTP status: {answer.status}", status=answer.status)


def _existing(answer: Answer) -> Existing:
    length = answer.headers.get("content-length", "")
    size = int(length) if length.isascii() and length.isdigit() else -1
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip()
    return Existing(answer.headers.get("docker-content-digest", ""), size, media_type)


class _Typed(msgspec.Struct, rename="camel"):
    media_type: str = ""
    schema_version: int = 0
    manifests: msgspec.Raw | None = None


def _media_type(raw: bytes, said: str) -> str:
    """The document's own word counts, then the header's; some registries call every manifest JSON or text."""
    try:
        typed = msgspec.json.decode(raw, type=_Typed)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return said
    if typed.media_type:
        return typed.media_type
    if typed.schema_version == 1:
        return min(SCHEMA_1)
    if said in MANIFEST_TYPES | INDEX_TYPES:
        return said
    return min(INDEX_TYPES, key=lambda one: "oci" not in one) if typed.manifests is not None else said
