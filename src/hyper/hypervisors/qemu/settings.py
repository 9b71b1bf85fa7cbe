"""What can be configured about the QEMU driver; filled from the daemon's configuration, no defaults elsewhere."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class AcceleratorChoice(StrEnum):
    """``auto`` boots once with KVM and falls back to TCG; the others insist."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True)
class QemuSettings:
    """Settings of the driver. ``state_dir`` keeps what the probe found; ``root_id`` tells the VMMs of one daemon root
    from others'."""

    root_id: str
    state_dir: Path
    runtime_dir: Path
    """A directory of root's, short enough for unix sockets: the probe's VM lives in it for a moment."""
    binary: str = f"qemu-system-{platform.machine()}"
    """A name looked up on PATH or an absolute path."""
    accelerator: AcceleratorChoice = AcceleratorChoice.AUTO
    kvm_device: Path = Path("/dev/kvm")
    probe_timeout_s: float = 5.0
    qmp_timeout_s: float = 10.0
