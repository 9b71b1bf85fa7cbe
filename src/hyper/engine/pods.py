"""A pod: a sandbox and the containers in it, which come and go.

A plain ``run`` makes a pod of one. A container that joins another's namespaces (``--pid container:X`` and its like)
goes into X's pod: its disks are plugged into the running VM, its namespaces are those of X's process. The sandbox
belongs to no single container: it ends with the last one, and whoever leaves before has his disks unplugged, so that
they can go to another VM. What was X's alone goes with X: its network, and the processes in its PID namespace.

Neighbours: ``starter.py`` (makes and joins pods), ``run.py`` (a container's life in one), ``recovery.py`` (makes them
again after a restart: containers whose records name one sandbox).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyper.engine.model import ContainerConfig
from hyper.errors import Conflict, HyperError, NotFound
from hyper.guest.messages import Configuration, Event, ProcessExited
from hyper.sandboxes.model import FileSystem
from hyper.sandboxes.source import Sandbox

if TYPE_CHECKING:
    from hyper.engine.run import Run

_CONTAINER = "container:"
_log = logging.getLogger(__name__)


def joined_container(mode: str) -> str | None:
    """The container that a mode of Docker's names: "container:ID"."""
    return mode.removeprefix(_CONTAINER) if mode.startswith(_CONTAINER) else None


def joins(config: ContainerConfig) -> dict[str, str]:
    """Whose namespaces it joins: kind of namespace, as the runtime spec calls it, to container."""
    modes = {
        "pid": config.pid_mode,
        "ipc": config.ipc_mode,
        "network": config.network_mode,
        "uts": config.uts_mode,
    }
    return {kind: named for kind, mode in modes.items() if (named := joined_container(mode)) is not None}


@dataclass
class _Member:
    """A container in the pod. ``memory_bytes`` and ``cpus``: its limits, None without."""

    memory_bytes: int | None = None
    cpus: float | None = None
    disks: list[Path] = field(default_factory=list)
    run: Run | None = None
    """None while it is being started."""


class Pod:
    """See the module. ``default_memory_bytes``: of a container without a limit of its own."""

    def __init__(self, sandbox: Sandbox, default_memory_bytes: int) -> None:
        self.sandbox = sandbox
        self._default_memory_bytes = default_memory_bytes
        self._members: dict[str, _Member] = {}
        self._ending = False

    # -- coming

    def enter(self, container_id: str, memory_bytes: int | None, cpus: float | None) -> None:
        """From now on the sandbox is kept for this container, until :meth:`leave`. Conflict when it is on its way
        out."""
        if self._ending:
            raise Conflict(f"the VM {self.sandbox.id} is ending: start its container again")
        self._members[container_id] = _Member(memory_bytes, cpus)

    async def make_room(self) -> None:
        """For all that are in it."""
        await self.resize({})

    async def resize(self, changes: Mapping[str, tuple[int | None, float | None]]) -> None:
        """Make room for members' new limits; they have them when this returns."""
        limits = {name: changes.get(name, (one.memory_bytes, one.cpus)) for name, one in self._members.items()}
        memory = [memory_bytes for memory_bytes, _ in limits.values()]
        memory_bytes = memory[0] if len(memory) == 1 else sum(one or self._default_memory_bytes for one in memory)
        wanted = [cpus for _, cpus in limits.values() if cpus is not None]
        # Together they can want more than the host has, but none of them may.
        together = max(*wanted, min(sum(wanted), os.cpu_count() or 1)) if wanted else None
        await self.sandbox.resize(memory_bytes, together)
        for name, (one, cpus) in changes.items():
            if (member := self._members.get(name)) is not None:
                member.memory_bytes, member.cpus = one, cpus

    async def attach_disk(self, container_id: str, path: Path, *, fs: FileSystem, readonly: bool) -> dict[str, Any]:
        """As the sandbox's; the disk is the container's until it leaves."""
        self._members[container_id].disks.append(path)
        return await self.sandbox.attach_disk(path, fs=fs, readonly=readonly)

    def add(self, *runs: Run) -> None:
        """What the guest tells of these containers goes to these runs. All of an adopted sandbox's at once: an event
        for one that comes later would be lost."""
        for run in runs:
            self._members[run.container_id].run = run
        if self.sandbox.agent.on_event is None:
            self.sandbox.agent.on_event = self._on_event

    async def take_over(self, disks: Mapping[str, Iterable[Path]]) -> None:
        """Of a restarted daemon: unplug what belongs to none of these members any more, by container."""
        wanted: dict[str, int] = {}
        for container_id, paths in disks.items():
            self._members[container_id].disks = list(paths)
            for path in self._members[container_id].disks:
                wanted[str(path)] = wanted.get(str(path), 0) + 1
        for disk in self.sandbox.record.disks:
            for _ in range(disk.users - wanted.get(disk.path, 0)):
                await self.sandbox.detach_disk(Path(disk.path))

    # -- going

    async def leave(self, container_id: str, *, alive: bool, card: bool = False) -> None:
        """The container has ended, or its start has failed: nothing of it stays. ``alive``: the guest answers;
        ``card``: the sandbox's network was this container's. HyperError when the sandbox cannot be ended."""
        member = self._members.pop(container_id, None)
        if member is None:
            return
        if self._members and alive and not self._ending:
            try:
                await self._remove(container_id, member, card=card)
                return
            except HyperError as error:
                # Its disks may be another VM's next: better no pod than one that still writes to them.
                _log.error("container %s: its pod is ended, which does not let go: %s", container_id[:12], error)
                alive = False
        self._ending = True
        await self.sandbox.destroy(graceful=alive)

    async def _remove(self, container_id: str, member: _Member, *, card: bool) -> None:
        agent = self.sandbox.agent
        try:
            await agent.delete(container_id)
        except NotFound:
            pass  # its create has failed
        for path in member.disks:
            try:
                await self.sandbox.detach_disk(path)
            except NotFound:
                pass  # the start failed before it was plugged
        if card:
            await agent.configure(Configuration(interfaces=[]))

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ProcessExited):
            member = self._members.get(event.id)
            if member is not None and member.run is not None:
                member.run.told(event)
