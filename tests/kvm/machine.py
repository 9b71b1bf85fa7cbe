"""The emulated host: a PC whose processor has AMD's virtualization (SVM), run by QEMU without any of its own.

QEMU's TCG emulates SVM with nested paging, so Linux in it has a KVM that works, and QEMU in it runs with ``-accel
kvm``. VMX cannot be emulated. Neighbours: ``disk`` makes what it boots, ``inside/reports.py`` what it says.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

MEMORY_MIB = 1024
CPUS = 2
"""So that a VM of it can have two."""
_CPU = "max,-erms"
"""With all that TCG can do; but "fast" string instructions are slow in it, also in the VMs."""
_CONSOLE_CHARACTERS = 3000


class Ended(Exception):
    """The emulated host has gone, before it said what was waited for."""


class Stalled(Exception):
    """The emulated host has said nothing in time."""


def command_line(console: Path, disk: Path, kernel: Path) -> list[str]:
    # Mitigations would make each of its kernel's entries slower, and protect nothing here.
    options = "root=/dev/nvme0n1 rw init=/init console=ttyS0 quiet panic=-1 mitigations=off"
    return [
        "qemu-system-x86_64",
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35"),
        *("-accel", "tcg,thread=multi", "-cpu", _CPU, "-smp", f"{CPUS}", "-m", f"{MEMORY_MIB}M"),
        *("-kernel", str(kernel), "-append", options),
        *("-drive", f"file={disk},if=none,id=disk,format=raw,cache=unsafe", "-device", "nvme,serial=1,drive=disk"),
        *("-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0"),
        *("-serial", f"file:{console}"),
        *("-chardev", "stdio,id=reports,signal=off", "-device", "isa-serial,chardev=reports"),
    ]


class EmulatedHost:
    """A running one; :meth:`close` it, which also removes its disk. Its process dies with this one at the latest."""

    def __init__(self, folder: Path, disk: Path, kernel: Path) -> None:
        self._disk = disk
        self._console = folder / "console"
        self._messages = folder / "messages"
        self._unread = b""
        with self._messages.open("wb") as messages:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command_line(self._console, disk, kernel)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=messages,
            )

    def report(self, deadline_s: float) -> dict[str, Any]:
        """The next thing that it says until then (``time.monotonic()``). Ended, Stalled."""
        assert self._process.stdout is not None
        began_s = time.monotonic()
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline_s - time.monotonic()))
            if not ready:
                waited_s = time.monotonic() - began_s
                raise Stalled(f"the emulated host said nothing for {waited_s:.0f} s\n{self.last_words()}")
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            if not data:
                raise Ended(f"the emulated host ended with status {self._process.wait()}\n{self.last_words()}")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        report = json.loads(line)
        assert isinstance(report, dict)
        return report

    def last_words(self) -> str:
        """The end of its kernel's console, and QEMU's messages."""
        texts = [path.read_text(errors="replace") for path in (self._console, self._messages) if path.exists()]
        return "\n".join(text[-_CONSOLE_CHARACTERS:].strip() for text in texts)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._disk.unlink()  # it is large, and pytest keeps its folders
