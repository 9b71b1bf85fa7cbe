"""The ways to a VM that are measured, each with each guest kernel of this machine; and hyperd's flags for them.

*pool*: clones of a template wait, ready; *template*: each start clones it; *cold*: each start boots.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RUNGS = ("pool", "template", "cold")
KINDS = ("tuned", "distribution")
HOW_TO_GET = {"tuned": "`make kernel` builds it", "distribution": "`make setup` unpacks it"}
_FOLDER = Path("/var/lib/hyper/kernels")


@dataclass(frozen=True)
class Kernel:
    """A guest kernel: one of :data:`KINDS`, its release, its file."""

    kind: str
    release: str
    path: Path


@dataclass(frozen=True)
class Rung:
    name: str
    kernel: Kernel

    @property
    def title(self) -> str:
        return f"hyper {self.name}" + ("" if self.kernel.kind == "tuned" else f", {self.kernel.kind} kernel")

    def flags(self, pool_size: int | None) -> list[str]:
        """hyperd's; ``pool_size`` None: as many as hyperd itself chooses."""
        flags = ["--kernel", str(self.kernel.path), f"--templates={'false' if self.name == 'cold' else 'true'}"]
        if self.name != "pool":
            return [*flags, "--pool-size", "0"]
        return flags if pool_size is None else [*flags, "--pool-size", str(pool_size)]


def kernels() -> dict[str, Kernel]:
    """Those on this machine by kind, the tuned one first; of the distribution's the newest."""
    found = {}
    tuned = _FOLDER / "tuned" / "vmlinux"
    if tuned.exists():
        found["tuned"] = Kernel("tuned", (_FOLDER / "tuned" / "release").read_text().strip(), tuned)
    images = sorted((_FOLDER / "distribution").glob("*/vmlinu[xz]"), key=lambda path: path.stat().st_mtime)
    if images:
        found["distribution"] = Kernel("distribution", images[-1].parent.name, images[-1])
    return found
