"""After a start of the daemon: take over the containers that still run, record the ends of those that do not, sweep
up the rest.

``kill -9`` may have struck between any two steps, so the order is: records say what should be; live VMMs named by
them are adopted; VMMs, disks,
directories, addresses and rules that no record names are removed. Nothing here trusts that the last daemon finished
what it began.
"""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from hyper.engine.containers import ContainerUseCases
from hyper.engine.layout import Layout
from hyper.engine.log_file import LogWriter
from hyper.engine.managed import Managed
from hyper.engine.model import NetworkAttachment, Status
from hyper.engine.records import EngineRecords
from hyper.engine.registry import ContainerRegistry
from hyper.engine.run import VMM_DIED_EXIT_CODE, Run
from hyper.engine.tasks import TaskSet
from hyper.errors import HyperError, Unavailable
from hyper.guest.messages import ContainerState, ProcessExited, ProcessState
from hyper.images.store import ImageStore
from hyper.images.writable import WritableDisks
from hyper.networks.bridge import BridgeNetwork
from hyper.networks.ports import PortBinding as NetworkBinding
from hyper.sandboxes.source import Sandbox, SandboxRecord, SandboxSource

_log = logging.getLogger(__name__)

TAKEOVER_S = 20.0
"""How long one guest may keep the daemon from serving the others, once its agent has answered."""


class Recovery:
    def __init__(
        self,
        *,
        registry: ContainerRegistry,
        records: EngineRecords,
        layout: Layout,
        images: ImageStore,
        disks: WritableDisks,
        sandboxes: SandboxSource,
        network: BridgeNetwork | None,
        containers: ContainerUseCases,
        tasks: TaskSet,
    ) -> None:
        self._registry = registry
        self._records = records
        self._layout = layout
        self._images = images
        self._disks = disks
        self._sandboxes = sandboxes
        self._network = network
        self._containers = containers
        self._tasks = tasks

    async def run(self) -> None:
        """Everything, before the API answers."""
        sandboxes = self._records.sandboxes()
        live = [managed for managed in self._registry if managed.state.live]
        keep = frozenset(managed.snapshot.sandbox_id for managed in live)
        for stray in await self._sandboxes.reap_strays(keep):
            _log.warning("sandbox %s was nobody's: ended", stray)
        for sandbox_id in sandboxes:
            if sandbox_id not in keep:
                self._records.delete_sandbox(sandbox_id)
        await asyncio.gather(*(self._adopt(managed, sandboxes) for managed in live))
        adopted = {
            managed.id: [
                msgspec.convert(item, NetworkBinding, from_attributes=True) for item in managed.snapshot.bindings
            ]
            for managed in self._registry
            if managed.run is not None
        }
        if self._network is not None:
            await self._network.restore(adopted)
        for managed in self._registry:
            if managed.state.status is Status.REMOVING or (
                managed.snapshot.config.auto_remove and managed.run is None and managed.state.status is Status.EXITED
            ):
                await self._containers.remove_ended(managed)
        await self._sweep()

    async def _adopt(self, managed: Managed, sandboxes: dict[str, bytes]) -> None:
        container = managed.snapshot
        body = sandboxes.get(container.sandbox_id)
        try:
            if body is None:
                self._lost(managed, "its VM was never recorded")
                return
            sandbox = await self._sandboxes.adopt(msgspec.json.decode(body, type=SandboxRecord))
        except HyperError as error:
            self._lost(managed, f"its VM ended while no hyperd was watching: {error.message}")
            self._records.delete_sandbox(container.sandbox_id)
            return
        try:
            async with asyncio.timeout(TAKEOVER_S):
                await self._resume(managed, sandbox)
        except (HyperError, TimeoutError) as error:
            reason = error.message if isinstance(error, HyperError) else "its agent does not answer"
            _log.error("container %s cannot be taken over: %s", container.id[:12], reason)
            await sandbox.destroy(graceful=False)
            self._lost(managed, f"its VM could not be taken over: {reason}")

    async def _resume(self, managed: Managed, sandbox: Sandbox) -> None:
        state = await sandbox.agent.state()
        mine = next((item for item in state.containers if item.id == managed.id), None)
        if mine is None:
            await sandbox.destroy(graceful=False)
            self._lost(managed, "its VM does not know it")
            return
        init = init_of(mine, tty=managed.snapshot.config.tty)
        run = Run(
            container_id=managed.id,
            sandbox=sandbox,
            hub=managed.hub,
            log=LogWriter.resume(self._layout.log(managed.id)),
            stdio=init.stdio,
            tty=init.tty,
        )
        managed.run = run
        run.begin()
        managed.hub.input.set_result(sandbox.agent.input(init.stdio.io, from_offset=None) if init.stdio.stdin else None)
        if mine.status in ("running", "paused"):
            status = Status.PAUSED if mine.status == "paused" else Status.RUNNING
            if status is not managed.state.status:
                self._registry.store(managed, managed.with_state(status=status))
        else:
            run.exited(exit_of(mine, init))
        self._containers.follow(managed, run)
        execs = [process for process in mine.processes if process.process]
        if execs:
            self._tasks.spawn(self._abandon_execs(sandbox, managed.id, execs), name=f"execs of {managed.id[:12]}")

    async def _abandon_execs(self, sandbox: Sandbox, container_id: str, execs: list[ProcessState]) -> None:
        """Their clients went with the old daemon: nobody reads their output any more, and nobody asks for their exits.

        Beside the recovery, for it is the guest that says how many there are and how fast it answers."""
        agent = sandbox.agent
        try:
            for process in execs:
                for number in (process.stdio.io, process.stdio.stderr):
                    if number is not None:
                        agent.drop_output(number, "its client has gone")
                if process.status == "exited":
                    await agent.forget(container_id, process.process)
        except HyperError as error:
            _log.warning("container %s: execs of the daemon before not forgotten: %s", container_id[:12], error)

    def _lost(self, managed: Managed, reason: str) -> None:
        networks = tuple(
            NetworkAttachment(network=item.network, network_id=item.network_id) for item in managed.snapshot.networks
        )
        exited = managed.with_state(
            status=Status.EXITED,
            pid=0,
            exit_code=VMM_DIED_EXIT_CODE,
            error=reason,
            finished_ns=time.time_ns(),
        )
        self._registry.store(managed, msgspec.structs.replace(exited, networks=networks, bindings=()))
        _log.warning("container %s: %s", managed.id[:12], reason)

    async def _sweep(self) -> None:
        """Files and leases of containers that have no record."""
        known = {managed.id for managed in self._registry}
        for disk_id in self._disks.list():
            if disk_id not in known:
                _log.info("writable layer %s is nobody's: removed", disk_id)
                await self._disks.remove(disk_id)
        for container_id in self._layout.known():
            if container_id not in known:
                self._layout.remove(container_id)
        for holder in self._images.lease_holders():
            if holder not in known:
                self._images.release(holder)


def init_of(container: ContainerState, *, tty: bool) -> ProcessState:
    """The container's own process. Unavailable when what the guest tells of it cannot be: it must not stop the daemon
    from starting."""
    inits = [process for process in container.processes if process.process == ""]
    if len(inits) != 1:
        raise Unavailable(f"its agent tells of {len(inits)} processes where there is one")
    [init] = inits
    if init.tty != tty or init.stdio.stderr == init.stdio.io or (init.stdio.stderr is None) != tty:
        raise Unavailable("its agent tells of other streams than the container has")
    return init


def exit_of(container: ContainerState, init: ProcessState) -> ProcessExited:
    """The exit event that a restarted daemon has missed, from the agent's record of it."""
    return ProcessExited(
        id=container.id,
        exec_id="",
        exit_code=init.exit_code if init.exit_code is not None else VMM_DIED_EXIT_CODE,
        signal=init.signal,
        exited_ns=init.exited_ns or time.time_ns(),
        oom_killed=container.oom_killed,
    )
