"""The agent makes the next container's namespaces and kernel file systems before anybody asks for it ("cells"), here in
a real VM: what a container finds must not depend on which containers were there before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.test_agent_vm import DISK, ENV, booted, busybox_disk, connected, folder, kernel, read_all

from hyper.errors import InvalidArgument, Unsupported
from hyper.guest.agent import Agent
from hyper.guest.kernel import FoundKernel
from hyper.guest.messages import InjectedFile, Rootfs, Stdio
from hyper.oci.runtime_spec import ContainerRequest, ProcessRequest, Resources, container_spec

__all__ = ["busybox_disk", "folder", "kernel"]

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120)]

SEEN = r"""
    ls /proc >/tmp/processes; grep -c '^[0-9]*$' /tmp/processes; echo pid $$
    grep -v ' / ' /proc/mounts | sed 's/,inode64//'
    ls -l /dev | sed 's/  */ /g; s/ [A-Z][a-z][a-z] [0-9]* [0-9:]* / /' | cut -d ' ' -f 1,3-
    wc -c </proc/keys; ls /sys/firmware | wc -l; (echo x >/proc/sys/kernel/hostname) 2>&1
    mknod /disk b 8 0; (head -c 1 /disk | wc -c) 2>&1; rm /disk
    cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cgroup.procs /etc/motd
"""


@pytest.fixture
async def agent(kernel: FoundKernel, busybox_disk: Path, folder: Path) -> AsyncIterator[Agent]:
    async with booted(kernel, busybox_disk, folder) as path, asyncio.timeout(100):
        agent = await connected(path)
        yield agent
        await agent.release()


class Containers:
    """Runs them one after the other."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.made = 0

    async def create(self, spec: dict[str, object]) -> tuple[str, Stdio]:
        self.made += 1
        name = f"container{self.made}"
        stdio = Stdio(self._agent.new_stream(), self._agent.new_stream(), False)
        files = [InjectedFile("/etc/motd", f"hello {name}\n".encode())]
        await self._agent.create(name, spec, Rootfs([DISK], writable_tmpfs_bytes=32 << 20), files, stdio)
        return name, stdio

    async def __call__(
        self, script: str, *, privileged: bool = False, memory: int = 64 << 20, **request: object
    ) -> str:
        process = ProcessRequest(args=["sh", "-c", script], env=ENV, privileged=privileged)
        resources = Resources(memory_bytes=memory)
        spec = container_spec(ContainerRequest(process, resources=resources, **request))  # type: ignore[arg-type]
        name, stdio = await self.create(spec)
        assert stdio.stderr is not None
        outputs = self._agent.output(stdio.io), self._agent.output(stdio.stderr)
        await self._agent.start(name)
        printed, errors = await asyncio.gather(*map(read_all, outputs))
        await self._agent.delete(name)
        return (printed + errors).decode().replace(name, "NAME")


async def test_a_container_finds_the_same_whichever_were_there_before_it(agent: Agent) -> None:
    run = Containers(agent)
    first = await run(SEEN)
    assert "pid 1\n" in first and "hello NAME" in first and "Read-only file system" in first
    assert await run(SEEN) == first  # moved into what was made when the first was deleted
    other = await run(SEEN, tmpfs={"/scratch": "size=1m"}, shm_size_bytes=1 << 20)
    assert " /scratch tmpfs" in other and "size=1024k" in other
    assert await run(SEEN) == first
    assert await run("head -c 1 /disk | wc -c", privileged=True)
    privileged = await run(SEEN, privileged=True)
    assert "Read-only file system" not in privileged
    assert await run(SEEN) == first
    limited = await run(SEEN, memory=32 << 20)
    assert str(32 << 20) in limited and limited.replace(str(32 << 20), str(64 << 20)) == first


async def test_device_rules_are_in_force_in_each_container(agent: Agent) -> None:
    run = Containers(agent)
    script = "mknod /disk b 8 0 && head -c 1 /disk | wc -c"
    for _ in range(2):
        assert "Operation not permitted" in await run(script)
        assert (await run(script, privileged=True)).strip() == "1"


async def test_a_container_that_could_not_be_made_leaves_the_next_what_it_needs(agent: Agent) -> None:
    run = Containers(agent)
    first = await run(SEEN)
    spec = container_spec(ContainerRequest(ProcessRequest(args=["true"], env=ENV)))
    for change, error in (
        ({"hostname": "mine"}, InvalidArgument),
        ({"mounts": [{"destination": "/x", "type": "nosuch"}]}, Unsupported),
        ({"mounts": [*spec["mounts"], {"destination": "/y", "type": "tmpfs", "options": ["nosuch"]}]}, InvalidArgument),
        ({"process": {"args": "no list"}}, InvalidArgument),
        ({"process": {"args": []}}, InvalidArgument),
        ({"linux": {**spec["linux"], "resources": {"memory": {"swap": 1}}}}, InvalidArgument),
    ):
        with pytest.raises(error):
            await run.create({**spec, **change})
        assert (await agent.state()).containers == []
        assert await run(SEEN) == first


async def test_a_mount_that_covers_another_is_made_in_its_turn(agent: Agent) -> None:
    run = Containers(agent)
    spec = container_spec(ContainerRequest(ProcessRequest(args=["true"], env=ENV)))
    mounts = [
        {"destination": "/a/b", "type": "tmpfs"},
        {"destination": "/a", "type": "tmpfs"},
        {"destination": "/a/c", "type": "tmpfs"},
        {"destination": "/tmp", "type": "bind", "source": "/proc/sys", "options": ["bind"]},
        {"destination": "/proc/fs", "type": "tmpfs"},
        {"destination": "/tmp/../run/d", "type": "tmpfs"},
    ]
    script = "find /a -mindepth 1; ls /tmp/kernel/pid_max /run; grep -c ' /proc/fs tmpfs ro' /proc/mounts"
    spec["process"]["args"] = ["sh", "-c", script]
    name, stdio = await run.create({**spec, "mounts": [*spec["mounts"], *mounts]})
    assert stdio.stderr is not None
    outputs = agent.output(stdio.io), agent.output(stdio.stderr)
    await agent.start(name)
    printed, errors = await asyncio.gather(*map(read_all, outputs))
    assert (printed + errors).decode().split() == ["/a/c", "/tmp/kernel/pid_max", "/run:", "d", "1"]
    await agent.delete(name)
