"""Everything that a run of the bench makes on the machine, by name; and what of it is still there afterwards.

Engines look for their own remains while their namespaces still exist (taps, for one); this looks once more from
outside, when all is closed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.cpu_group import TOP, hierarchies
from bench.processes import processes_with

_EVERY = "bench-"
PREFIX = f"{_EVERY}{os.getpid()}-"
"""Of folders in /var/tmp and of cgroups. Every daemon has its roots in such a folder, so its command line names it."""
_PLACE = "/var/tmp"


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """Where one engine lives."""
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=_PLACE) as name:
        Path(name).chmod(0o711)  # VMMs have user ids of their own
        yield Path(name)


def interfaces() -> set[str]:
    """Of the network namespace that the bench was started in; names only."""
    return {path.name for path in Path("/sys/class/net").iterdir()}


def left_behind(interfaces_before: set[str]) -> list[str]:
    """Processes, folders, mounts, network namespaces, interfaces and cgroups of this run that are still there."""
    found = [f"process {pid}" for pid in processes_with(PREFIX.encode()) if pid != os.getpid()]
    found += [f"folder {path}" for path in Path(_PLACE).glob(f"{PREFIX}*")]
    found += [
        f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if PREFIX in line
    ]
    namespaces = Path("/run/netns")
    if namespaces.is_dir():
        found += [f"network namespace {path.name}" for path in namespaces.glob(f"hy*-{os.getpid()}-*")]
    found += [
        f"interface {name}" for name in sorted(interfaces() - interfaces_before) if name.startswith(("hy", "up0"))
    ]
    for hierarchy in hierarchies():
        found += [f"cgroup {path}" for path in (hierarchy / TOP).glob(f"{PREFIX}*")]
    return found


def remains() -> set[str]:
    """Folders of runs that were killed: what they had started may still run, and disturbs this one."""
    owners = {path.name.split("-")[1] for path in Path(_PLACE).glob(f"{_EVERY}[0-9]*-*")}
    return {f"{_PLACE}/{_EVERY}{pid}-*" for pid in owners if not Path("/proc", pid).exists()}
