"""The Docker Engine API as an application for the HTTP server: version, route, errors, the headers that every
response has."""

from __future__ import annotations

from collections.abc import Iterable

from hyper import __version__
from hyper.api.docker import versions
from hyper.api.docker.call import Call
from hyper.api.docker.errors import error_response, response_for
from hyper.api.docker.router import Route, Router
from hyper.api.docker.routes import all_routes
from hyper.api.http.messages import AnyResponse, Request, Response
from hyper.engine.api import Engine


class DockerApi:
    """Implements ``hyper.api.http.connection.Application`` over one engine. ``more_routes``: what other doors put on
    the same socket."""

    def __init__(self, engine: Engine, more_routes: Iterable[Route] = ()) -> None:
        self._engine = engine
        self._router = Router((*all_routes(), *more_routes))
        self._headers = {
            "Api-Version": versions.text(versions.NEWEST),
            "Docker-Experimental": "false",
            "Ostype": "linux",
            "Server": f"Hyper/{__version__} (linux)",
        }

    async def handle(self, request: Request) -> AnyResponse:
        version, path = versions.split_version(request.path)
        match = self._router.match(request.method, path)
        if match is None:
            return error_response(404, "page not found")
        if match.handler is None:
            allowed = ", ".join(match.allowed)
            return error_response(
                405, f"method {request.method} is not allowed for {path}: it has {allowed}", {"Allow": allowed}
            )
        return await match.handler(Call(self._engine, request, version, match.params))

    def failure(self, error: Exception) -> Response:
        return response_for(error)

    def common_headers(self) -> dict[str, str]:
        return dict(self._headers)
