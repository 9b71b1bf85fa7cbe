"""How long a sandbox takes from nothing to an agent that is configured, by phase, and what it costs.

    .venv/bin/python bench/cold_boot.py --kernels /var/lib/hyper/kernels --runs 10

As root. The CPU time is QEMU's own up to the agent's answer, which says more than the clock on a busy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

from hyper.guest.kernel import KernelSettings
from hyper.hypervisors.qemu.settings import AcceleratorChoice, QemuSettings
from hyper.sandboxes.boot_image import GuestSettings
from hyper.sandboxes.source import SandboxConfig, SandboxRequest, SandboxSettings, SandboxSource

REPOSITORY = Path(__file__).parents[1]


def cpu_ms(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) / 1024


async def measure(source: SandboxSource, cpus: int, disk: Path) -> dict[str, float]:
    """One sandbox's life in milliseconds (and MiB)."""
    started = time.monotonic()
    request = SandboxRequest("", None, cpus, SandboxConfig("box"))
    sandbox = await source.acquire(request)
    row = {**sandbox.timings, "total": (time.monotonic() - started) * 1000}
    row["qemu cpu"] = cpu_ms(sandbox.record.pid)
    row["pss MiB"] = rss_mib(sandbox.record.pid)
    for name, act in (
        ("plug a disk", sandbox.attach_disk(disk, fs="ext4", readonly=False)),
        ("destroy", sandbox.destroy(graceful=True)),
    ):
        started = time.monotonic()
        await act
        row[name] = (time.monotonic() - started) * 1000
    return row


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", type=Path, default=Path("/var/lib/hyper/kernels"))
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--accelerator", type=AcceleratorChoice, default=AcceleratorChoice.AUTO)
    arguments = parser.parse_args()
    agent = next((REPOSITORY / "agent" / "target").glob("*/release/hyper-agent"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o711)
        disk = folder / "disk"
        disk.write_bytes(bytes(1 << 20))
        guest = GuestSettings(KernelSettings(arguments.kernels), agent, folder / "cache")
        qemu = QemuSettings("bench", folder, folder, accelerator=arguments.accelerator)
        source = SandboxSource(SandboxSettings(folder, guest, qemu))
        await source.open()
        info = source.describe()
        print(f"kernel {info.kernel_release} ({info.kernel_kind}), {info.accelerator}: {info.accelerator_reason}")
        try:
            for cpus in (1, 2):
                rows = [await measure(source, cpus, disk) for _ in range(arguments.runs)]
                medians = {phase: statistics.median(row[phase] for row in rows) for phase in rows[0]}
                print(f"{cpus} vCPU:", "  ".join(f"{phase} {value:.0f}" for phase, value in medians.items()))
        finally:
            await source.reap_strays(frozenset())
            await source.close()


asyncio.run(main())
