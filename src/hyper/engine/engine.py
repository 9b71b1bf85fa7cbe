"""The engine, put together: what ``hyper.daemon`` makes and the doors are given. Implements
:class:`hyper.engine.api.Engine`."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from hyper.engine.caretakers import Caretakers
from hyper.engine.commit import CommitUseCases
from hyper.engine.containers import ContainerUseCases
from hyper.engine.events import EventLog
from hyper.engine.execs import ExecUseCases
from hyper.engine.files import FileUseCases
from hyper.engine.health import HealthChecks
from hyper.engine.images import ImageUseCases
from hyper.engine.layout import Layout
from hyper.engine.metrics import EngineMetrics
from hyper.engine.model import EngineInfo, NetworkInfo, Status
from hyper.engine.mounts import Mounts
from hyper.engine.networks import builtin_networks
from hyper.engine.records import EngineRecords
from hyper.engine.recovery import Recovery
from hyper.engine.registries import RegistryUseCases
from hyper.engine.registry import ContainerRegistry
from hyper.engine.starter import Starter
from hyper.engine.tasks import TaskSet
from hyper.engine.volumes import VolumeUseCases
from hyper.errors import NotModified
from hyper.images.registry.client import RegistryClient
from hyper.images.store import ImageStore
from hyper.images.writable import WritableDisks
from hyper.metrics import Metrics
from hyper.networks.bridge import BridgeNetwork
from hyper.sandboxes.source import SandboxSource
from hyper.system.database import Database
from hyper.volumes.store import VolumeStore

_SETTLE_S = 30.0
"""For taking down what has been stopped; each step of it has a limit of its own."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineSettings:
    """What of the daemon's settings the engine itself needs."""

    id: str
    data_root: Path
    exec_root: Path
    rootfs_bytes: int
    live_restore: bool = False


class LiveEngine:
    """One daemon's engine. Made by :meth:`open`; :meth:`close` either stops the containers or leaves them running."""

    def __init__(
        self,
        settings: EngineSettings,
        database: Database,
        images: ImageStore,
        disks: WritableDisks,
        volumes: VolumeStore,
        sandboxes: SandboxSource,
        network: BridgeNetwork | None,
        network_error: str,
        metrics: Metrics,
        registry_client: RegistryClient,
    ) -> None:
        self._settings = settings
        self._store = images
        self._sandboxes = sandboxes
        self._network = network
        self._network_error = network_error
        self._tasks = TaskSet()
        records = EngineRecords(database)
        layout = Layout(settings.data_root)
        self._registry = ContainerRegistry(records)
        self.events = EventLog()
        self.volumes = VolumeUseCases(volumes, lambda: (item.snapshot for item in self._registry), self.events)
        self.execs = ExecUseCases(self._registry, self.events, self._tasks)
        mounts = Mounts(self.volumes, lambda reference: self._registry.find(reference).snapshot)
        starter = Starter(layout, images, disks, mounts, sandboxes, network, network_error, self._registry.find)
        self._caretakers = Caretakers(starter, self._tasks)
        self.files = FileUseCases(self._registry, self._caretakers, self.events)
        health = HealthChecks(self._registry, self.execs, self.events, self._tasks)
        self.containers = ContainerUseCases(
            registry=self._registry,
            layout=layout,
            images=images,
            disks=disks,
            disk_bytes=settings.rootfs_bytes,
            starter=starter,
            caretakers=self._caretakers,
            mounts=mounts,
            volumes=self.volumes,
            network=network,
            events=self.events,
            tasks=self._tasks,
            on_removed=self.execs.forget_container,
            network_ids={one.name: one.id for one in builtin_networks(settings.id, network)},
            default_memory_bytes=sandboxes.default_memory_bytes,
            metrics=EngineMetrics(metrics, self._registry, lambda: len(images.list()), sandboxes.describe),
            health=health,
        )
        self.commits = CommitUseCases(self._registry, images, self.files, self.containers.life, self.events)
        self.images = ImageUseCases(images, self._registry, self.events)
        self.registries = RegistryUseCases(images, registry_client, self.events)
        self._recovery = Recovery(
            registry=self._registry,
            records=records,
            layout=layout,
            images=images,
            disks=disks,
            sandboxes=sandboxes,
            network=network,
            containers=self.containers,
            tasks=self._tasks,
        )
        sandboxes.on_record = lambda record: records.put_sandbox(record.sandbox_id, record.owner, record.encode())
        sandboxes.on_gone = records.delete_sandbox

    async def open(self) -> None:
        """Recover what an earlier daemon left; the doors open after this."""
        await self._recovery.run()

    async def close(self, *, stop_containers: bool) -> None:
        """Stop the containers (all at once, each with its own timeout), or let go of them while they run on."""
        self.containers.life.close()
        # Their clients are gone, and restart policies are the next daemon's; a start under way leaves nothing.
        await self._tasks.cancel("request", "restart")
        await self._caretakers.close()
        if stop_containers:
            live = [managed for managed in self._registry if managed.state.live]
            results = await asyncio.gather(
                *(self.containers.life.stop(managed, timeout_s=None, signal=None, by_user=False) for managed in live),
                return_exceptions=True,
            )
            for managed, result in zip(live, results, strict=True):
                if isinstance(result, BaseException) and not isinstance(result, NotModified):
                    _log.error("container %s could not be stopped", managed.id[:12], exc_info=result)
            await self._tasks.settle("follow", "teardown", "discard", "auto-remove", timeout_s=_SETTLE_S)
        await self._tasks.cancel()
        for managed in self._registry:
            if managed.run is not None:
                await managed.run.abandon()

    def networks(self) -> tuple[NetworkInfo, ...]:
        return builtin_networks(self._settings.id, self._network)

    async def info(self) -> EngineInfo:
        sandboxes = self._sandboxes.describe()
        states = [managed.state.status for managed in self._registry]
        return EngineInfo(
            id=self._settings.id,
            data_root=str(self._settings.data_root),
            exec_root=str(self._settings.exec_root),
            hypervisor=sandboxes.hypervisor,
            hypervisor_version=sandboxes.hypervisor_version,
            accelerator=sandboxes.accelerator,
            accelerator_reason=sandboxes.accelerator_reason,
            kernel_kind=sandboxes.kernel_kind,
            kernel_release=sandboxes.kernel_release,
            kernel_path=str(sandboxes.kernel_path),
            agent_version=sandboxes.agent_version,
            template=sandboxes.template,
            pool=sandboxes.pool,
            storage="EROFS images with an ext4 writable layer each",
            default_memory_bytes=sandboxes.default_memory_bytes,
            default_cpus=sandboxes.default_cpus,
            live_restore=self._settings.live_restore,
            containers_running=states.count(Status.RUNNING),
            containers_paused=states.count(Status.PAUSED),
            containers_stopped=len(states) - states.count(Status.RUNNING) - states.count(Status.PAUSED),
            images=len(self._store.list()),
            warnings=(*sandboxes.warnings, *((self._network_error,) if self._network_error else ())),
        )
