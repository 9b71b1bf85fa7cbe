"""A registry that does what a test tells it: serves images from memory, and breaks rules where it is asked to.

Real HTTP on loopback, by aiohttp's server. Faults are taken one for each request of a kind, in the order given.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from tests.unit.images.store_tools import Made

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
Fault = Callable[[web.Request, bytes], Any]


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass
class FakeRegistry:
    """``faults``: by kind ("blob", "manifest", "ping", "token", "patch", "put"); each is called with the request and
    the right content, and gives a response, or None to serve as if nothing were."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    tags: dict[str, list[str]] = field(default_factory=dict)
    faults: dict[str, list[Fault | None]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    token: str = ""
    """When set, every request needs it as a bearer token."""
    password: str = ""
    """When set with ``token``, the token server wants it of the user "me"; without, basic authentication does."""
    hold: asyncio.Event | None = None
    """Blobs wait for it."""
    mounts: set[tuple[str, str]] = field(default_factory=set)
    """(repository, digest) that may be mounted from."""
    hidden: set[str] = field(default_factory=set)
    """Blobs that it says it does not have when it is asked whether it has them."""
    host: str = ""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _runner: web.AppRunner | None = None
    _uploads: dict[str, bytearray] = field(default_factory=dict)

    async def start(self) -> None:
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.host = f"127.0.0.1:{port}"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait for requests of which this is true."""
        async with self._changed:
            await self._changed.wait_for(reached)

    async def _count(self, what: str) -> None:
        async with self._changed:
            self.requests[what] += 1
            self._changed.notify_all()

    # what it has

    def add_blob(self, content: bytes) -> str:
        self.blobs[digest_of(content)] = content
        return digest_of(content)

    def add_manifest(self, path: str, document: object, media_type: str, *tags: str) -> dict[str, Any]:
        raw = json.dumps(document).encode()
        digest = digest_of(raw)
        for name in (digest, *tags):
            self.manifests[f"{path}:{name}"] = (raw, media_type)
        self.tags.setdefault(path, []).extend(tags)
        return {"mediaType": media_type, "digest": digest, "size": len(raw)}

    def add_image(
        self, path: str, made: Made, *tags: str, stored: Sequence[bytes] | None = None, **changes: Any
    ) -> dict[str, Any]:
        """``stored``: the layers as blobs; ``changes``: members of the manifest that are to be other."""
        layers = [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": self.add_blob(item), "size": len(item)}
            for item in stored or made.layers
        ]
        config = {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": self.add_blob(made.config),
            "size": len(made.config),
        }
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers, **changes}
        return self.add_manifest(path, document, MANIFEST, *tags)

    # answers

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        self.seen.append((request.method, request.path_qs, dict(request.headers)))
        if path == "/token":
            return await self._token(request)
        refused = self._refused(request)
        if refused is not None:
            return refused
        if path == "/v2/":
            return await self._faulty("ping", request, b"{}") or web.json_response({})
        name, _, rest = path.removeprefix("/v2/").partition("/manifests/")
        if rest:
            return await self._manifest(request, name, rest)
        name, _, rest = path.removeprefix("/v2/").partition("/blobs/")
        if rest.startswith("uploads/"):
            return await self._upload(request, name, rest.removeprefix("uploads/"))
        if rest:
            return await self._blob(request, rest)
        if path.endswith("/tags/list"):
            return self._tag_list(request, path.removeprefix("/v2/").removesuffix("/tags/list"))
        return web.Response(status=404, text="not here")

    def _refused(self, request: web.Request) -> web.Response | None:
        header = request.headers.get("Authorization", "")
        if self.token and header != f"Bearer {self.token}":
            challenge = f'Bearer realm="http://{self.host}/token",service="fake"'
            if header:
                challenge += ',error="insufficient_scope"'
            return _error(401, "UNAUTHORIZED", {"WWW-Authenticate": challenge})
        if self.password and not self.token and header != _basic(self.password):
            return _error(401, "UNAUTHORIZED", {"WWW-Authenticate": 'Basic realm="fake"'})
        return None

    async def _token(self, request: web.Request) -> web.StreamResponse:
        await self._count("token")
        answer = await self._faulty("token", request, b"")
        if answer is not None:
            return answer
        if request.method == "POST":
            form = await request.post()
            if form.get("refresh_token") != "keep-me":
                return web.json_response({"details": "no such token"}, status=401)
        elif self.password and request.headers.get("Authorization") != _basic(self.password):
            if request.headers.get("Authorization"):
                return web.json_response({"details": "incorrect username or password"}, status=401)
            return web.json_response({"token": "for-strangers"})
        document = {"token": self.token, "expires_in": 300}
        if request.query.get("offline_token") == "true":
            document["refresh_token"] = "keep-me"
        return web.json_response(document)

    async def _manifest(self, request: web.Request, name: str, wanted: str) -> web.StreamResponse:
        if request.method == "PUT":
            raw = await request.read()
            answer = await self._faulty("put", request, raw)
            if answer is not None:
                return answer
            kind = request.headers["Content-Type"]
            self.manifests[f"{name}:{wanted}"] = self.manifests[f"{name}:{digest_of(raw)}"] = (raw, kind)
            return web.Response(status=201, headers={"Docker-Content-Digest": digest_of(raw)})
        await self._count("manifest")
        found = self.manifests.get(f"{name}:{wanted}")
        answer = await self._faulty("manifest", request, found[0] if found else b"")
        if answer is not None:
            return answer
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN")
        return web.Response(body=found[0], content_type=found[1])

    async def _blob(self, request: web.Request, wanted: str) -> web.StreamResponse:
        content = self.blobs.get(wanted)
        if content is None or (request.method == "HEAD" and wanted in self.hidden):
            return _error(404, "BLOB_UNKNOWN")
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": str(len(content)), "Docker-Content-Digest": wanted})
        await self._count(wanted)
        if self.hold is not None:
            await self.hold.wait()
        answer = await self._faulty("blob", request, content)
        if answer is not None:
            return answer
        return web.Response(body=content, content_type="application/octet-stream")

    async def _upload(self, request: web.Request, name: str, upload: str) -> web.StreamResponse:
        if request.method == "POST":
            digest, source = request.query.get("mount", ""), request.query.get("from", "")
            if (source, digest) in self.mounts and digest in self.blobs:
                await self._count("mounted")
                return web.Response(status=201, headers={"Location": f"/v2/{name}/blobs/{digest}"})
            upload = secrets.token_hex(4)
            self._uploads[upload] = bytearray()
            return web.Response(status=202, headers={"Location": f"/v2/{name}/blobs/uploads/{upload}?state=x"})
        content = self._uploads.get(upload)
        if content is None:
            return _error(404, "BLOB_UPLOAD_UNKNOWN")
        if request.method == "PATCH":
            await self._count("patch")
            answer = await self._faulty("patch", request, b"")
            if answer is not None:
                return answer
            async for chunk in request.content.iter_any():
                content += chunk
            return web.Response(status=202, headers={"Location": f"/v2/{name}/blobs/uploads/{upload}?state=y"})
        assert request.method == "PUT"
        if digest_of(bytes(content)) != request.query["digest"]:
            return _error(400, "DIGEST_INVALID")
        self.add_blob(bytes(self._uploads.pop(upload)))
        return web.Response(status=201)

    def _tag_list(self, request: web.Request, name: str) -> web.Response:
        tags = self.tags.get(name)
        if tags is None:
            return _error(404, "NAME_UNKNOWN")
        # Two on a page.
        start = int(request.query.get("start", "0"))
        headers = {}
        if start + 2 < len(tags):
            headers["Link"] = f'</v2/{name}/tags/list?start={start + 2}>; rel="next"'
        return web.json_response({"name": name, "tags": tags[start : start + 2]}, headers=headers)

    async def _faulty(self, kind: str, request: web.Request, content: bytes) -> web.StreamResponse | None:
        waiting = self.faults.get(kind)
        fault = waiting.pop(0) if waiting else None
        if fault is None:
            return None
        answer = fault(request, content)
        if asyncio.iscoroutine(answer):
            answer = await answer
        assert answer is None or isinstance(answer, web.StreamResponse)
        return answer


def _basic(password: str) -> str:
    import base64

    return "Basic " + base64.b64encode(f"me:{password}".encode()).decode()


def _error(status: int, code: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": ""}]}, status=status, headers=headers)


# Faults.


def status(number: int, **headers: str) -> Fault:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request, content: web.Response(status=number, headers=named)


def corrupt(request: web.Request, content: bytes) -> web.Response:
    return web.Response(body=content[:-1] + bytes([content[-1] ^ 1]))


def longer(request: web.Request, content: bytes) -> web.Response:
    return web.Response(body=content + b"more")


def body(content: bytes) -> Fault:
    return lambda request, _: web.Response(body=content)


def redirect(target: str) -> Fault:
    return lambda request, content: web.Response(status=307, headers={"Location": target})


def cut(after: int, *, ranges: bool = True) -> Fault:
    """Break the line after so many bytes of what was asked for; ``ranges``: understand Range."""

    async def fault(request: web.Request, content: bytes) -> web.StreamResponse:
        wanted = request.headers.get("Range", "") if ranges else ""
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        rest = content[start:]
        response = web.StreamResponse(status=206 if wanted else 200)
        if wanted:
            response.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        response.content_length = len(rest)
        await response.prepare(request)
        await response.write(rest[:after])
        if after < len(rest):
            assert request.transport is not None
            request.transport.abort()
        return response

    return fault


def drip(request: web.Request, content: bytes) -> Any:
    """Without a Content-Length, in small pieces, and more than promised."""

    async def fault() -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for start in range(0, len(content), 1000):
            await response.write(content[start : start + 1000])
        await response.write(b"x" * 1000)
        return response

    return fault()
