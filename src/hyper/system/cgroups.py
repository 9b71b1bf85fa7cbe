"""Host cgroups for VMMs, version 1 or 2, with whatever controllers this host lets us write.

A cgroup bounds what a VMM that was broken into can take from the host; the workload's own limits are held inside the
guest. A controller that is missing is a note for ``hyper info`` and never a failure: in a nested container there may
be none.

Neighbours: :mod:`hyper.hypervisors.qemu`. Kernel documents: admin-guide/cgroup-v1/, admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import dataclass
from pathlib import Path

_CONTROLLERS = ("memory", "pids", "cpu")
_PERIOD_US = 100_000
_REMOVE_TRIES = 50


@dataclass(frozen=True)
class CgroupLimits:
    """Bounds on one VMM's process."""

    memory_bytes: int
    processes: int
    cpus: float


@dataclass(frozen=True)
class _Hierarchy:
    """One mounted hierarchy and which of our controllers it has."""

    mount: Path
    version: int
    controllers: tuple[str, ...]


class Cgroup:
    """The cgroups of one VMM: one directory per hierarchy."""

    def __init__(self, directories: tuple[Path, ...]) -> None:
        self.directories = directories

    def add(self, pid: int) -> None:
        """Move a process in; OSError when a hierarchy refuses."""
        for directory in self.directories:
            (directory / "cgroup.procs").write_text(str(pid))

    def apply(self, limits: CgroupLimits) -> None:
        """Set these limits, with whatever controllers there are. What the host refuses to set is left out."""
        quota = str(round(limits.cpus * _PERIOD_US))
        self._write(
            {
                "memory.limit_in_bytes": str(limits.memory_bytes),
                "memory.max": str(limits.memory_bytes),
                "pids.max": str(limits.processes),
                "cpu.cfs_quota_us": quota,
                "cpu.max": f"{quota} {_PERIOD_US}",
            }
        )

    def set_background(self, background: bool) -> None:
        """Whether what is in it runs only while nobody else wants the processor (nearly)."""
        self._write({"cpu.shares": "2" if background else "1024", "cpu.weight": "1" if background else "100"})

    def _write(self, values: dict[str, str]) -> None:
        """Those of the files that there are (either version's)."""
        for directory in self.directories:
            for file, value in values.items():
                try:
                    (directory / file).write_text(value)
                except OSError:
                    continue  # another version's or another controller's

    async def remove(self) -> None:
        """Remove the directories of a process that has ended; idempotent."""
        for directory in self.directories:
            for _ in range(_REMOVE_TRIES):
                try:
                    directory.rmdir()
                except FileNotFoundError:
                    pass
                except OSError as error:
                    if error.errno != errno.EBUSY:
                        raise
                    await asyncio.sleep(0.01)  # the kernel is still taking the dead process apart
                    continue
                break


class Cgroups:
    """Makes cgroups named ``hyper/<group>/<name>`` at the root of each hierarchy. ``notes`` says what this host
    lacks."""

    def __init__(self, group: str, mountinfo: Path = Path("/proc/self/mountinfo")) -> None:
        self.group = group
        self._hierarchies = tuple(_usable(_hierarchies(mountinfo), group))
        missing = [c for c in _CONTROLLERS if not any(c in h.controllers for h in self._hierarchies)]
        self.notes = (f"no cgroup control of VMMs' {', '.join(missing)} on this host",) if missing else ()

    def create(self, name: str, limits: CgroupLimits) -> Cgroup:
        """A new cgroup with these limits. What the host refuses to set is left out."""
        for hierarchy in self._hierarchies:
            directory = hierarchy.mount / "hyper" / self.group / name
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError:
                continue  # went away since start-up; a note exists only for what was missing then
        cgroup = self.find(name)
        cgroup.apply(limits)
        return cgroup

    def find(self, name: str) -> Cgroup:
        """The cgroup that an earlier daemon made (empty when there is none)."""
        paths = (h.mount / "hyper" / self.group / name for h in self._hierarchies)
        return Cgroup(tuple(path for path in paths if path.is_dir()))

    def names(self) -> frozenset[str]:
        """All cgroups of this group that exist."""
        found: set[str] = set()
        for hierarchy in self._hierarchies:
            parent = hierarchy.mount / "hyper" / self.group
            if parent.is_dir():
                found.update(entry.name for entry in parent.iterdir() if entry.is_dir())
        return frozenset(found)

    def remove_group(self) -> None:
        """Remove the group's own directory when it is empty."""
        for hierarchy in self._hierarchies:
            try:
                (hierarchy.mount / "hyper" / self.group).rmdir()
            except OSError:
                pass


def _hierarchies(mountinfo: Path) -> list[_Hierarchy]:
    found: list[_Hierarchy] = []
    taken: set[str] = set()
    try:
        lines = mountinfo.read_text().splitlines()
    except OSError:
        return []
    rows = [(left.split()[4], *right.split()[:3]) for left, _, right in (line.partition(" - ") for line in lines)]
    for mount, kind, _source, options in rows:
        if kind == "cgroup":
            mine = tuple(c for c in _CONTROLLERS if c in options.split(",") and c not in taken)
            if mine:
                taken.update(mine)
                found.append(_Hierarchy(Path(mount), 1, mine))
    for mount, kind, _source, _options in rows:
        if kind == "cgroup2":
            try:
                offered = (Path(mount) / "cgroup.controllers").read_text().split()
            except OSError:
                continue
            mine = tuple(c for c in _CONTROLLERS if c in offered and c not in taken)
            if mine:
                taken.update(mine)
                found.append(_Hierarchy(Path(mount), 2, mine))
    return found


def _usable(hierarchies: list[_Hierarchy], group: str) -> list[_Hierarchy]:
    """Those in which our group can be made, with the controllers that really arrive in it."""
    usable: list[_Hierarchy] = []
    for hierarchy in hierarchies:
        top = hierarchy.mount / "hyper" / group
        try:
            top.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        controllers = hierarchy.controllers
        if hierarchy.version == 2:
            for level in (hierarchy.mount, hierarchy.mount / "hyper", top):
                for controller in controllers:
                    try:
                        (level / "cgroup.subtree_control").write_text(f"+{controller}")
                    except OSError:
                        continue
            try:
                enabled = (top / "cgroup.subtree_control").read_text().split()
            except OSError:
                continue
            controllers = tuple(c for c in controllers if c in enabled)
        if controllers and os.access(top, os.W_OK):
            usable.append(_Hierarchy(hierarchy.mount, hierarchy.version, controllers))
    return usable
