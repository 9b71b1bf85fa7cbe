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
from pathlib import Path

import msgspec

from hyper.engine.containers import ContainerUseCases
from hyper.engine.layout import Layout
from hyper.engine.log_file import LogWriter
from hyper.engine.managed import Managed
from hyper.engine.model import NetworkAttachment, Status
from hyper.engine.output import OutputHub
from hyper.engine.pods import Pod, joins
from hyper.engine.records import EngineRecords
from hyper.engine.registry import ContainerRegistry
from hyper.engine.restart import starts_with_daemon
from hyper.engine.run import VMM_DIED_EXIT_CODE, Run
from hyper.engine.starter import cpus
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

STARTS_S = 20.0
"""How long the first requests wait for containers that restart policies start with the daemon."""


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
        pods: dict[str, list[Managed]] = {}
        for managed in live:
            pods.setdefault(managed.snapshot.sandbox_id, []).append(managed)
        await asyncio.gather(*(self._adopt(sandbox_id, members, sandboxes) for sandbox_id, members in pods.items()))
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
            if managed.snapshot.config.auto_remove and managed.state.status is Status.EXITED:
                await self._containers.remove_ended(managed)
        await self._sweep()
        await self._start_by_policy()

    async def _start_by_policy(self) -> None:
        """Containers that ended with the last daemon or after it, or waited for their next start."""
        wanted = []
        for managed in self._registry:
            state = managed.state
            if not state.live and starts_with_daemon(managed.snapshot.config.restart_policy, state):
                wanted.append(managed)
            elif state.status is Status.RESTARTING:  # by a policy that was changed while it waited
                self._registry.note(managed, managed.with_state(status=Status.EXITED))
        # Who joins another one comes after it. Docker's users find all of them running as soon as the daemon answers;
        # but it answers in any case.
        for joining in (False, True):
            chosen = [managed for managed in wanted if bool(joins(managed.snapshot.config)) is joining]
            starts = [self._containers.life.start_with_daemon(managed) for managed in chosen]
            if starts:
                await asyncio.wait(starts, timeout=STARTS_S)

    async def _adopt(self, sandbox_id: str, members: list[Managed], sandboxes: dict[str, bytes]) -> None:
        """A sandbox and the containers that run in it."""
        body = sandboxes.get(sandbox_id)
        try:
            if body is None:
                self._all_lost(members, "its VM was never recorded")
                return
            sandbox = await self._sandboxes.adopt(msgspec.json.decode(body, type=SandboxRecord))
        except (HyperError, msgspec.MsgspecError) as error:
            self._all_lost(members, f"its VM ended while no hyperd was watching: {error}")
            self._records.delete_sandbox(sandbox_id)
            return
        try:
            async with asyncio.timeout(TAKEOVER_S):
                await self._resume(members, sandbox)
        except (HyperError, TimeoutError, OSError) as error:
            reason = "its agent does not answer" if isinstance(error, TimeoutError) else str(error)
            _log.error("sandbox %s cannot be taken over: %s", sandbox_id[:12], reason)
            for managed in members:
                if managed.run is not None:
                    await managed.run.abandon()
                    managed.run, managed.hub = None, OutputHub()
            await sandbox.destroy(graceful=False)
            self._all_lost(members, f"its VM could not be taken over: {reason}")

    async def _resume(self, members: list[Managed], sandbox: Sandbox) -> None:
        state = await sandbox.agent.state()
        there = {item.id: item for item in state.containers}
        known = [managed for managed in members if managed.id in there]
        self._all_lost([managed for managed in members if managed.id not in there], "its VM does not know it")
        if not known:
            await sandbox.destroy(graceful=False)
            return
        pod = Pod(sandbox, self._sandboxes.default_memory_bytes)
        inits = {managed.id: init_of(there[managed.id], tty=managed.snapshot.config.tty) for managed in known}
        for managed in known:
            init, config = inits[managed.id], managed.snapshot.config
            pod.enter(managed.id, config.memory_bytes or None, cpus(config))
            managed.run = Run(
                container_id=managed.id,
                pod=pod,
                hub=managed.hub,
                log=LogWriter.resume(self._layout.log(managed.id)),
                stdio=init.stdio,
                tty=init.tty,
                has_card=any(attachment.address for attachment in managed.snapshot.networks),
            )
        pod.add(*(managed.run for managed in known if managed.run is not None))
        # What an earlier daemon had no time to take out of a sandbox that goes on with others.
        for stranger in there.keys() - {managed.id for managed in known}:
            await sandbox.agent.delete(stranger)
        await pod.take_over({managed.id: self._disks_of(managed.id) for managed in known})
        for managed in known:
            if managed.run is not None:
                self._follow(managed, managed.run, there[managed.id], inits[managed.id])

    def _disks_of(self, container_id: str) -> list[Path]:
        return [*self._images.leased_disks(container_id), self._disks.path(container_id)]

    def _follow(self, managed: Managed, run: Run, mine: ContainerState, init: ProcessState) -> None:
        run.begin()
        agent = run.sandbox.agent
        managed.hub.input.set_result(agent.input(init.stdio.io, from_offset=None) if init.stdio.stdin else None)
        if mine.status in ("running", "paused"):
            status = Status.PAUSED if mine.status == "paused" else Status.RUNNING
            if status is not managed.state.status:
                self._registry.store(managed, managed.with_state(status=status))
        else:
            run.exited(exit_of(mine, init))
        self._containers.life.follow(managed, run)
        for process in mine.processes:
            if process.process:
                self._abandon_exec(run, process)

    def _all_lost(self, members: list[Managed], reason: str) -> None:
        for managed in members:
            self._lost(managed, reason)

    def _abandon_exec(self, run: Run, process: ProcessState) -> None:
        """Its client went with the old daemon: nobody reads its output any more (the agent throws it away, so that it
        is not held up), and nobody asks for its exit."""
        for number in (process.stdio.io, process.stdio.stderr):
            if number is not None and number not in (run.stdio.io, run.stdio.stderr):
                run.sandbox.agent.drop_output(number, "its client has gone")
        if process.status != "exited":
            run.exec_ends[process.process] = asyncio.get_running_loop().create_future()
        # Beside the recovery, for it is the guest that says how many there are and how fast it answers.
        task = self._tasks.spawn(self._forget_exec(run, process.process), name=f"exec {process.process[:12]}")
        run.exec_tasks.add(task)
        task.add_done_callback(run.exec_tasks.discard)

    async def _forget_exec(self, run: Run, exec_id: str) -> None:
        try:
            if exec_id in run.exec_ends:
                await asyncio.shield(run.exec_ends[exec_id])
                run.exec_ends.pop(exec_id, None)
            await run.sandbox.agent.forget(run.container_id, exec_id)
        except HyperError as error:
            _log.debug("exec %s: %s", exec_id[:12], error)  # its container has ended

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
        self._registry.note(managed, msgspec.structs.replace(exited, networks=networks, bindings=()))
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
    if container.status == "created":
        raise Unavailable("its agent says that it was never started")
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
