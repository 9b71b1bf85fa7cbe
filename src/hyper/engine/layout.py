"""Where the engine keeps a container's files below the data root."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """``containers/<id>/`` holds a container's log (its writable layer is ``hyper.images.writable``'s)."""

    data_root: Path

    def container(self, container_id: str) -> Path:
        return self.data_root / "containers" / container_id

    def log(self, container_id: str) -> Path:
        """Docker's own name for it, because tools look for ``*-json.log``."""
        return self.container(container_id) / f"{container_id}-json.log"

    def make(self, container_id: str) -> None:
        self.container(container_id).mkdir(mode=0o710, parents=True, exist_ok=True)

    def remove(self, container_id: str) -> None:
        shutil.rmtree(self.container(container_id), ignore_errors=True)

    def known(self) -> list[str]:
        """IDs that have a directory here."""
        root = self.data_root / "containers"
        return [entry.name for entry in root.iterdir()] if root.exists() else []
