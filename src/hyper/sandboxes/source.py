"""The one place that sandboxes come from.

Whoever needs a VM with an agent in it asks :meth:`SandboxSource.acquire`, which takes the fastest way there is just
now: a clone that waits in the pool, a clone of the template, or a boot. It also takes over the sandboxes of an earlier
daemon and ends those that nobody knows any more.

Neighbours: :mod:`hyper.sandboxes.supervisor` (what it gives out), ``maker.py``, ``templates.py``, ``pool.py`` (where it
gets them from).
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hyper.errors import DeadlineExceeded, FailedPrecondition, HyperError, InvalidArgument, NotFound, Unavailable
from hyper.guest.agent import Agent
from hyper.guest.messages import Configuration, Interface, Route
from hyper.hypervisors.base import Accelerator, Hypervisor, HypervisorInfo, KernelImage, MachineSpec, MemoryFile
from hyper.hypervisors.qemu.driver import QemuHypervisor
from hyper.hypervisors.qemu.settings import QemuSettings
from hyper.sandboxes.boot_image import BootImage, GuestSettings
from hyper.sandboxes.launch import ConnectAgent, Launcher
from hyper.sandboxes.maker import FIRST_MAC, SandboxMaker, Shape
from hyper.sandboxes.model import (
    Card,
    DiskRecord,
    Rung,
    SandboxConfig,
    SandboxesInfo,
    SandboxRecord,
    SandboxRequest,
)
from hyper.sandboxes.pool import Pool, PoolSettings
from hyper.sandboxes.sizing import Host, Size, SizingSettings, size_for
from hyper.sandboxes.supervisor import Sandbox, Serve
from hyper.sandboxes.template import Template
from hyper.sandboxes.template_store import TemplateStore
from hyper.sandboxes.templates import Templates
from hyper.system import blocking, memory, memory_files
from hyper.system.identities import Identities, UidRange
from hyper.volumes import file_server
from hyper.volumes.file_server import FileServer, SharedTree

__all__ = [
    "Card",
    "DiskRecord",
    "Interface",
    "PoolSettings",
    "Route",
    "Sandbox",
    "SandboxConfig",
    "SandboxRecord",
    "SandboxRequest",
    "SandboxSettings",
    "SandboxSource",
    "SandboxesInfo",
    "SharedTree",
]

_log = logging.getLogger(__name__)
_ADOPT_S = 10.0
_CLONE_S = 10.0
"""How long it may take to tell clones who they are and to make them big enough, before a slower way is taken."""
_POOL_TRIES = 2
"""One may have died unnoticed; two are no accident."""
ENTROPY_BYTES = 64


@dataclass(frozen=True)
class SandboxSettings:
    """Settings of this part. ``runtime_dir`` gets one directory per sandbox; short, for unix sockets lie in it."""

    runtime_dir: Path
    guest: GuestSettings
    qemu: QemuSettings
    sizing: SizingSettings = field(default_factory=SizingSettings)
    uid_lock_file: Path = Path("/run/hyper-vmm-uids")
    """The same for every daemon on the host, whatever its roots."""
    uids: UidRange = field(default_factory=UidRange)
    boot_timeout_s: float = 30.0
    template_folder: Path | None = None
    """Where templates are kept; None: every sandbox is booted."""
    pool: PoolSettings = field(default_factory=lambda: PoolSettings(0))


def _ignore(_: object) -> None:
    pass


class SandboxSource:
    """See the module. Made by the daemon's wiring; ``on_record`` and ``on_gone`` are set by the engine before it
    opens."""

    def __init__(
        self,
        settings: SandboxSettings,
        *,
        cards: Callable[[], Card] | None = None,
        connect: ConnectAgent = Agent.connect,
        serve: Serve = FileServer.start,
        hypervisor: Callable[[Identities, Callable[[], KernelImage], Callable[[Path], Awaitable[bool]]], Hypervisor]
        | None = None,
    ) -> None:
        """``cards`` makes a spare network card (None: no networks). ``hypervisor`` makes the driver; None: QEMU with
        these settings."""
        self.on_record: Callable[[SandboxRecord], None] = _ignore
        self.on_gone: Callable[[str], None] = _ignore
        self.rehearse: Callable[[Sandbox], Awaitable[None]] | None = None
        """Runs a container in a sandbox that nobody has yet, so that the code it needs is warm; leaves nothing of
        it."""
        self.default_memory_bytes = settings.sizing.default_memory_bytes
        self._settings = settings
        self._connect = connect
        self._host = Host.here()
        directory = settings.runtime_dir / "vm"
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._identities = Identities(settings.uid_lock_file, settings.uids)
        make = hypervisor or (lambda identities, image, alive: QemuHypervisor(settings.qemu, identities, image, alive))
        self._hypervisor = make(self._identities, self._probe_image, lambda socket: self._launcher.answers(socket))
        self._launcher = Launcher(self._hypervisor, connect, settings.boot_timeout_s)
        self._maker = SandboxMaker(
            self._launcher,
            self._identities,
            directory,
            cards,
            self._size,
            lambda sandbox_id: self.on_gone(sandbox_id),
            serve,
        )
        self._templates: Templates | None = None
        if settings.template_folder is not None:
            store = TemplateStore(settings.template_folder)
            self._templates = Templates(self._hypervisor, self._maker, store, self._ready_template)
            self._templates.on_ready = lambda: self._pool.refill()
        self._pool = Pool(
            settings.pool if self._templates else PoolSettings(0),
            self._pooled,
            available_bytes=memory.available_bytes,
            total_bytes=memory.total_bytes,
        )
        self._boot_image: BootImage | None = None
        self._info: HypervisorInfo | None = None
        self._problem: HyperError | None = None
        self._agent_version = ""
        self._preparing = asyncio.Lock()

    async def open(self) -> None:
        """Find the kernel, probe the hypervisor, and begin to make template and pool. What is missing is no failure
        here: it is told by :meth:`describe` and by every :meth:`acquire` until it is there."""
        try:
            await self._prepare()
        except HyperError as error:
            self._problem = error
            _log.warning("no container can start yet: %s", error.message)
            return
        await self._template()
        self._pool.refill()

    async def close(self) -> None:
        """Let go of the sandboxes that were given out; they run on, and a later daemon adopts them. The others end."""
        await self._pool.close()
        if self._templates is not None:
            await self._templates.close()
        for sandbox in list(self._maker.live.values()):
            await sandbox.release()
        self._maker.live.clear()
        await self._hypervisor.close()
        self._identities.close()

    @contextmanager
    def starting(self) -> Iterator[None]:
        """While a container is being started: what is done in the background waits."""
        self._pool.start_begins()
        try:
            yield
        finally:
            self._pool.start_ends()

    async def acquire(self, request: SandboxRequest) -> Sandbox:
        """A sandbox for this request alone, its agent ready and configured. Leaves nothing behind when it fails or is
        cancelled. InvalidArgument for impossible sizes, FailedPrecondition or NotFound for what the host lacks,
        Unavailable when the VM did not come up."""
        await self._prepare()
        size = self._size(request.memory_bytes, request.cpus)
        cards = request.configure.interfaces
        if cards and not self._maker.has_cards:
            raise FailedPrecondition("this daemon has no network to put a sandbox's card into")
        for way in (self._from_pool, self._from_template):
            try:
                sandbox = await way(request)
            except InvalidArgument:
                raise  # the request's fault, whichever way
            except (HyperError, OSError) as error:
                _log.warning("a slower way to a sandbox is taken: %s", error)
                continue
            if sandbox is not None:
                return sandbox
        shape = Shape(await self._image(), size, card=bool(cards), mac=cards[0].mac if cards else FIRST_MAC)
        return await self._give(await self._booted(shape, shared=request.shared_memory), request)

    # -- the ways to a sandbox

    async def _from_pool(self, request: SandboxRequest) -> Sandbox | None:
        async with _within(_CLONE_S, "no sandbox of the pool could be configured"):
            for _ in range(_POOL_TRIES):
                sandbox = self._pool.take(shared=request.shared_memory)
                if sandbox is None:
                    break
                sandbox.timings = {}
                sandbox.vmm.defer(False)
                try:
                    return await self._give(sandbox, request)
                except Unavailable as error:
                    _log.warning("a sandbox of the pool could not be used: %s", error.message)
        return None

    async def _from_template(self, request: SandboxRequest) -> Sandbox | None:
        if self._templates is None or (template := await self._template()) is None:
            return None
        async with self._templates.trial(template):
            sandbox = await self._clone(template, "template", shared=request.shared_memory)
            async with _within(_CLONE_S, "a clone of the template could not be configured"):
                return await self._give(sandbox, request)

    async def _booted(self, shape: Shape, *, shared: bool) -> Sandbox:
        if not shared:
            return await self._maker.make(shape, "cold")
        memory = memory_files.create(f"hyper-memory-{secrets.token_hex(4)}", shape.size.memory_bytes)
        try:
            return await self._maker.make(shape, "cold", MemoryFile(memory, shared=True))
        finally:
            os.close(memory)  # the VMM has it

    async def _give(self, sandbox: Sandbox, request: SandboxRequest) -> Sandbox:
        """Tell it who it is, make it big enough, hand it out; it is ended when that fails."""
        began = time.monotonic()
        try:
            await sandbox.agent.configure(_configuration(request.configure))
            configured, had = time.monotonic(), sandbox.record
            sandbox.timings["configure"] = round((configured - began) * 1000, 1)
            await sandbox.resize(request.memory_bytes, request.cpus)
            if sandbox.record != had:
                sandbox.timings["resize"] = round((time.monotonic() - configured) * 1000, 1)
            self._agent_version = sandbox.agent.version
            sandbox.give_out(request.owner, lambda record: self.on_record(record))
        except BaseException:
            await asyncio.shield(sandbox.destroy(graceful=False))
            raise
        return sandbox

    async def _pooled(self, shared: bool) -> Sandbox | None:
        """A clone for the pool, rehearsed."""
        if self._templates is None or (template := await self._template()) is None:
            return None
        async with self._templates.trial(template):
            sandbox = await self._clone(template, "pool", shared=shared)
            try:
                sandbox.vmm.defer(True)
                await self._rehearsed(sandbox)
            except BaseException:
                await asyncio.shield(sandbox.destroy(graceful=False))
                raise
        return sandbox

    async def _clone(self, template: Template, rung: Rung, *, shared: bool) -> Sandbox:
        async with template.origin(own_copy=shared) as (memory, state):
            return await self._maker.make(template.shape, rung, memory, state)

    async def _template(self) -> Template | None:
        if self._templates is None:
            return None
        _, info = await self._prepare()
        shape = Shape(await self._image(), self._size(None, None), card=self._maker.has_cards)
        return await self._templates.current(shape, info)

    async def _ready_template(self, sandbox: Sandbox) -> None:
        # No interfaces: its card is out of sight in every clone until one is asked for.
        await sandbox.agent.configure(_configuration(SandboxConfig(hostname="template")))
        await self._rehearsed(sandbox)

    async def _rehearsed(self, sandbox: Sandbox) -> None:
        if self.rehearse is not None:
            await self.rehearse(sandbox)

    def _size(self, memory_bytes: int | None, cpus: float | None) -> Size:
        emulated = self._info is None or self._info.accelerator is not Accelerator.KVM
        return size_for(memory_bytes, cpus, self._settings.sizing, self._host, emulated=emulated)

    async def _image(self) -> KernelImage:
        boot_image, info = await self._prepare()
        return boot_image.image(emulated=info.accelerator is not Accelerator.KVM)

    # -- those of an earlier daemon

    async def adopt(self, record: SandboxRecord) -> Sandbox:
        """Take over a sandbox of an earlier daemon. NotFound when its VMM is gone."""
        self._identities.hold(record.uid)
        directory = self._maker.runtime_dir(record.sandbox_id)
        nothing = Path("/nonexistent")  # a running machine is not booted again
        spec = MachineSpec(
            record.sandbox_id,
            directory,
            KernelImage(nothing, nothing, ""),
            record.memory_bytes,
            record.max_memory_bytes,
            record.cpus,
            record.max_cpus,
            record.uid,
            memory_file=MemoryFile(-1, shared=False) if record.cloned else None,
        )
        try:
            vmm = await self._hypervisor.adopt(
                spec, record.identity, tuple((disk.spec, disk.address) for disk in record.disks)
            )
        except NotFound:
            await self._maker.clear(record.sandbox_id)
            self._identities.free(record.uid)
            raise
        try:
            async with asyncio.timeout(2 * _ADOPT_S):  # it also tells its state, which has a longer deadline elsewhere
                agent = await self._connect(
                    vmm.agent_socket,
                    instance=secrets.token_hex(16),
                    first=False,
                    deadline_s=_ADOPT_S,
                )
        except (HyperError, TimeoutError) as error:
            # It cannot be told from a hung guest what runs in it, so nothing of it can be kept.
            await vmm.kill()
            await self._maker.clear(record.sandbox_id)
            self._identities.free(record.uid)
            raise NotFound(
                f"the guest agent of sandbox {record.sandbox_id} does not answer: {error or 'in time'}"
            ) from error
        except BaseException:
            await vmm.release()
            raise
        server: FileServer | None = None
        if record.file_server is not None:
            try:
                server = FileServer.adopt(record.file_server)
            except NotFound as error:
                await agent.release()
                await vmm.kill()
                await self._maker.clear(record.sandbox_id)
                self._identities.free(record.uid)
                raise NotFound(f"the server of sandbox {record.sandbox_id}'s shared directories has ended") from error
        return self._maker.adopted(vmm, agent, record, lambda record: self.on_record(record), server)

    async def reap_strays(self, keep: frozenset[str]) -> list[str]:
        """End VMMs of this daemon's root that are not in ``keep`` and clear away their files; their ids."""
        killed = await self._hypervisor.reap_strays(keep | self._maker.known)
        await file_server.reap_strays(self._maker.directory, keep | self._maker.known)
        await self._maker.sweep(keep)
        return killed

    def describe(self) -> SandboxesInfo:
        """What is known without asking anybody."""
        info, kernel = self._info, self._boot_image.kernel if self._boot_image else None
        return SandboxesInfo(
            hypervisor=info.name if info else "",
            hypervisor_version=info.version if info else "",
            accelerator=info.accelerator.value if info else "",
            accelerator_reason=info.reason if info else (self._problem.message if self._problem else "being tried"),
            kernel_kind=kernel.kind if kernel else "",
            kernel_release=kernel.release if kernel else "",
            kernel_path=kernel.vmlinux if kernel else None,
            agent_version=self._agent_version,
            template=self._templates.state if self._templates else "switched off: every sandbox is booted",
            pool=self._pool.describe(),
            default_memory_bytes=self._settings.sizing.default_memory_bytes,
            default_cpus=self._settings.sizing.vcpus(
                self._host, emulated=info is None or info.accelerator is not Accelerator.KVM
            ),
            warnings=(*(info.notes if info else ()), *((self._problem.message,) if self._problem else ())),
        )

    async def _prepare(self) -> tuple[BootImage, HypervisorInfo]:
        """Kernel, initramfs and probe, once; tried again as long as something is missing. The pool fills from then
        on."""
        async with self._preparing:
            if self._boot_image is None:
                self._boot_image = await blocking.run(BootImage.prepare, self._settings.guest)
            if self._info is None:
                self._info = await self._hypervisor.probe()
            self._problem = None
            self._pool.open()
            return self._boot_image, self._info

    def _probe_image(self) -> KernelImage:
        assert self._boot_image is not None  # _prepare makes it before it probes
        return self._boot_image.image(emulated=False)


@asynccontextmanager
async def _within(limit_s: float, problem: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(f"{problem} within {limit_s:g} s") from error


def _configuration(config: SandboxConfig) -> Configuration:
    return Configuration(
        hostname=config.hostname,
        time_ns=time.time_ns(),
        entropy=os.urandom(ENTROPY_BYTES),
        interfaces=list(config.interfaces),
        sysctls=dict(config.sysctls),
        machine_id=config.machine_id,
    )
