"""Where Docker's and Podman's programs are: installed, or unpacked by ``make peers``; and what to do when they are
not."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from bench.engine import NotAvailable

UNPACKED = Path(__file__).resolve().parent.parent / "build" / "peers" / "root"
NEEDED = {"docker": ("dockerd", "containerd", "runc", "iptables"), "podman": ("podman", "conmon", "crun")}
PACKAGES = {"docker": "docker.io containerd runc iptables", "podman": "podman conmon crun netavark"}


@dataclass(frozen=True)
class Peers:
    """``folder``: has ``usr`` and ``etc`` of unpacked packages; used when a program is not installed."""

    folder: Path

    def laid_over(self, kind: str) -> Path | None:
        """What to lay over /usr and /etc to run this kind; None when all of it is installed. NotAvailable says how
        to get it."""
        missing = [name for name in NEEDED[kind] if shutil.which(name) is None]
        if not missing:
            return None
        unpacked = {path.name for place in ("usr/bin", "usr/sbin") for path in (self.folder / place).glob("*")}
        absent = [name for name in missing if name not in unpacked]
        if not absent:
            return self.folder
        raise NotAvailable(
            f"{kind}: there is no {', '.join(absent)} here. `make peers` unpacks Debian's into build/peers without "
            "installing anything, and the bench starts them itself; or "
            f"`apt-get install --no-install-recommends {PACKAGES[kind]}` (which starts an engine), or --peers FOLDER "
            "with unpacked packages"
        )
