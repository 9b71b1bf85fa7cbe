"""Every other endpoint of the API file: 501 with a message that names what is missing. The tests hold this list
against the file."""

from __future__ import annotations

from hyper.api.docker.call import Call
from hyper.api.docker.router import Handler, Route
from hyper.api.http.messages import AnyResponse
from hyper.errors import Unsupported

_SWARM = "swarm mode (Hyper runs on one machine; Kubernetes is the way to many)"
_PLUGINS = "engine plugins"

_MISSING: tuple[tuple[str, str, str], ...] = (
    ("GET", "/containers/{id}/attach/ws", "attaching through a WebSocket: use POST /containers/{id}/attach"),
    ("POST", "/build", "building images (docker build)"),
    ("POST", "/build/prune", "the build cache"),
    ("POST", "/build/cancel", "building images (docker build)"),
    ("POST", "/session", "building images with BuildKit"),
    ("POST", "/grpc", "building images with BuildKit"),
    ("PUT", "/volumes/{name}", "cluster volumes"),
    ("POST", "/networks/create", "networks of one's own"),
    ("DELETE", "/networks/{id}", "networks of one's own"),
    ("POST", "/networks/{id}/connect", "networks of one's own"),
    ("POST", "/networks/{id}/disconnect", "networks of one's own"),
    ("POST", "/networks/prune", "networks of one's own"),
    ("GET", "/plugins/privileges", _PLUGINS),
    ("POST", "/plugins/pull", _PLUGINS),
    ("POST", "/plugins/create", _PLUGINS),
    ("DELETE", "/plugins/{name:path}", _PLUGINS),
    ("POST", "/plugins/{name:path}/enable", _PLUGINS),
    ("POST", "/plugins/{name:path}/disable", _PLUGINS),
    ("POST", "/plugins/{name:path}/upgrade", _PLUGINS),
    ("POST", "/plugins/{name:path}/push", _PLUGINS),
    ("POST", "/plugins/{name:path}/set", _PLUGINS),
    ("GET", "/swarm", _SWARM),
    ("POST", "/swarm/init", _SWARM),
    ("POST", "/swarm/join", _SWARM),
    ("POST", "/swarm/leave", _SWARM),
    ("POST", "/swarm/update", _SWARM),
    ("GET", "/swarm/unlockkey", _SWARM),
    ("POST", "/swarm/unlock", _SWARM),
    ("GET", "/nodes", _SWARM),
    ("GET", "/nodes/{id}", _SWARM),
    ("DELETE", "/nodes/{id}", _SWARM),
    ("POST", "/nodes/{id}/update", _SWARM),
    ("GET", "/services", _SWARM),
    ("POST", "/services/create", _SWARM),
    ("GET", "/services/{id}", _SWARM),
    ("DELETE", "/services/{id}", _SWARM),
    ("POST", "/services/{id}/update", _SWARM),
    ("GET", "/services/{id}/logs", _SWARM),
    ("GET", "/tasks", _SWARM),
    ("GET", "/tasks/{id}", _SWARM),
    ("GET", "/tasks/{id}/logs", _SWARM),
    ("GET", "/secrets", _SWARM),
    ("POST", "/secrets/create", _SWARM),
    ("GET", "/secrets/{id}", _SWARM),
    ("DELETE", "/secrets/{id}", _SWARM),
    ("POST", "/secrets/{id}/update", _SWARM),
    ("GET", "/configs", _SWARM),
    ("POST", "/configs/create", _SWARM),
    ("GET", "/configs/{id}", _SWARM),
    ("DELETE", "/configs/{id}", _SWARM),
    ("POST", "/configs/{id}/update", _SWARM),
)


def routes() -> tuple[Route, ...]:
    return tuple(Route(method, pattern, _refuse(method, pattern, what)) for method, pattern, what in _MISSING)


def _refuse(method: str, pattern: str, what: str) -> Handler:
    message = f"{method} {pattern.replace(':path', '')} is not there yet: {what}"

    async def refuse(call: Call) -> AnyResponse:
        raise Unsupported(message)

    return refuse
