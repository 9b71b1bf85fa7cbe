"""Where the daemon is met: its sockets, its hold on the data root, its pid file.

The hold on the data root is a file lock, which ends with the process however that ends; two daemons can therefore never
share a root, and no crash leaves a root locked.

Neighbours: ``hyper.config`` (addresses), ``hyper.system.sockets``, ``main.py`` (opens these, in this order: root, pid
file, sockets).
"""

from __future__ import annotations

import fcntl
import grp
import hashlib
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from hyper.errors import Conflict, FailedPrecondition, InvalidArgument, Unsupported
from hyper.system.sockets import listen_unix, remove_unix

_log = logging.getLogger(__name__)

DEFAULT_GROUP = "hyper"
SOCKET_MODE = 0o660
_LOCK_NAME = "hyperd.lock"


@dataclass(frozen=True)
class UnixAddress:
    """``unix:///PATH``."""

    path: Path

    def __str__(self) -> str:
        return f"unix://{self.path}"


def parse_host(text: str) -> UnixAddress:
    """An address of ``-H``. Unsupported for kinds that are not there yet, saying what to do instead; InvalidArgument
    otherwise."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = ("unix", text) if text.startswith("/") else ("tcp", text)
    if scheme == "unix":
        if not rest.startswith("/") or "\0" in rest:
            raise InvalidArgument(
                f"-H {text}: a unix socket needs an absolute path, as in unix:///run/hyper/hyper.sock"
            )
        return UnixAddress(Path(rest))
    if scheme == "tcp":
        raise Unsupported(
            f"-H {text}: listening on TCP is not there yet, because it must not be without mutual TLS: whoever reaches "
            "the API is root on this host. Use -H unix:///PATH, and DOCKER_HOST=ssh://USER@HOST for docker's CLI "
            "or ssh -L from elsewhere"
        )
    if scheme == "fd":
        raise Unsupported(f"-H {text}: socket activation by systemd is not there yet; use -H unix:///PATH")
    raise InvalidArgument(f"-H {text}: unknown kind of address {scheme!r}; use -H unix:///PATH")


class Listeners:
    """Every socket that the API is served on. A context manager: leaving it closes them and removes their files."""

    def __init__(self, sockets: Sequence[tuple[UnixAddress, socket.socket]]) -> None:
        self._sockets = list(sockets)

    @classmethod
    def open(cls, hosts: Sequence[str], group: str | None) -> Listeners:
        """All or none. ``group`` may use the sockets; None means ``hyper`` where there is such a group, else root's
        only."""
        addresses = list(dict.fromkeys(parse_host(host) for host in hosts))
        if not addresses:
            raise InvalidArgument("no address to listen on: give -H unix:///PATH")
        gid = find_group(group)
        opened = cls([])
        try:
            for address in addresses:
                opened._sockets.append((address, listen_unix(address.path, mode=SOCKET_MODE, gid=gid)))
        except BaseException:
            opened.close()
            raise
        return opened

    @property
    def sockets(self) -> list[socket.socket]:
        return [listener for _, listener in self._sockets]

    @property
    def addresses(self) -> list[str]:
        return [str(address) for address, _ in self._sockets]

    def close(self) -> None:
        """Idempotent."""
        for address, listener in self._sockets:
            remove_unix(address.path, listener)
        self._sockets.clear()

    def __enter__(self) -> Listeners:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def find_group(name: str | None) -> int:
    """The group's id. A group that was asked for must exist; the default one may be missing: then it is our own."""
    try:
        return grp.getgrnam(name or DEFAULT_GROUP).gr_gid
    except KeyError:
        if name is None:
            _log.info("only root may use the API: there is no such group", extra={"group": DEFAULT_GROUP})
            return os.getegid()
        if name.isascii() and name.isdigit():
            return int(name)
        raise InvalidArgument(
            f"--group {name}: there is no such group; make it with groupadd, or leave the flag out"
        ) from None


class DataRoot:
    """The daemon's folder, locked. A context manager: leaving it lets go."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def lock(cls, path: Path) -> DataRoot:
        """Make the folder if need be (mode 0711: VMs' processes reach their own files through it) and lock it.

        Conflict, with its pid, when another hyperd has it."""
        try:
            path.mkdir(mode=0o711, parents=True, exist_ok=True)
            descriptor = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise FailedPrecondition(
                f"the data root {path} cannot be used ({error.strerror}): "
                "run hyperd as root, or choose another with --data-root"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise Conflict(
                f"the data root {path} is in use by another hyperd (pid {pid or 'unknown'}): stop that one, "
                "or give this one a root of its own with --data-root, --exec-root and -H"
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(path, descriptor)

    @property
    def root_id(self) -> str:
        """12 hexadecimal digits that name this root among the host's: the same at every start, and after its content
        was wiped, so that what was left in the kernel under this name (bridge, rules, cgroups) is found again."""
        return hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()[:12]

    def close(self) -> None:
        """Idempotent. The lock's file stays: removing it would let two daemons lock two files of one name."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> DataRoot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PidFile:
    """The process id for scripts and service managers. A context manager: leaving it removes the file if it is still
    ours."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def write(cls, path: Path) -> PidFile:
        """Conflict when a process named in an older file is a running hyperd; a stale file is replaced."""
        older = _read_pid(path)
        if older is not None and older != os.getpid() and _is_hyperd(older):
            raise Conflict(
                f"the pid file {path} names a running hyperd (pid {older}): stop it, or choose another with --pidfile"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}")
            temporary.write_text(f"{os.getpid()}\n")
            temporary.replace(path)
        except OSError as error:
            raise FailedPrecondition(
                f"the pid file {path} cannot be written ({error.strerror}): choose another with --pidfile"
            ) from error
        return cls(path)

    def close(self) -> None:
        """Idempotent."""
        if _read_pid(self.path) == os.getpid():
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> PidFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read_pid(path: Path) -> int | None:
    try:
        text = path.read_bytes()[:20].decode(errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isascii() and text.isdigit() else None


def _is_hyperd(pid: int) -> bool:
    # Pids come round again: only a process that was started as hyperd counts.
    try:
        return (
            b"hyperd" in Path(f"/proc/{pid}/cmdline").read_bytes()
            or b"hyper.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
    except OSError:
        return False
