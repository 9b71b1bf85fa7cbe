"""A container's writable disk and the real agent, in a real VM: what is on it when the agent says that the container
has ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.integration.test_agent_vm import (
    DISK,
    ENV,
    Exits,
    booted,
    busybox_disk,
    connected,
    folder,
    kernel,
)

from hyper.guest.kernel import FoundKernel
from hyper.guest.messages import Disk, Rootfs, ScsiAddress, Stdio
from hyper.images.writable import WritableDisks
from hyper.oci.runtime_spec import ContainerRequest, ProcessRequest, container_spec

__all__ = ["busybox_disk", "folder", "kernel"]

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120)]

TOP = Disk(ScsiAddress(0, 0, 2), "ext4")
MARK = b"written-in-the-container"


@pytest.mark.parametrize("ephemeral", [False, True])
async def test_what_a_container_wrote_is_durable_when_its_end_is_told_unless_nobody_wants_it(
    kernel: FoundKernel, busybox_disk: Path, folder: Path, ephemeral: bool
) -> None:
    top = await (await WritableDisks.open(folder)).create("top", 64 << 20)
    plugged = ("-blockdev", f"raw,node-name=top,file.driver=file,file.filename={top}")
    device = ("-device", "scsi-hd,bus=scsi0.0,drive=top,scsi-id=0,lun=2")
    async with booted(kernel, busybox_disk, folder, *plugged, *device) as path, asyncio.timeout(100):
        agent = await connected(path)
        exits = Exits(agent)
        process = ProcessRequest(args=["sh", "-c", f"echo {MARK.decode()} >/file"], env=ENV)
        stdio = Stdio(agent.new_stream(), agent.new_stream(), False)
        spec = container_spec(ContainerRequest(process))
        await agent.create("one", spec, Rootfs([DISK], TOP), [], stdio, ephemeral=ephemeral)
        await agent.start("one")
        assert (await exits.of("one")).exit_code == 0
        assert (MARK in top.read_bytes()) is not ephemeral
        await agent.delete("one")
        assert MARK in top.read_bytes()
        await agent.release()
