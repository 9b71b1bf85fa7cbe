"""Processes that outlive the daemon: started under their own user, watched through a pidfd, found again after a
restart.

A VMM must survive ``hyperd``, so it is not an asyncio subprocess: it gets a session of its own, nothing of it is tied
to the daemon's pipes, and its death is seen through a pidfd, which works alike for a child and for a process adopted
by a later daemon.

Neighbours: :mod:`hyper.hypervisors.qemu.vmm` (user), :mod:`hyper.system.cgroups` and :mod:`hyper.system.identities`
(what confines it).
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hyper.errors import NotFound, Unavailable
from hyper.system import blocking


@dataclass(frozen=True)
class ExitStatus:
    """How a process ended. Both are None for an adopted process: only a parent is told."""

    code: int | None
    signal: int | None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"killed by signal {self.signal} ({signal_name(self.signal)})"
        if self.code is not None:
            return f"exited with status {self.code}"
        return "ended"


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; the number itself for those without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def host_boot_id() -> str:
    """The host's boot id: a pid and start time mean nothing after a reboot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat in clock ticks since boot; None when the process is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def user_ids(pid: int) -> frozenset[int]:
    """Real, effective, saved and file-system uid of a process; empty when it is gone.

    From ``status`` and not from the owner of /proc/PID, which a process can turn into root by being undumpable."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Uid:"):
                    return frozenset(int(word) for word in line.split()[1:])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return frozenset()


def command_line(pid: int) -> list[str]:
    """The arguments of a process; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except (FileNotFoundError, ProcessLookupError):
        return []


def all_pids() -> Iterator[int]:
    """Every process id that /proc shows just now."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


class Process:
    """A running process that is watched until it ends. Make it with :meth:`spawn` or :meth:`open`; end with
    :meth:`close`."""

    def __init__(self, pid: int, pidfd: int, started: int, child: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self.start_time = started
        self.boot_id = host_boot_id()
        self._pidfd = pidfd
        self._child = child
        self._status: ExitStatus | None = None
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._on_exit)

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str],
        *,
        uid: int,
        pass_fds: Sequence[int],
        stdout: int,
        stderr: int,
        groups: Sequence[int] = (),
        prepare: Callable[[], None] | None = None,
    ) -> Process:
        """Start ``argv`` as user and group ``uid`` in a session of its own, with these other groups only and an empty
        environment. ``prepare`` is run first, in a thread of its own that the process is started from: namespaces that
        it enters are the process's, and nobody else's.

        ``stdout`` and ``stderr`` are descriptors. Raises Unavailable when it cannot be executed. A cancelled
        caller leaves no process behind."""
        start = functools.partial(_popen, argv, uid, groups, pass_fds, stdout, stderr)
        starting = asyncio.ensure_future(
            blocking.run(start) if prepare is None else blocking.run_alone(lambda: (prepare(), start())[1])
        )
        try:
            child = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await _undo(starting)
            raise
        except OSError as error:
            raise Unavailable(f"{argv[0]} cannot be started: {error.strerror or error}") from error
        try:
            pidfd = os.pidfd_open(child.pid)
        except BaseException:
            child.kill()
            child.wait()
            raise
        # A child that has ended already is still a zombie of ours, whose start time can be read but not by
        # start_time().
        return cls(child.pid, pidfd, start_time(child.pid) or 0, child)

    @classmethod
    def open(cls, pid: int, started: int, boot_id: str) -> Process:
        """Watch a process that an earlier daemon started. NotFound when it is gone or the pid is another process's
        now."""
        gone = NotFound(f"process {pid} is gone")
        if boot_id != host_boot_id():
            raise gone
        try:
            pidfd = os.pidfd_open(pid)
        except (ProcessLookupError, OSError) as error:
            raise gone from error
        # Read after the pidfd is held: now the pid cannot be given to another process unnoticed.
        if start_time(pid) != started:
            os.close(pidfd)
            raise gone
        return cls(pid, pidfd, started, None)

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    async def wait(self) -> ExitStatus:
        """How it ended, once it has; any number of waiters."""
        await self._ended.wait()
        assert self._status is not None
        return self._status

    def kill(self) -> None:
        """SIGKILL, at once; nothing when it has ended. Works on a stopped process too."""
        if self._pidfd >= 0 and not self.ended:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def close(self) -> None:
        """Stop watching. Does not end the process."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._child is not None:
            # Popen warns about a living child that is let go of; letting go is what a VMM that survives us is for.
            self._child.returncode = 0
            self._child = None

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        code: int | None = None
        killed_by: int | None = None
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            result = None  # adopted: init is its parent
        if result is not None:
            if result.si_code == os.CLD_EXITED:
                code = result.si_status
            else:
                killed_by = result.si_status
        if self._child is not None:
            self._child.returncode = code if code is not None else -(killed_by or 0)
        self._status = ExitStatus(code, killed_by)
        self._ended.set()


def _popen(
    argv: Sequence[str], uid: int, groups: Sequence[int], pass_fds: Sequence[int], stdout: int, stderr: int
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=tuple(pass_fds),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C"},
        cwd="/",
        user=uid,
        group=uid,
        extra_groups=list(groups),
        umask=0o077,
        start_new_session=True,
    )


async def _undo(starting: asyncio.Future[subprocess.Popen[bytes]]) -> None:
    try:
        child = await starting
    except OSError:
        return
    child.kill()
    await blocking.run(child.wait)
