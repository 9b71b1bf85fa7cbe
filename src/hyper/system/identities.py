"""User ids for VMMs: one each, never shared by two living VMMs, whichever daemon started them.

A uid is reserved by an open-file-description lock on one byte of a host-wide file (byte *n* stands for uid ``first +
n``), held by the daemon for as long as it owns the sandbox. The kernel drops the lock with the daemon, so nothing can
be left stale. A VMM that outlives its daemon holds no lock (a hostile VMM could drop one that it inherited):
therefore a uid is only given out when, besides, no living process has it. There is no gap between the two: a child
keeps the lock's description open until exec, and has its uid by then.

The default range lies outside of what Debian, systemd and /etc/subuid hand out (systemd documents 1879048192 and
above as unassigned), so that no container user of a rootless engine can share a VMM's uid.
"""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from hyper.errors import FailedPrecondition, ResourceExhausted
from hyper.system import processes


@dataclass(frozen=True)
class UidRange:
    """Ids ``first`` to ``first + count - 1``."""

    first: int = 1_900_000_000
    count: int = 65_536

    def __contains__(self, uid: int) -> bool:
        return self.first <= uid < self.first + self.count


class Identities:
    """Reserves uids. One per daemon; not shared between threads."""

    def __init__(self, lock_file: Path, uids: UidRange) -> None:
        self.uids = uids
        try:
            lock_file.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise FailedPrecondition(
                f"the lock file of VMM user ids {lock_file} cannot be opened ({error.strerror}); run hyperd as root"
            ) from error
        self._held: set[int] = set()
        # Daemons start at different places, so that their searches seldom meet.
        self._next = int.from_bytes(os.urandom(4), "big") % uids.count

    def allocate(self) -> int:
        """A uid that nobody else on this host has, until :meth:`free`. ResourceExhausted when there is none."""
        alive: set[int] = set()
        for pid in processes.all_pids():
            alive |= processes.user_ids(pid)
        for step in range(self.uids.count):
            offset = (self._next + step) % self.uids.count
            uid = self.uids.first + offset
            if uid not in alive and uid not in self._held and self._lock(offset, fcntl.F_WRLCK):
                self._held.add(uid)
                self._next = (offset + 1) % self.uids.count
                return uid
        raise ResourceExhausted(
            f"all {self.uids.count} user ids for VMMs ({self.uids.first} and up) are in use; stop some containers"
        )

    def hold(self, uid: int) -> None:
        """Reserve the uid of an adopted VMM again; its living process has kept others from taking it until now."""
        if uid in self.uids and uid not in self._held:
            self._lock(uid - self.uids.first, fcntl.F_WRLCK)
            self._held.add(uid)

    def free(self, uid: int) -> None:
        """Give a uid back; idempotent. Only once its VMM is dead."""
        if uid in self._held:
            self._held.discard(uid)
            self._lock(uid - self.uids.first, fcntl.F_UNLCK)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._held.clear()

    def _lock(self, offset: int, kind: int) -> bool:
        flock = struct.pack("@hhqqi", kind, os.SEEK_SET, offset, 1, 0)
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, flock)
        except (BlockingIOError, PermissionError):
            return False
        return True
