"""Listening unix sockets: right owner and mode from the first moment, and a dead predecessor's file replaced.

Neighbours: ``hyper.daemon.listeners`` (what to listen on), ``hyper.api`` (what is served).
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from hyper.errors import Conflict, FailedPrecondition, InvalidArgument

_MAX_PATH_BYTES = 107  # sun_path less its final zero, unix(7)
_PROBE_TIMEOUT_S = 2.0


def listen_unix(path: Path, *, mode: int, gid: int, backlog: int = 1024) -> socket.socket:
    """A non-blocking listening stream socket at ``path``. What is missing of its folder is made, mode 0755.

    A socket file that nobody listens on is replaced. Conflict when somebody does; FailedPrecondition when something
    else is there or the place cannot be written.
    """
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise InvalidArgument(
            f"the socket path {path} is longer than {_MAX_PATH_BYTES} bytes, which is the kernel's limit"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        # Linux gives the file the mode of the socket's inode: closed to others until the group is right.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        if gid != os.getegid():
            os.chown(path, -1, gid)
        path.chmod(mode)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise _in_use(path) from error
        raise FailedPrecondition(
            f"cannot listen on {path} ({error.strerror}): run hyperd as root, or choose another place with -H unix:///PATH"
        ) from error
    except BaseException:
        listener.close()
        raise
    return listener


def remove_unix(path: Path, listener: socket.socket) -> None:
    """Close the listener, if the server that it was given to has not, and remove its file, unless a successor has put
    its own there. Idempotent."""
    try:
        # Closed first: the file is ours to remove if nobody answers there then, and a successor's if somebody does.
        listener.close()
        if stat.S_ISSOCK(path.lstat().st_mode) and not _is_alive(path):
            path.unlink(missing_ok=True)
    except OSError:
        return  # the folder is gone or not ours any more: nothing to clean


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FailedPrecondition(
            f"{path} exists and is not a socket: remove it, or choose another place with -H unix:///PATH"
        )
    if _is_alive(path):
        raise _in_use(path)
    path.unlink(missing_ok=True)


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # a full queue or a time-out: somebody is there, however busy
    return True


def _in_use(path: Path) -> Conflict:
    return Conflict(f"another daemon is listening on {path}: stop it, or choose another place with -H unix:///PATH")
