"""From a recorded container to a running process: the one place where image, disks, network, sandbox and agent come
together.

Each resource is registered for release as soon as it exists, so a start that fails or is cancelled at any step leaves
nothing; one that succeeds hands them to the :class:`~hyper.engine.run.Run`. Neighbours: ``runtime.py`` (the OCI spec),
``lifecycle.py`` (who calls it, and takes everything down again).
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import stat
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from hyper.engine.layout import Layout
from hyper.engine.log_file import LogWriter
from hyper.engine.managed import Managed
from hyper.engine.model import Container, ContainerConfig, NetworkAttachment, PortBinding
from hyper.engine.mounts import Mounts
from hyper.engine.pods import Pod, joined_container, joins
from hyper.engine.ports import requested_ports
from hyper.engine.run import Run
from hyper.engine.runtime import runtime_spec
from hyper.errors import (
    Conflict,
    FailedPrecondition,
    HyperError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unsupported,
)
from hyper.guest.messages import Disk, InjectedFile, Rootfs, Stdio
from hyper.images.store import ImageStore
from hyper.images.writable import WritableDisks
from hyper.networks.addresses import Endpoint
from hyper.networks.bridge import BridgeNetwork
from hyper.networks.ports import PortRequest
from hyper.networks.resolver_files import (
    ResolverOptions,
    hostname_file,
    hosts_file,
    read_host_resolv_conf,
    resolv_conf,
)
from hyper.sandboxes.source import Interface, Route, Sandbox, SandboxConfig, SandboxRequest, SandboxSource


@dataclass(frozen=True)
class Started:
    """What a start adds to the container's record."""

    run: Run
    pid: int
    started_ns: int
    networks: tuple[NetworkAttachment, ...]
    bindings: tuple[PortBinding, ...]
    timings_ms: dict[str, float]
    rung: str


_CARETAKER_MEMORY_BYTES = 64 << 20


@dataclass(frozen=True)
class Joined:
    """The pod that a container goes to; by kind of namespace the process, as the sandbox numbers it, whose it joins."""

    pod: Pod
    processes: dict[str, int]
    network: Managed | None
    """Whose network it has."""


_JOINING = {
    "pid": "cannot join PID of a non running container",
    "ipc": "can't join IPC of container",
    "network": "cannot join network of a non running container",
    "uts": "cannot join UTS of a non running container",
}


class Timeline:
    """Milliseconds of each phase, in the order they were reached."""

    rung = ""
    """Where the VM came from, once there is one."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self._began = self._last = time.monotonic()

    def mark(self, phase: str) -> None:
        """The phase that ends now began where the last one ended."""
        now = time.monotonic()
        self.phases[phase] = round((now - self._last) * 1e3, 2)
        self._last = now

    def total(self) -> None:
        self.phases["total"] = round((time.monotonic() - self._began) * 1e3, 2)


class Starter:
    def __init__(
        self,
        layout: Layout,
        images: ImageStore,
        disks: WritableDisks,
        mounts: Mounts,
        sandboxes: SandboxSource,
        network: BridgeNetwork | None,
        network_error: str,
        find: Callable[[str], Managed],
    ) -> None:
        """``find``: a container by its ID."""
        self._find = find
        self._layout = layout
        self._images = images
        self._disks = disks
        self._mounts = mounts
        self._sandboxes = sandboxes
        self._network = network
        self._network_error = network_error

    async def start(self, managed: Managed, timeline: Timeline, record: Callable[[Started], Container]) -> Container:
        """Run it. Raises what stands in the way, with nothing left behind; the agent's refusals keep their kinds.

        ``record`` is called when it runs and owns the run from then on; should it fail, the start has failed. What it
        returns is returned."""
        container = managed.snapshot
        async with AsyncExitStack() as undo:
            undo.enter_context(self._sandboxes.starting())
            with _not_the_programs_fault():
                check_limited_devices(container.config)
                joined = self._joined(container.config)
                if joined and container.mounts:
                    raise Unsupported(
                        f"container {container.name} cannot have volumes or binds in another one's VM yet: a VM is "
                        "made for them, or not"
                    )
                endpoint = self._endpoint(container, undo)
                timeline.mark("address")
                pod = joined.pod if joined else await self._pod(container, endpoint, undo)
                sandbox = pod.sandbox
                pod.enter(container.id, container.config.memory_bytes or None, cpus(container.config))
                undo.push_async_callback(pod.leave, container.id, alive=joined is not None)
                if joined:
                    await pod.make_room()
                    timeline.rung = "pod"
                else:
                    timeline.rung = sandbox.rung
                    timeline.phases |= {f"sandbox.{name}": value for name, value in sandbox.timings.items()}
                timeline.mark("sandbox")
                if endpoint is not None and self._network is not None:
                    self._network.connect(endpoint, sandbox.card)
                    timeline.mark("network")
                rootfs = await self._rootfs(container, partial(pod.attach_disk, container.id))
                timeline.mark("disks")
                share = None
                if container.mounts:
                    share = await sandbox.share(self._mounts.trees(container))
                    timeline.mark("share")
            agent = sandbox.agent
            stdio = Stdio(
                io=agent.new_stream(),
                stderr=None if container.config.tty else agent.new_stream(),
                stdin=container.config.open_stdin,
            )
            run = Run(
                container_id=container.id,
                pod=pod,
                hub=managed.hub,
                log=LogWriter.begin(self._layout.log(container.id)),
                stdio=stdio,
                tty=container.config.tty,
                has_card=endpoint is not None,
            )
            pod.add(run)
            undo.push_async_callback(run.abandon)
            run.begin()
            pid = await agent.create(
                container.id,
                runtime_spec(
                    container,
                    default_memory_bytes=self._sandboxes.default_memory_bytes,
                    joined=joined.processes if joined else None,
                ),
                rootfs,
                self._files(container, endpoint, joined),
                stdio,
                ephemeral=container.config.auto_remove,
                share=share,
            )
            timeline.mark("agent.create")
            bindings = await self._publish(container, endpoint, undo)
            started_ns = await agent.start(container.id)
            timeline.mark("agent.start")
            timeline.total()
            networks = self._networks(container, endpoint)
            recorded = record(Started(run, pid, started_ns, networks, bindings, timeline.phases, timeline.rung))
            undo.pop_all()
        managed.hub.input.set_result(agent.input(stdio.io) if container.config.open_stdin else None)
        return recorded

    def _networks(self, container: Container, endpoint: Endpoint | None) -> tuple[NetworkAttachment, ...]:
        return tuple(
            NetworkAttachment(
                network=attachment.network,
                network_id=attachment.network_id,
                endpoint_id=secrets.token_hex(32) if endpoint else "",
                mac_address=endpoint.mac if endpoint else "",
                address=str(endpoint.address) if endpoint else "",
                prefix_length=endpoint.prefix_length if endpoint else 0,
                gateway=str(endpoint.gateway) if endpoint else "",
            )
            for attachment in container.networks
        )

    def _endpoint(self, container: Container, undo: AsyncExitStack) -> Endpoint | None:
        if container.config.network_mode == "none" or joins(container.config):
            return None
        if self._network is None:
            raise FailedPrecondition(
                f"container {container.name} wants the default network, which this daemon has not: "
                f"{self._network_error}; use --network none"
            )
        endpoint = self._network.allocate(container.id)
        undo.callback(self._network.release, container.id)
        return endpoint

    def _joined(self, config: ContainerConfig) -> Joined | None:
        """Whose pod it goes to; None: to one of its own. Conflict, in dockerd's words, when that does not run."""
        found = {}
        pods = set()
        for kind, named in joins(config).items():
            try:
                managed = found[kind] = self._find(named)
            except NotFound as error:
                raise NotFound(f"{_JOINING[kind]} {named}: {error.message}") from error
            if managed.run is None or managed.run.ending:
                raise Conflict(f"{_JOINING[kind]} {managed.id}: container {managed.id} is not running")
            if kind == "ipc" and managed.snapshot.config.ipc_mode in ("private", "none"):
                raise InvalidArgument(
                    f"{_JOINING[kind]} {managed.id}: non-shareable IPC "
                    "(hint: use IpcMode:shareable for the donor container)"
                )
            pods.add(managed.run.pod)
        if not pods:
            return None
        if len(pods) > 1:
            raise Unsupported("namespaces of containers in different VMs cannot be joined: a container is in one VM")
        processes = {kind: managed.state.pid for kind, managed in found.items()}
        return Joined(pods.pop(), processes, found.get("network"))

    def _files(self, container: Container, endpoint: Endpoint | None, joined: Joined | None) -> list[InjectedFile]:
        """Who has another container's network has its names, too."""
        owner = joined.network if joined else None
        while owner is not None:
            container = owner.snapshot
            if (named := joined_container(container.config.network_mode)) is None:
                if self._network is not None and any(one.address for one in container.networks):
                    endpoint = self._network.allocate(container.id)
                break
            owner = self._find(named)
        return injected_files(container, endpoint)

    async def _pod(self, container: Container, endpoint: Endpoint | None, undo: AsyncExitStack) -> Pod:
        config = container.config
        interfaces: tuple[Interface, ...] = ()
        if endpoint:
            interfaces = (
                Interface(
                    mac=endpoint.mac,
                    name="eth0",
                    mtu=self._network.settings.mtu if self._network else 1500,
                    addresses=[f"{endpoint.address}/{endpoint.prefix_length}"],
                    routes=[Route(to="default", via=str(endpoint.gateway))],
                ),
            )
        # Recorded as the container's own only once it runs: a VM that a killed daemon was still starting is a stray for
        # the next one.
        sandbox = await self._sandboxes.acquire(
            SandboxRequest(
                owner=container.owner,
                memory_bytes=config.memory_bytes or None,
                cpus=cpus(config),
                configure=SandboxConfig(
                    hostname=config.hostname,
                    interfaces=interfaces,
                    sysctls={},
                    machine_id=container.id[:32],
                ),
                shared_memory=bool(container.mounts),
            )
        )
        undo.push_async_callback(sandbox.destroy, graceful=False)
        return Pod(sandbox, self._sandboxes.default_memory_bytes)

    async def attend(self, container: Container) -> tuple[Sandbox, Rootfs]:
        """A sandbox with the container's disks that nothing runs in, and where the agent finds them; for
        ``caretakers.py``, who ends it."""
        sandbox = await self._sandboxes.acquire(
            SandboxRequest(
                owner=container.owner,
                memory_bytes=_CARETAKER_MEMORY_BYTES,
                cpus=None,
                configure=SandboxConfig(hostname="caretaker"),
            )
        )
        try:
            return sandbox, await self._rootfs(container, sandbox.attach_disk)
        except BaseException:
            await asyncio.shield(sandbox.destroy(graceful=False))
            raise

    async def _rootfs(self, container: Container, attach: Callable[..., Awaitable[dict[str, Any]]]) -> Rootfs:
        writable = self._disks.path(container.id)
        *layers, top = await asyncio.gather(
            *(attach(disk, fs="erofs", readonly=True) for disk in self._images.leased_disks(container.id)),
            attach(writable, fs="ext4", readonly=False),
        )
        return Rootfs(
            layers=[msgspec.convert(layer, Disk) for layer in layers],
            writable=msgspec.convert(top, Disk),
            readonly=container.config.readonly_rootfs,
        )

    async def _publish(
        self, container: Container, endpoint: Endpoint | None, undo: AsyncExitStack
    ) -> tuple[PortBinding, ...]:
        requests = requested_ports(container.config)
        if not requests or endpoint is None or self._network is None:
            return ()
        undo.push_async_callback(self._network.unpublish, container.id)
        wanted = [msgspec.convert(request, PortRequest, from_attributes=True) for request in requests]
        bindings = await self._network.publish(container.id, wanted, name=container.name)
        return tuple(msgspec.convert(binding, PortBinding, from_attributes=True) for binding in bindings)


def injected_files(container: Container, endpoint: Endpoint | None) -> list[InjectedFile]:
    """What the engine puts into a container's file system."""
    config = container.config
    contents = {
        "/.dockerenv": b"",  # by which programs tell that they run in a container
        "/etc/hostname": hostname_file(config.hostname),
        "/etc/hosts": hosts_file(
            hostname=config.hostname,
            domain_name=config.domainname,
            address=endpoint.address if endpoint else None,
            extra_hosts=config.extra_hosts,
            gateway=endpoint.gateway if endpoint else None,
        ),
        "/etc/resolv.conf": resolv_conf(
            read_host_resolv_conf(),
            ResolverOptions(servers=config.dns, search=config.dns_search, options=config.dns_options),
        ),
    }
    own = {mount.destination for mount in container.mounts}  # a user's file at such a place is the one to see
    return [InjectedFile(path, content) for path, content in contents.items() if path not in own]


def check_limited_devices(config: ContainerConfig) -> None:
    """The devices that I/O limits name are the host's, as with Docker, in whose words their absence is told; the limits
    hold for the container's disks, which are files there."""
    members = ("read_bytes_per_s", "write_bytes_per_s", "read_operations_per_s", "write_operations_per_s")
    for limit in (limit for member in members for limit in getattr(config, member)):
        try:
            mode = os.stat(limit.path).st_mode
        except OSError as error:
            raise InvalidArgument(f"stat {limit.path}: {os.strerror(error.errno or 0).lower()}") from error
        if not stat.S_ISBLK(mode):
            raise InvalidArgument(f"limits on {limit.path} cannot be held: it is no block device")


def cpus(config: ContainerConfig) -> int | None:
    """How many processors its VM must have, those that ``cpuset_cpus`` names among them; None: the default."""
    wanted = config.nano_cpus / 1e9
    if not wanted and config.cpu_quota_us > 0:
        # Any quota goes, as with Docker: one beyond the host's processors is no limit.
        wanted = min(config.cpu_quota_us / (config.cpu_period_us or 100_000), os.cpu_count() or 1)
    if config.cpuset_cpus:
        wanted = max(wanted, 1 + max(int(number) for number in config.cpuset_cpus.replace("-", ",").split(",")))
    return math.ceil(wanted) or None


@contextmanager
def _not_the_programs_fault() -> Iterator[None]:
    """NotFound and PermissionDenied are kept for the user's program (exit codes 127 and 126): a missing kernel is
    another thing."""
    try:
        yield
    except (NotFound, PermissionDenied) as error:
        raise FailedPrecondition(error.message) from error


def start_failure_code(error: HyperError) -> int:
    """The exit code that Docker records when a process could not be started (chroot(1)'s convention)."""
    if isinstance(error, NotFound):
        return 127
    return 126 if isinstance(error, PermissionDenied) else 128
