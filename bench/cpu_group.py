"""CPU time of a whole family of processes, ended ones included: a cgroup that they are born into.

Version 1 (``cpuacct``) or 2, whichever this machine has. Neighbours: ``engine.py`` (a group per engine).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

TOP = "hyper-bench"
_ENTER = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execvp(sys.argv[2], sys.argv[2:])"


def hierarchies() -> list[Path]:
    """Where cgroups can be made on this machine, every one of them; version 1's accounting first."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split()[:3]
        if kind in ("cgroup", "cgroup2"):
            mounts.append((Path(left.split()[4]), kind, options.split(",")))
    return [path for path, _, _ in sorted(mounts, key=lambda mount: ("cpuacct" not in mount[2], mount[1] != "cgroup2"))]


class CpuGroup:
    """Made by :meth:`open`. ``others``: groups of the same hierarchy, by their paths below its top, into which the
    engine moves what it starts (they need not exist)."""

    def __init__(self, hierarchy: Path, name: str) -> None:
        self.hierarchy = hierarchy
        self.name = f"{TOP}/{name}"
        self.others: tuple[str, ...] = ()

    @classmethod
    def open(cls, name: str) -> CpuGroup:
        """OSError when this machine lets nobody make one."""
        group = cls(hierarchies()[0], name)
        # Version 2 wants processes in leaves only, and an engine makes groups of its own beside this one.
        group._path(f"{group.name}/daemon").mkdir(parents=True, exist_ok=True)
        return group

    @property
    def prefix(self) -> list[str]:
        """What to put before a command so that it begins its life in the group; it execs, so the process stays the
        same."""
        return [sys.executable, "-Sc", _ENTER, str(self._path(self.name) / "daemon" / "cgroup.procs")]

    @property
    def usage_s(self) -> float:
        """CPU time so far of all that is or was in it."""
        return sum(self._usage_s(self._path(name)) for name in (self.name, *self.others))

    def add_this_thread(self) -> None:
        """With what it starts from now on. Version 1 only (2 moves whole processes): elsewhere they are not counted."""
        tasks = self._path(self.name) / "daemon" / "tasks"
        if tasks.exists():
            tasks.write_text(str(threading.get_native_id()))

    def pids(self) -> list[int]:
        """The processes that are in it, those that the engine moved to groups of its own included."""
        found = []
        for name in (self.name, *self.others):
            for folder, _, _ in os.walk(self._path(name)):
                with contextlib.suppress(OSError):
                    found += [int(line) for line in (Path(folder) / "cgroup.procs").read_text().split()]
        # A thread of ours may be in it (add_this_thread), which shows as the whole process.
        return [pid for pid in found if pid != os.getpid()]

    def close(self) -> None:
        """Remove it and what an engine left below it, in every hierarchy (engines make their groups in all)."""
        for hierarchy in hierarchies():
            top = hierarchy / self.name
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
            with contextlib.suppress(OSError):
                top.parent.rmdir()

    def _path(self, name: str) -> Path:
        return self.hierarchy / name

    @staticmethod
    def _usage_s(path: Path) -> float:
        try:
            return int((path / "cpuacct.usage").read_text()) / 1e9
        except OSError:
            pass
        try:
            first = (path / "cpu.stat").read_text().split()
            return int(first[first.index("usage_usec") + 1]) / 1e6
        except (OSError, ValueError):
            return 0.0
