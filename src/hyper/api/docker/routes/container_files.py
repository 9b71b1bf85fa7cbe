"""``/containers/{id}/archive``, ``/changes`` and ``/export``."""

from __future__ import annotations

import base64
import stat as modes

import msgspec

from hyper.api.docker.call import Call, json_response
from hyper.api.docker.router import Route
from hyper.api.docker.times import rfc3339_nano
from hyper.api.http.messages import Response, StreamResponse
from hyper.engine.model import PathStat
from hyper.errors import InvalidArgument

_STAT_HEADER = "X-Docker-Container-Path-Stat"
_KINDS = {"changed": 0, "added": 1, "deleted": 2}

# Go's os.FileMode, which is what the header has.
_GO_TYPES = {
    modes.S_IFDIR: 1 << 31,
    modes.S_IFLNK: 1 << 27,
    modes.S_IFBLK: 1 << 26,
    modes.S_IFCHR: 1 << 26 | 1 << 21,
    modes.S_IFIFO: 1 << 25,
    modes.S_IFSOCK: 1 << 24,
}
_GO_BITS = {modes.S_ISUID: 1 << 23, modes.S_ISGID: 1 << 22, modes.S_ISVTX: 1 << 20}


def routes() -> tuple[Route, ...]:
    return (
        Route("HEAD", "/containers/{id}/archive", stat),
        Route("GET", "/containers/{id}/archive", read),
        Route("PUT", "/containers/{id}/archive", write),
        Route("GET", "/containers/{id}/changes", changes),
        Route("GET", "/containers/{id}/export", export),
    )


def _path(call: Call) -> str:
    path = call.text("path")
    if not path:
        raise InvalidArgument("bad parameter: path cannot be empty")
    return path


def go_mode(mode: int) -> int:
    """st_mode as Go's ``os.FileMode``."""
    special = sum(bit for ours, bit in _GO_BITS.items() if mode & ours)
    return mode & 0o777 | special | _GO_TYPES.get(modes.S_IFMT(mode), 0)


def stat_header(found: PathStat) -> dict[str, str]:
    document = {
        "name": found.name,
        "size": found.size,
        "mode": go_mode(found.mode),
        "mtime": rfc3339_nano(found.mtime_ns) if found.mtime_ns else "1970-01-01T00:00:00Z",
        "linkTarget": found.link_target,
    }
    return {_STAT_HEADER: base64.b64encode(msgspec.json.encode(document)).decode()}


async def stat(call: Call) -> Response:
    return Response(200, headers=stat_header(await call.engine.files.stat(call.params["id"], _path(call))))


async def read(call: Call) -> StreamResponse:
    found, archive = await call.engine.files.read(call.params["id"], _path(call))
    return StreamResponse(archive, content_type="application/x-tar", headers=stat_header(found), eager_head=False)


async def write(call: Call) -> Response:
    await call.engine.files.write(
        call.params["id"],
        _path(call),
        aiter(call.request.body),
        keep_kinds=call.flag("noOverwriteDirNonDir"),
        as_user=call.flag("copyUIDGID"),
    )
    return Response(200)


async def changes(call: Call) -> Response:
    found = await call.engine.files.changes(call.params["id"])
    return json_response([{"Path": change.path, "Kind": _KINDS[change.kind]} for change in found])


async def export(call: Call) -> StreamResponse:
    archive = await call.engine.files.export(call.params["id"])
    return StreamResponse(archive, content_type="application/octet-stream", eager_head=False)
