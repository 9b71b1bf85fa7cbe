"""Listening unix sockets, made by us before the process that serves them exists: so nobody can come too early."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from hyper.errors import InvalidArgument

_MAX_PATH_BYTES = 107  # sun_path, less its final zero: unix(7)


def listen(path: Path) -> socket.socket:
    """A listening socket that only its owner may connect to. InvalidArgument when the path is too long for one."""
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise InvalidArgument(f"the path {path} is too long for a unix socket; use a shorter --exec-root")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(8)
    except BaseException:
        listener.close()
        raise
    return listener
