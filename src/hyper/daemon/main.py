"""``hyperd``: reads the settings and puts everything together. The only place that names concrete classes.

Opened in this order, closed in the reverse: root lock, pid file, sockets bound (so that clients wait instead of
failing), records, images,
network, sandboxes, engine (recovery), then the sockets are served.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from hyper import __version__, config
from hyper.daemon import lifecycle
from hyper.daemon.agent_binary import find_agent
from hyper.daemon.listeners import DataRoot, Listeners, PidFile
from hyper.errors import FailedPrecondition, HyperError, InvalidArgument

if TYPE_CHECKING:
    from hyper.engine.engine import LiveEngine
    from hyper.images.registry.settings import RegistrySettings
    from hyper.images.store import ImageStore
    from hyper.networks.bridge import BridgeNetwork
    from hyper.sandboxes.source import Card
    from hyper.system.database import Database

_log = logging.getLogger(__name__)
SHARED = Path("/var/lib/hyper")
"""What belongs to the host and not to one daemon: guest kernels, and which accelerator really works."""


def main(argv: Sequence[str] | None = None) -> int:
    """The console script; returns the exit status."""
    try:
        settings = config.load(sys.argv[1:] if argv is None else argv, version=f"hyperd {__version__}")
    except HyperError as error:
        return lifecycle.tell_before_logging(error)
    import uvloop

    with lifecycle.logging_to(sys.stderr, level=settings.effective_log_level, form=settings.log_format):
        return lifecycle.run(lambda stop: serve(settings, stop), loop_factory=uvloop.new_event_loop)


async def serve(settings: config.Settings, stop: lifecycle.Stop) -> None:
    """The daemon's whole life."""
    from hyper.api.docker.app import DockerApi
    from hyper.api.http.server import HttpServer
    from hyper.api.metrics import routes as metrics_routes
    from hyper.engine.engine import EngineSettings, LiveEngine
    from hyper.engine.rehearsal import Rehearsal
    from hyper.guest.kernel import KernelSettings
    from hyper.hypervisors.qemu.settings import AcceleratorChoice, QemuSettings
    from hyper.images.registry.client import RegistryClient
    from hyper.images.store import ImageStore
    from hyper.images.writable import WritableDisks
    from hyper.metrics import Metrics
    from hyper.sandboxes.boot_image import GuestSettings
    from hyper.sandboxes.pool import PoolSettings, default_size
    from hyper.sandboxes.sizing import SizingSettings
    from hyper.sandboxes.source import SandboxSettings, SandboxSource
    from hyper.system import memory
    from hyper.system.database import Database
    from hyper.system.identities import UidRange
    from hyper.volumes.store import VolumeStore

    async with AsyncExitStack() as opened:
        root = opened.enter_context(DataRoot.lock(settings.data_root))
        _make_exec_root(settings.exec_root)
        opened.enter_context(PidFile.write(settings.pid_path))
        listeners = opened.enter_context(Listeners.open(settings.api_hosts, settings.group))
        database = Database(settings.data_root / "state.db")
        opened.callback(database.close)
        metrics = Metrics()
        images = await ImageStore.open(settings.data_root, database)
        disks = await WritableDisks.open(settings.data_root)
        volumes = await VolumeStore.open(settings.data_root, database)
        network, network_error = await _network(settings, database, root.root_id, opened)
        first, last = settings.vmm_uid_range
        sizing = SizingSettings(
            default_memory_bytes=settings.default_memory_bytes,
            default_cpus=settings.default_cpus,
        )
        agent = find_agent(settings.agent)
        pool_size = default_size(memory.total_bytes()) if settings.pool_size is None else settings.pool_size
        sandboxes = SandboxSource(
            SandboxSettings(
                runtime_dir=settings.exec_root,
                guest=GuestSettings(
                    kernel=KernelSettings(folder=SHARED / "kernels", configured=settings.kernel),
                    agent=agent,
                    cache=settings.data_root / "boot",
                ),
                qemu=QemuSettings(
                    root_id=root.root_id,
                    state_dir=SHARED / "hypervisor",
                    runtime_dir=settings.exec_root / "vm",  # where strays' folders are swept
                    binary=str(settings.qemu or f"qemu-system-{platform.machine()}"),
                    accelerator=AcceleratorChoice(settings.accel),
                    probe_timeout_s=settings.kvm_timeout_s,
                ),
                sizing=sizing,
                uids=UidRange(first, last - first + 1),
                template_folder=settings.data_root / "templates" if settings.templates else None,
                pool=PoolSettings(pool_size, settings.shared_pool_size),
            ),
            cards=_cards(network),
        )
        sandboxes.rehearse = Rehearsal(
            agent, settings.data_root / "boot", disks, settings.rootfs_size_bytes, settings.default_memory_bytes
        )
        opened.push_async_callback(sandboxes.close)
        registry_client = RegistryClient(registry_settings(settings))
        opened.push_async_callback(registry_client.close)
        engine = LiveEngine(
            EngineSettings(
                id=root.root_id,
                data_root=settings.data_root,
                exec_root=settings.exec_root,
                rootfs_bytes=settings.rootfs_size_bytes,
                live_restore=settings.live_restore,
            ),
            database,
            images,
            disks,
            volumes,
            sandboxes,
            network,
            network_error,
            metrics,
            registry_client,
        )
        await engine.open()
        opened.push_async_callback(_close_engine, engine, settings.live_restore)
        await _builtin_image(images, settings.data_root)
        probing = asyncio.create_task(sandboxes.open(), name="probe")
        opened.push_async_callback(_cancel, probing)
        server = HttpServer(DockerApi(engine, metrics_routes(metrics)))
        opened.push_async_callback(server.close)
        for listener in listeners.sockets:
            await server.listen(listener)
        _log.info("hyperd is ready", extra={"version": __version__, "hosts": " ".join(listeners.addresses)})
        await stop.wait()


def registry_settings(settings: config.Settings) -> RegistrySettings:
    """What of the settings the registry client needs; proxies come from the daemon's environment."""
    from hyper.images.registry.settings import RegistrySettings

    return RegistrySettings(
        mirrors=settings.registry_mirrors,
        insecure=settings.insecure_registries,
        certificates=settings.registry_certs,
        environment=dict(os.environ),
        downloads=settings.max_concurrent_downloads,
        uploads=settings.max_concurrent_uploads,
        attempts=settings.max_download_attempts,
    )


def _make_exec_root(path: Path) -> None:
    try:
        path.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise FailedPrecondition(
            f"the exec root {path} cannot be used ({error.strerror}): "
            "run hyperd as root, or choose another with --exec-root"
        ) from error


async def _network(
    settings: config.Settings, database: Database, root_id: str, opened: AsyncExitStack
) -> tuple[BridgeNetwork | None, str]:
    """The default network, or why there is none: a daemon without it still runs ``--network none``."""
    from hyper.networks.bridge import BridgeNetwork, BridgeSettings

    wanted = BridgeSettings(name=settings.bridge_for(root_id), bip=settings.bip, mtu=settings.mtu)
    try:
        network = await BridgeNetwork.open(database, wanted, root_id)
    except InvalidArgument:
        raise  # a setting is wrong: no machine could make this network
    except HyperError as error:
        _log.warning("no default network: %s", error.message)
        return None, error.message
    opened.push_async_callback(network.close)
    return network, ""


def _cards(network: BridgeNetwork | None) -> Callable[[], Card] | None:
    from hyper.sandboxes.source import Card

    return (lambda: Card(*network.spare_tap())) if network is not None else None


async def _builtin_image(images: ImageStore, data_root: Path) -> None:
    """busybox:latest, made once per data root; whoever removes it does not get it back."""
    from hyper.images import builtin

    mark = data_root / "images" / "builtin"
    if mark.exists():
        return
    try:
        await builtin.install(images)
    except HyperError as error:
        _log.warning("no built-in image: %s", error.message)
        return
    mark.touch()


async def _close_engine(engine: LiveEngine, live_restore: bool) -> None:
    await engine.close(stop_containers=not live_restore)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
