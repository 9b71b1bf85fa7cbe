"""Makes sandboxes of every kind - booted, cloned, to become a template - and knows all that live.

A sandbox that is made belongs to nobody yet and is announced to nobody: the source hands it out, the pool keeps it, or
the template's builder saves it. Neighbours: ``launch.py`` (starts it), ``supervisor.py`` (what is made).
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hyper.guest.agent import Agent
from hyper.hypervisors.base import KernelImage, MachineSpec, MemoryFile, Nic, SavedState, Vmm
from hyper.sandboxes.launch import Launcher
from hyper.sandboxes.model import Card, Rung, SandboxRecord
from hyper.sandboxes.sizing import Size
from hyper.sandboxes.supervisor import Sandbox, Serve
from hyper.system import blocking
from hyper.system.identities import Identities
from hyper.volumes.file_server import FileServer

FIRST_MAC = "02:00:00:00:00:01"
"""What a card has until its sandbox is told who it is."""


@dataclass(frozen=True)
class Shape:
    """What a template fixes for its clones."""

    image: KernelImage
    size: Size
    card: bool
    """Whether the machine has a network card."""
    mac: str = FIRST_MAC
    """The card's, as far as it is known before the machine runs."""


class SandboxMaker:
    """``directory`` gets a folder per sandbox; ``cards`` makes taps (None: this daemon has no network)."""

    def __init__(
        self,
        launcher: Launcher,
        identities: Identities,
        directory: Path,
        cards: Callable[[], Card] | None,
        size: Callable[[int | None, float | None], Size],
        on_gone: Callable[[str], None],
        serve: Serve = FileServer.start,
    ) -> None:
        self.launcher = launcher
        self.live: dict[str, Sandbox] = {}
        self._identities = identities
        self._directory = directory
        self._cards = cards
        self._size = size
        self._on_gone = on_gone
        self._serve = serve
        self._making: set[str] = set()

    @property
    def has_cards(self) -> bool:
        return self._cards is not None

    @property
    def known(self) -> frozenset[str]:
        """The sandboxes that are being made or live."""
        return frozenset(self._making | self.live.keys())

    @property
    def directory(self) -> Path:
        return self._directory

    def runtime_dir(self, sandbox_id: str) -> Path:
        return self._directory / sandbox_id

    async def make(
        self, shape: Shape, rung: Rung, memory_file: MemoryFile | None = None, restore: SavedState | None = None
    ) -> Sandbox:
        """A running sandbox whose agent answers and knows nothing yet. Leaves nothing behind when it fails."""
        sandbox_id = secrets.token_hex(16)
        self._making.add(sandbox_id)
        try:
            uid = self._identities.allocate()
            try:
                card = self._cards() if shape.card and self._cards is not None else None
                nics = (Nic(shape.mac, card.tap_fd),) if card else ()
                spec = replace(self._spec(sandbox_id, uid, shape, nics), memory_file=memory_file, restore=restore)
                vmm, agent, timings = await self.launcher.start(spec)
            except BaseException:
                self._identities.free(uid)
                raise
            record = SandboxRecord(
                sandbox_id=sandbox_id,
                owner="",
                pid=vmm.identity.pid,
                start_time=vmm.identity.start_time,
                boot_id=vmm.identity.boot_id,
                uid=spec.uid,
                memory_bytes=spec.memory_bytes,
                max_memory_bytes=spec.max_memory_bytes,
                cpus=spec.cpus,
                max_cpus=spec.max_cpus,
                cloned=restore is not None,
            )
            sandbox = Sandbox(
                vmm,
                agent,
                record,
                spec.runtime_dir,
                timings,
                card=card.name if card else "",
                rung=rung,
                size=self._size,
                on_end=self._ended,
                serve=self._serve,
            )
            self.live[sandbox_id] = sandbox
            return sandbox
        finally:
            self._making.discard(sandbox_id)

    def adopted(
        self,
        vmm: Vmm,
        agent: Agent,
        record: SandboxRecord,
        on_record: Callable[[SandboxRecord], None],
        file_server: FileServer | None,
    ) -> Sandbox:
        """One of an earlier daemon, which had given it out."""
        sandbox = Sandbox(
            vmm,
            agent,
            record,
            self.runtime_dir(record.sandbox_id),
            {},
            card="",
            rung="cold",
            size=self._size,
            on_end=self._ended,
            file_server=file_server,
        )
        self.live[sandbox.id] = sandbox
        sandbox.give_out(record.owner, on_record)
        return sandbox

    def likeness(self, shape: Shape) -> MachineSpec:
        """A machine of this shape that has nothing of its own, for comparing."""
        nics = (Nic(FIRST_MAC, -1),) if shape.card else ()
        return self._spec("", 0, shape, nics)

    def _spec(self, sandbox_id: str, uid: int, shape: Shape, nics: tuple[Nic, ...]) -> MachineSpec:
        return MachineSpec(
            sandbox_id=sandbox_id,
            runtime_dir=self.runtime_dir(sandbox_id),
            image=shape.image,
            memory_bytes=shape.size.memory_bytes,
            max_memory_bytes=shape.size.max_memory_bytes,
            cpus=shape.size.cpus,
            max_cpus=shape.size.max_cpus,
            uid=uid,
            nics=nics,
        )

    async def clear(self, sandbox_id: str) -> None:
        """Remove what a sandbox that is gone left in the file system."""
        await blocking.run(shutil.rmtree, self.runtime_dir(sandbox_id), ignore_errors=True)

    async def sweep(self, keep: frozenset[str]) -> None:
        """The same for all that are neither in ``keep`` nor known here."""
        for entry in await blocking.run(lambda: list(self._directory.iterdir())):
            if entry.name not in keep and entry.name not in self.known:
                await blocking.run(shutil.rmtree, entry, ignore_errors=True)

    def _ended(self, record: SandboxRecord, announced: bool) -> None:
        self.live.pop(record.sandbox_id, None)
        self._identities.free(record.uid)
        if announced:
            self._on_gone(record.sandbox_id)
