"""A container's whole life in a sandbox that nobody has yet: what it runs through is warm afterwards.

Under TCG QEMU has to translate the guest's code the first time it runs, which is most of a first start; under KVM the
page tables and caches that a first mount and exec fill are less, but there. The rehearsed container is our own agent's
program, which says a line and ends; nothing of it stays.

Neighbours: ``starter.py`` (the real thing, step for step), :mod:`hyper.sandboxes.pool` and ``templates`` (ask for it).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import stat
from pathlib import Path

import msgspec

from hyper.engine.model import Container, ContainerConfig
from hyper.engine.runtime import runtime_spec
from hyper.engine.starter import injected_files
from hyper.errors import ResourceExhausted, Unavailable
from hyper.guest.messages import Configuration, Disk, Event, Interface, ProcessExited, Rootfs, Route, Stdio
from hyper.images.erofs.writer import ErofsWriter
from hyper.images.tree import Directory, Inode
from hyper.images.writable import WritableDisks
from hyper.sandboxes.source import Sandbox
from hyper.system import blocking

_PROGRAM = "hyper-agent"
_PREFIX = "rehearsal-"
_LIMIT_S = 30.0
# Addresses that are nobody's (RFC 5737); the card's tap leads nowhere yet.
_CARD = Interface(
    mac="02:00:00:00:00:02", name="eth0", addresses=["192.0.2.2/24"], routes=[Route(to="default", via="192.0.2.1")]
)


class Rehearsal:
    """``agent`` is the guest agent's static program; ``folder`` keeps the image made of it."""

    def __init__(
        self, agent: Path, folder: Path, disks: WritableDisks, disk_bytes: int, default_memory_bytes: int
    ) -> None:
        self._agent = agent
        self._folder = folder
        self._disks = disks
        self._disk_bytes = disk_bytes
        self._default_memory_bytes = default_memory_bytes

    async def __call__(self, sandbox: Sandbox) -> None:
        """Unavailable when the sandbox does not get through it."""
        image = await blocking.run(rehearsal_image, self._agent, self._folder)
        disk_id = f"rehearsal-{secrets.token_hex(8)}"  # what a killed daemon leaves is swept like any writable layer
        try:
            async with asyncio.timeout(_LIMIT_S):
                writable = await self._disks.create(disk_id, self._disk_bytes)
                await self._run(sandbox, image, writable)
        except TimeoutError as error:
            raise Unavailable(f"a sandbox did not get through its rehearsal within {_LIMIT_S:g} s") from error
        finally:
            await self._disks.remove(disk_id)

    async def _run(self, sandbox: Sandbox, image: Path, writable: Path) -> None:
        agent = sandbox.agent
        container = _container()
        if sandbox.card:
            await agent.configure(Configuration(interfaces=[_CARD]))
        layer, top = await asyncio.gather(
            sandbox.attach_disk(image, fs="erofs", readonly=True),
            sandbox.attach_disk(writable, fs="ext4", readonly=False),
        )
        rootfs = Rootfs(layers=[msgspec.convert(layer, Disk)], writable=msgspec.convert(top, Disk))
        stdio = Stdio(io=agent.new_stream(), stderr=agent.new_stream(), stdin=False)
        assert stdio.stderr is not None
        exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_event(event: Event) -> None:
            if isinstance(event, ProcessExited) and event.id == container.id and not exited.done():
                exited.set_result(None)

        agent.on_event = on_event
        try:
            outputs = [agent.output(number, from_offset=0) for number in (stdio.io, stdio.stderr)]
            spec = runtime_spec(container, default_memory_bytes=self._default_memory_bytes)
            await agent.create(container.id, spec, rootfs, injected_files(container, None), stdio)
            await agent.start(container.id)
            for output in outputs:
                ended = False
                while not ended:
                    chunk = await output.read()
                    output.ack(chunk.next)
                    ended = chunk.end
            await exited
            await agent.delete(container.id)
            await sandbox.detach_disk(writable)
            await sandbox.detach_disk(image)
            if sandbox.card:
                await agent.configure(Configuration(interfaces=[]))
        finally:
            agent.on_event = None


def _container() -> Container:
    return Container(
        id=secrets.token_hex(32),
        name="rehearsal",
        created_ns=0,
        image_id="",
        config=ContainerConfig(image="", hostname="rehearsal"),
        path=f"/{_PROGRAM}",
        args=("--rehearse",),
    )


def rehearsal_image(agent: Path, folder: Path) -> Path:
    """An EROFS with nothing but the agent's program, made once per program; blocking. ResourceExhausted when there is
    no room for it."""
    content = agent.read_bytes()
    digest = hashlib.sha256(content).digest()
    path = folder / f"{_PREFIX}{digest.hex()[:16]}.erofs"
    if path.exists():
        return path
    temporary = folder / f"{_PREFIX}{secrets.token_hex(8)}.new"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _write_image(temporary, content, digest[:16], folder)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        for other in folder.glob(f"{_PREFIX}*"):
            if other != path:  # another program's, or cut short
                other.unlink(missing_ok=True)
    except OSError as error:
        raise ResourceExhausted(f"the rehearsal's image cannot be made in {folder}: {error.strerror}") from error
    return path


def _write_image(path: Path, program: bytes, uuid: bytes, scratch: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        writer = ErofsWriter(descriptor, scratch)
        with contextlib.closing(writer.data):
            root = Directory(b"", 0)
            inode = Inode(stat.S_IFREG | 0o755, 0, 0, 0, 0, 0)
            inode.size = len(program)
            writer.data.store(inode, [program])
            root.entries[_PROGRAM.encode()] = inode
            for name in ("dev", "etc", "proc", "sys"):
                root.entries[name.encode()] = Directory(name.encode(), 0)
            writer.finish(root, uuid)
        os.fsync(descriptor)  # nobody looks at it again before it is used
    finally:
        os.close(descriptor)
