"""Where the engine listens. Precedence as docker's: ``-H``, then HYPER_HOST, then DOCKER_HOST, then the default
socket."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from hyper.errors import InvalidArgument, PermissionDenied, Unavailable

DEFAULT_EXEC_ROOT = "/run/hyper"
TCP_PORT = 2375
CONNECT_TIMEOUT_S = 10.0


class Address:
    """A place to connect to: ``path`` for a unix socket, else ``host`` and ``port``."""

    def __init__(self, url: str, *, path: str = "", host: str = "", port: int = 0, chosen: bool = True) -> None:
        self.url = url
        self.path = path
        self.host = host
        self.port = port
        self.chosen = chosen
        """Somebody named it; False for the default, the only place where a daemon is started on demand."""

    def connect(self) -> socket.socket:
        """A new blocking connection. Raises Unavailable (nobody listens) or PermissionDenied, saying what to do."""
        try:
            if not self.path:
                connection = socket.create_connection((self.host, self.port), CONNECT_TIMEOUT_S)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(None)
                return connection
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(self.path)
            except BaseException:
                connection.close()
                raise
            return connection
        except PermissionError as error:
            raise PermissionDenied(f"no permission to connect to {self.url}: run it as root") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise Unavailable(
                f"no engine answers at {self.url} ({reason}): start hyperd, or name another address by -H or HYPER_HOST"
            ) from error


def find_address(flag: str | None, environment: Mapping[str, str]) -> Address:
    """The address to use; ``flag`` is the value of ``-H``."""
    for url in (flag, environment.get("HYPER_HOST"), environment.get("DOCKER_HOST")):
        if url:
            return parse_address(url)
    default = f"{environment.get('HYPER_EXEC_ROOT') or DEFAULT_EXEC_ROOT}/hyper.sock"
    return Address(f"unix://{default}", path=default, chosen=False)


def parse_address(url: str) -> Address:
    """``unix:///path``, ``tcp://host[:port]`` (no TLS) or a bare absolute path. Raises InvalidArgument."""
    scheme, separator, rest = url.partition("://")
    if not separator and url.startswith("/"):
        scheme, rest = "unix", url
    if scheme == "unix" and rest:
        if len(rest.encode()) > 107:
            raise InvalidArgument(f"the socket's path is longer than the 107 bytes that a unix socket may have: {rest}")
        return Address(f"unix://{rest}", path=rest)
    if scheme in ("tcp", "http") and rest:
        host, colon, port = rest.rstrip("/").rpartition(":")
        if not colon or rest.endswith("]"):
            host, port = rest.rstrip("/"), str(TCP_PORT)
        if host and port.isdecimal() and 0 < int(port) < 65536:
            return Address(url, host=host.strip("[]"), port=int(port))
    raise InvalidArgument(f"cannot use {url!r} as the engine's address: give unix:///path/of/socket or tcp://host:port")
