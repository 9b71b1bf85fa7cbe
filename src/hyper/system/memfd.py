"""Bounded logs: memory files that a hostile writer cannot grow.

What a VMM prints (its stderr, the guest's console) goes into a memfd of fixed size sealed against growing: the kernel
keeps the first ``size`` bytes and refuses the rest, whether or not a daemon is there to read. It dies with its last
holder, so nothing needs clearing up, and a restarted daemon opens it again through /proc/PID/fd.
"""

from __future__ import annotations

import fcntl
import os

_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class BoundedLog:
    """One such log. ``writer`` is a descriptor to be given to the process that writes; close it with
    :meth:`close_writer`."""

    def __init__(self, fd: int, name: str, writer: int = -1) -> None:
        self.name = name
        self.writer = writer
        self._fd = fd

    @classmethod
    def create(cls, name: str, size_bytes: int) -> BoundedLog:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size_bytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            # A description of its own: writing starts at 0 and is not moved by our reading. Write-only, as QEMU's fdset
            # demands.
            writer = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_CLOEXEC)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, name, writer)

    @classmethod
    def of_process(cls, pid: int, name: str) -> BoundedLog | None:
        """The log of that name which a living process writes to; None when it has none."""
        directory = f"/proc/{pid}/fd"
        try:
            for entry in os.listdir(directory):
                if os.readlink(f"{directory}/{entry}").startswith(f"/memfd:{name} "):
                    return cls(os.open(f"{directory}/{entry}", os.O_RDONLY | os.O_CLOEXEC), name)
        except OSError:
            pass
        return None

    def text(self, tail_bytes: int = 1 << 20) -> str:
        """What was written, or its last ``tail_bytes``; control characters other than newline and tab are dropped."""
        if self._fd < 0:
            return ""
        data = os.pread(self._fd, os.fstat(self._fd).st_size, 0).rstrip(b"\0")[-tail_bytes:]
        return "".join(c for c in data.decode("utf-8", "replace") if c in "\n\t" or c.isprintable())

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close(self) -> None:
        self.close_writer()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
