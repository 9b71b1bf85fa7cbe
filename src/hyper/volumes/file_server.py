"""One sandbox's shared directories: a confined virtiofsd that serves them, and nothing else, to its VMM.

The server gets a mount namespace of its own with a read-only tmpfs in it, ``0``, ``1``, … the directories and files
that the sandbox may see. Each is a bind that cannot be opened as a device and, if it is to be read-only, cannot be
written by anybody behind it: the kernel of the host sees to it, whatever guest and server do. virtiofsd then makes that
tmpfs its root (pivot_root), leaves the host's network and processes, filters its system calls, and keeps the
capabilities that changing owners needs. It ends with its VMM's connection.

Like a VMM it outlives the daemon; a later one finds it by :class:`FileServerIdentity`, and those that nobody knows by
their command line. Neighbours: :mod:`hyper.system.mounts`; :mod:`hyper.sandboxes.supervisor` (owner).
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hyper.errors import FailedPrecondition, InvalidArgument, NotFound
from hyper.system import mounts, processes
from hyper.system.memfd import BoundedLog
from hyper.system.processes import Process
from hyper.system.unix_sockets import listen

_log = logging.getLogger(__name__)
PROGRAMS = (Path("/usr/lib/qemu/virtiofsd"), Path("/usr/libexec/virtiofsd"))
FOLDER = "share"
"""In the sandbox's runtime directory: where its namespace has the tree, and the host an empty directory."""
_SOCKET = "share.sock"
_LOG = "hyper-share"
_LOG_BYTES = 64 << 10
_OPEN_FILES = 1_000_000
"""Each file that a guest's kernel remembers is an open descriptor."""
_CAPABILITIES = "modcaps=-mknod"
"""No device nodes are made on the host for a guest."""


@dataclass(frozen=True)
class SharedTree:
    """A directory or file of the host that a sandbox may see. ``subpath``: only what is there below ``source``, whose
    links cannot lead outside."""

    source: Path
    subpath: str = ""
    readonly: bool = False
    make: bool = False
    """A source that is not there is made, as a directory."""
    recursive: bool = True
    readonly_below: bool = True
    follow_host: bool = False
    """What the host mounts below it later is seen as well."""


class FileServerIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Enough to find a server again after a restart of the daemon."""

    pid: int
    start_time: int
    boot_id: str


class FileServer:
    """A running server. Whoever has it ends it with :meth:`stop`, or lets go of it with :meth:`release`."""

    def __init__(self, process: Process, log: BoundedLog | None) -> None:
        self.identity = FileServerIdentity(process.pid, process.start_time, process.boot_id)
        self._process = process
        self._log = log

    @classmethod
    async def start(cls, runtime_dir: Path, trees: Sequence[SharedTree]) -> tuple[FileServer, socket.socket]:
        """Serve ``trees`` as ``0``, ``1``, …; the socket is for the VMM. Errors name the source at fault:
        FailedPrecondition (with Docker's words) when there is none."""
        program = next((path for path in PROGRAMS if path.exists()), None)
        if program is None:
            raise FailedPrecondition(
                "volumes and binds need virtiofsd, which is not installed (Debian: apt-get install qemu-system-common)"
            )
        folder = runtime_dir / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        log = BoundedLog.create(_LOG, _LOG_BYTES)
        with ExitStack() as undo:
            undo.callback(log.close)
            with listen(runtime_dir / _SOCKET) as listener:
                argv = [
                    str(program),
                    f"--fd={listener.fileno()}",
                    *("-o", f"source={folder}"),
                    # Nothing is kept longer than until it is asked for again: others change the files as well.
                    *("-o", "cache=auto,timeout=0,xattr,posix_acl,announce_submounts,log_level=warn"),
                    *("-o", f"sandbox=namespace,{_CAPABILITIES}"),
                    f"--rlimit-nofile={_open_files()}",
                ]
                process = await Process.spawn(
                    argv,
                    uid=0,
                    pass_fds=[listener.fileno()],
                    stdout=log.writer,
                    stderr=log.writer,
                    prepare=lambda: _build(folder, trees),
                )
            log.close_writer()
            server = cls(process, log)
            try:
                client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                undo.callback(client.close)
                # It listens already, so this does not wait.
                client.connect(str(runtime_dir / _SOCKET))
                (runtime_dir / _SOCKET).unlink()
            except BaseException:
                await server.stop()
                raise
            undo.pop_all()
        return server, client

    @classmethod
    def adopt(cls, identity: FileServerIdentity) -> FileServer:
        """NotFound when it has ended."""
        process = Process.open(identity.pid, identity.start_time, identity.boot_id)
        return cls(process, BoundedLog.of_process(identity.pid, _LOG))

    async def wait(self) -> str:
        """Why it ended, when it has."""
        status = await self._process.wait()
        words = self._log.text()[-500:].strip() if self._log is not None else ""
        return f"the server of its shared directories {status}" + (f": {words}" if words else "")

    async def stop(self) -> None:
        """End it; idempotent. Its VMM is to be ended first."""
        for pid in _children(self.identity.pid):
            _kill(pid)
        self._process.kill()
        await self._process.wait()
        self.release()

    def release(self) -> None:
        """Let go of it without ending it."""
        self._process.close()
        if self._log is not None:
            self._log.close()


async def reap_strays(directory: Path, keep: frozenset[str]) -> None:
    """End the servers of sandboxes below ``directory`` that are not in ``keep``."""
    for pid in list(processes.all_pids()):
        sandbox_id = _sandbox_of(processes.command_line(pid), directory)
        started = processes.start_time(pid)
        if sandbox_id is None or sandbox_id in keep or started is None or processes.user_ids(pid) != {0}:
            continue
        try:
            server = FileServer.adopt(FileServerIdentity(pid, started, processes.host_boot_id()))
        except NotFound:
            continue
        await server.stop()


def _sandbox_of(argv: Sequence[str], directory: Path) -> str | None:
    if not argv or Path(argv[0]) not in PROGRAMS:
        return None
    for word in argv:
        source = Path(word.removeprefix("source="))
        if word.startswith("source=") and source.name == FOLDER and source.parent.parent == directory:
            return source.parent.name
    return None


def _children(pid: int) -> Iterator[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        text = ""
    return (int(word) for word in text.split())


def _kill(pid: int) -> None:
    started = processes.start_time(pid)
    if started is None:
        return
    try:
        process = Process.open(pid, started, processes.host_boot_id())
    except NotFound:
        return
    process.kill()
    process.close()


def _open_files() -> int:
    """As many as it may have here."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if _may_raise_limits():
        return min(_OPEN_FILES, int(Path("/proc/sys/fs/nr_open").read_text()))
    return _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)


def _may_raise_limits() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) & 1 << 24)  # CAP_SYS_RESOURCE


def _build(folder: Path, trees: Sequence[SharedTree]) -> None:
    """In the thread that the server is started from: the namespace that it will have."""
    mounts.own_namespace()
    mounts.mount_tmpfs(folder, "mode=755,size=64k")
    for number, tree in enumerate(trees):
        with ExitStack() as opened:
            source = _open(tree)
            opened.callback(os.close, source)
            at = folder / str(number)
            if stat.S_ISDIR(os.fstat(source).st_mode):
                at.mkdir(mode=0o755)
            else:
                at.touch(mode=0o644)
            copy = mounts.open_tree(source, recursive=tree.recursive)
            opened.callback(os.close, copy)
            mounts.restrict(copy, readonly=tree.readonly, below=tree.readonly_below, follow_host=tree.follow_host)
            mounts.attach(copy, at)
    mounts.make_readonly(folder)


def _open(tree: SharedTree) -> int:
    try:
        if tree.make and not tree.source.exists():
            tree.source.mkdir(parents=True, exist_ok=True)
        source = os.open(tree.source, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise FailedPrecondition(
            f'invalid mount config for type "bind": bind source path does not exist: {tree.source}'
        ) from error
    except OSError as error:
        raise FailedPrecondition(f"error while mounting {tree.source}: {error.strerror}") from error
    if not tree.subpath:
        return source
    try:
        return mounts.open_inside(source, tree.subpath)
    except OSError as error:
        raise InvalidArgument(
            f"cannot access path {tree.source / tree.subpath}: {(error.strerror or '').lower()}"
        ) from error
    finally:
        os.close(source)
