"""The life of a container's process: start, stop, kill, restart, pause, and noticing how it ended; and its next life,
when its restart policy (``restart.py``) says so.

Exits are noticed by a task per run, which records them, tells the waiters and takes the sandbox down behind that.
The process may end in any ``await``: what is recorded behind one is checked against ``managed.run``.
Neighbours: ``starter.py``, ``run.py``; ``containers.py`` (looks containers up and calls this); ``recovery.py`` (puts
runs back after a restart).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

import msgspec

from hyper.engine.events import EventLog
from hyper.engine.health import HealthChecks
from hyper.engine.managed import Managed, restarting
from hyper.engine.metrics import EngineMetrics
from hyper.engine.model import Container, NetworkAttachment, Status
from hyper.engine.output import OutputHub
from hyper.engine.registry import ContainerRegistry
from hyper.engine.restart import Restarting
from hyper.engine.run import DRAIN_S, Run, RunEnd
from hyper.engine.signals import parse_signal
from hyper.engine.starter import Started, Starter, Timeline, start_failure_code
from hyper.engine.tasks import TaskSet
from hyper.engine.volumes import VolumeUseCases
from hyper.errors import Conflict, HyperError, InvalidArgument, NotFound, NotModified
from hyper.networks.bridge import BridgeNetwork

DEFAULT_STOP_TIMEOUT_S = 10
_KILL_WAIT_S = DRAIN_S + 5.0
"""After SIGKILL the guest gets this long, its last output included; then its VM is ended."""

_SIGTERM, _SIGKILL = 15, 9

_log = logging.getLogger(__name__)


class LifeCycle:
    def __init__(
        self,
        *,
        registry: ContainerRegistry,
        starter: Starter,
        network: BridgeNetwork | None,
        volumes: VolumeUseCases,
        events: EventLog,
        tasks: TaskSet,
        remove_ended: Callable[[Managed], Awaitable[None]],
        metrics: EngineMetrics,
        free_disks: Callable[[str], Awaitable[None]],
        health: HealthChecks,
    ) -> None:
        """``remove_ended``: removes a container that has no process, if it still has none. ``free_disks``: takes a
        container's disks from whoever looks at them."""
        self._free_disks = free_disks
        self._registry = registry
        self._starter = starter
        self._network = network
        self._volumes = volumes
        self._events = events
        self._tasks = tasks
        self._remove_ended = remove_ended
        self._metrics = metrics
        self._health = health
        self._closing = False
        # A host full of containers that restart by policy still has processors to start each in good time.
        self._policy_starts = asyncio.Semaphore(2 * (os.cpu_count() or 1))

    def close(self) -> None:
        """The daemon goes: who ends from now on is left to the next one."""
        self._closing = True

    # --- start -------------------------------------------------------------------------------------------------

    async def start(self, managed: Managed) -> Container:
        """The container as it started."""
        async with managed.lock:
            if managed.state.status is Status.PAUSED:
                raise Conflict("cannot start a paused container, try unpause instead")
            if managed.state.up:
                raise NotModified(f"container {managed.snapshot.name} is already running")
            return await self._start(managed)

    async def _start(self, managed: Managed, *, by_policy: bool = False) -> Container:
        """With the lock held."""
        if managed.removing or managed.removed:
            raise Conflict(f"container {managed.id} is marked for removal and cannot be started")
        if managed.teardown is not None:
            await asyncio.shield(managed.teardown)
        await self._free_disks(managed.id)
        if not by_policy:
            managed.restarting = Restarting()
        timeline = Timeline()
        try:
            container = await self._starter.start(
                managed, timeline, lambda started: self._record_start(managed, started, by_policy)
            )
        except BaseException as error:
            managed.hub.end()
            managed.hub = OutputHub()
            if isinstance(error, HyperError):
                self._metrics.failed(timeline.rung, error)
                # As dockerd 20.10: no event, and who waits for the next exit waits on.
                code = start_failure_code(error)
                failed = managed.with_state(exit_code=code, error=error.message, rung="")
                self._registry.note(managed, msgspec.structs.replace(failed, sandbox_id="", timings_ms={}))
                if failed.config.auto_remove:
                    self._tasks.spawn(self._remove_quietly(managed), name="auto-remove")
            raise
        self._metrics.started(container)
        self._volumes.tell(container, "mount")
        self._events.of_container(managed.snapshot, "start")
        return container

    def _record_start(self, managed: Managed, started: Started, by_policy: bool) -> Container:
        running = managed.with_state(
            status=Status.RUNNING,
            pid=started.pid,
            started_ns=started.started_ns,
            finished_ns=0,
            exit_code=0,
            error="",
            oom_killed=False,
            restart_count=managed.state.restart_count if by_policy else 0,
            manually_stopped=False,
            health=self._health.first(managed.snapshot.config),
            rung=started.rung,
        )
        self._registry.store(
            managed,
            msgspec.structs.replace(
                running,
                sandbox_id=started.run.sandbox.id,
                networks=started.networks,
                bindings=started.bindings,
                timings_ms=started.timings_ms,
            ),
        )
        managed.run = started.run
        self.follow(managed, started.run)
        return managed.snapshot

    # --- the end -----------------------------------------------------------------------------------------------

    def follow(self, managed: Managed, run: Run) -> None:
        """From now on, look after this run's health and notice how it ends."""
        if managed.state.status is Status.RUNNING:
            self._health.begin(managed, run)
        self._tasks.spawn(self._follow(managed, run), name=f"follow {managed.id[:12]}")

    async def _follow(self, managed: Managed, run: Run) -> None:
        end = await asyncio.shield(run.ended)
        ran_s = max(0, end.finished_ns - managed.state.started_ns) / 1e9
        delay_s = self._next_start_s(managed, end, ran_s)
        exited = managed.with_state(
            status=Status.EXITED if delay_s is None else Status.RESTARTING,
            restart_count=managed.state.restart_count + (delay_s is not None),
            pid=0,
            exit_code=end.exit_code,
            oom_killed=end.oom_killed,
            error=end.error,
            finished_ns=end.finished_ns,
        )
        managed.run = None
        managed.hub = OutputHub()
        self._health.end(managed)
        managed.teardown = self._tasks.spawn(self._teardown(managed.id, run, end), name=f"teardown {managed.id[:12]}")
        self._registry.note(
            managed, msgspec.structs.replace(exited, networks=_disconnected(exited.networks), bindings=())
        )
        self._metrics.ended(end)
        if end.oom_killed:
            self._events.of_container(managed.snapshot, "oom")
        self._events.of_container(managed.snapshot, "die", exitCode=str(end.exit_code), execDuration=str(int(ran_s)))
        self._volumes.tell(managed.snapshot, "unmount")
        if delay_s is not None:
            self._plan_start(managed, delay_s)
        managed.notify("not-running", "next-exit")
        if managed.snapshot.config.auto_remove:
            await self._remove_quietly(managed)

    # --- restart policies --------------------------------------------------------------------------------------

    def _next_start_s(self, managed: Managed, end: RunEnd, ran_s: float) -> float | None:
        """After how long its policy starts it again; None: not at all."""
        if self._closing or managed.removing:
            return None
        policy = managed.snapshot.config.restart_policy
        return managed.restarting.next_delay_s(policy, managed.state, exit_code=end.exit_code, ran_s=ran_s)

    def start_with_daemon(self, managed: Managed) -> asyncio.Task[None]:
        """Start a container that the last daemon left, as its policy wants it."""
        managed.restarting = Restarting()
        self._registry.note(managed, managed.with_state(status=Status.RESTARTING, restart_count=0))
        return self._plan_start(managed, 0.0)

    def _plan_start(self, managed: Managed, delay_s: float) -> asyncio.Task[None]:
        managed.restart = self._tasks.spawn(self._start_after(managed, delay_s), name=f"restart {managed.id[:12]}")
        return managed.restart

    async def _start_after(self, managed: Managed, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        async with self._policy_starts, managed.lock:
            managed.restart = None  # it has begun: who stops it now waits for it to run
            try:
                await self._start(managed, by_policy=True)
            except Exception:
                self._stay_ended(managed)  # as with Docker, what could not be started is not tried again
                raise

    def give_up(self, managed: Managed) -> bool:
        """Do not start it again, if that is what it waits for; False when it does not."""
        if managed.restart is None:
            return False
        managed.restart.cancel()
        managed.restart = None
        self._stay_ended(managed)
        return True

    def _stay_ended(self, managed: Managed) -> None:
        self._registry.note(managed, managed.with_state(status=Status.EXITED))
        managed.notify("not-running")

    async def _run_to_end(self, managed: Managed) -> tuple[Run | None, bool]:
        """For somebody who wants it to end: its run, once a start under way is over; and whether a start that its
        policy had planned was given up instead."""
        while (run := await managed.present_run()) is None and managed.state.status is Status.RESTARTING:
            if self.give_up(managed):
                return None, True
        return run, False

    def _final(self, managed: Managed, *, by_user: bool = True) -> None:
        """Its next end is not to be followed by a start."""
        managed.restarting.given_up = True
        if by_user and not managed.state.manually_stopped:
            self._registry.note(managed, managed.with_state(manually_stopped=True))

    async def _remove_quietly(self, managed: Managed) -> None:
        """``--rm``, unless it has been restarted in the meantime: then its next end removes it."""
        if managed.run is None:
            await self._remove_ended(managed)

    async def _teardown(self, container_id: str, run: Run, end: RunEnd) -> None:
        """Give everything of a finished run back. Never fails: what cannot be freed now is freed by the next
        daemon's start."""
        if self._network is not None:
            try:
                await self._network.unpublish(container_id)
            except HyperError as error:
                _log.error("container %s: ports not freed: %s", container_id[:12], error)
        await run.finish_execs()
        try:
            await run.pod.leave(container_id, alive=end.sandbox_alive, card=run.has_card)
        except HyperError as error:
            _log.error("container %s: sandbox not freed: %s", container_id[:12], error)
        if self._network is not None:
            self._network.release(container_id)

    # --- signals -----------------------------------------------------------------------------------------------

    async def stop(self, managed: Managed, *, timeout_s: int | None, signal: str | None, by_user: bool = True) -> None:
        """NotModified when it does not run. ``by_user``: not because the daemon stops."""
        number = parse_signal(signal) if signal else self._stop_signal(managed)
        run, given_up = await self._run_to_end(managed)
        if run is None and not given_up:
            raise NotModified(f"container {managed.snapshot.name} is not running")
        self._final(managed, by_user=by_user)
        if run is not None:
            await self._end(managed, run, number, timeout_s)
        self._events.of_container(managed.snapshot, "stop")

    async def _end(self, managed: Managed, run: Run, number: int, timeout_s: int | None) -> None:
        if timeout_s is None:
            configured = managed.snapshot.config.stop_timeout_s
            timeout_s = DEFAULT_STOP_TIMEOUT_S if configured is None else configured
        try:
            async with asyncio.timeout(None if timeout_s < 0 else timeout_s):
                await self._signal(managed, run, number, thaw=True)
                await self._over(managed, run)
        except (TimeoutError, HyperError):
            await self.kill_hard(managed, run)

    async def kill(self, managed: Managed, number: int) -> None:
        """Conflict when it does not run. After SIGKILL it has ended when this returns."""
        may_stop = number == _SIGKILL or self._may_stop(managed, number)
        run, given_up = await self._run_to_end(managed) if may_stop else (await managed.present_run(), False)
        if may_stop and (run is not None or given_up):
            self._final(managed)
        if given_up or managed.state.status is Status.RESTARTING:
            return  # there is no process to signal, and Docker says so to nobody
        if run is None or run.ending:
            raise Conflict(f"cannot kill container: {managed.snapshot.name}: container {managed.id} is not running")
        if number == _SIGKILL:
            await self.kill_hard(managed, run)
            return
        try:
            # Docker thaws a paused container for the signal that may stop it, and keeps any other for later.
            await self._signal(managed, run, number, thaw=may_stop)
        except NotFound as error:
            raise Conflict(
                f"cannot kill container: {managed.snapshot.name}: container {managed.id} is not running"
            ) from error

    async def kill_hard(self, managed: Managed, run: Run) -> None:
        """SIGKILL inside; when the guest does not obey, end the VM. Returns when the end is recorded. It is final."""
        managed.restarting.given_up = True
        try:
            async with asyncio.timeout(_KILL_WAIT_S):
                try:
                    await self._signal(managed, run, _SIGKILL, thaw=True)
                except HyperError as error:
                    _log.debug("container %s: SIGKILL: %s", managed.id[:12], error)  # its end may be under way
                await asyncio.shield(run.ended)
        except TimeoutError:
            _log.warning("container %s did not end on SIGKILL; its VM is ended", managed.id[:12])
            await run.sandbox.destroy(graceful=False)
        await self._over(managed, run)

    async def restart(self, managed: Managed, *, timeout_s: int | None, signal: str | None) -> Container:
        async with managed.lock:
            if managed.run is not None:
                await self.stop(managed, timeout_s=timeout_s, signal=signal)
            elif self.give_up(managed):
                self._events.of_container(managed.snapshot, "stop")
            started = await self._start(managed)
        self._events.of_container(managed.snapshot, "restart")
        return started

    async def _signal(self, managed: Managed, run: Run, number: int, *, thaw: bool) -> None:
        await run.sandbox.agent.signal(managed.id, number)
        self._events.of_container(managed.snapshot, "kill", signal=str(number))
        if thaw and managed.state.status is Status.PAUSED:
            await run.sandbox.agent.resume(managed.id)
            if self._note(managed, run, Status.RUNNING):
                self._events.of_container(managed.snapshot, "unpause")

    async def _over(self, managed: Managed, run: Run) -> None:
        """When this run's end is recorded."""
        if managed.run is run:
            await managed.wait("not-running")

    @staticmethod
    def _stop_signal(managed: Managed) -> int:
        """The image's word for it may be nonsense; that must not keep a container from being stopped."""
        try:
            return parse_signal(managed.snapshot.config.stop_signal or "SIGTERM")
        except InvalidArgument:
            return _SIGTERM

    def _may_stop(self, managed: Managed, number: int) -> bool:
        return not managed.snapshot.config.stop_signal or number == self._stop_signal(managed)

    # --- pause -------------------------------------------------------------------------------------------------

    async def pause(self, managed: Managed) -> None:
        async with managed.lock:
            run = self._running(managed)
            if managed.state.status is Status.PAUSED:
                raise Conflict(f"container {managed.id} is already paused")
            await run.sandbox.agent.pause(managed.id)
            if not self._note(managed, run, Status.PAUSED):
                raise Conflict(f"container {managed.id} is not running")
        self._events.of_container(managed.snapshot, "pause")

    async def unpause(self, managed: Managed) -> None:
        async with managed.lock:
            run = self._running(managed)
            if managed.state.status is not Status.PAUSED:
                raise Conflict(f"container {managed.id} is not paused")
            await run.sandbox.agent.resume(managed.id)
            if not self._note(managed, run, Status.RUNNING):
                raise Conflict(f"container {managed.id} is not running")
        self._events.of_container(managed.snapshot, "unpause")

    def _running(self, managed: Managed) -> Run:
        if managed.run is None:
            if managed.state.status is Status.RESTARTING:
                raise restarting(managed)
            raise Conflict(f"container {managed.id} is not running")
        return managed.run

    def _note(self, managed: Managed, run: Run, status: Status) -> bool:
        """Record it, unless this run has ended in the meantime (whose end must not be written over)."""
        if managed.run is not run:
            return False
        if managed.state.status is not status:
            self._registry.note(managed, managed.with_state(status=status))
            if status is Status.RUNNING:
                self._health.begin(managed, run)
            else:
                self._health.end(managed)
        return True


def _disconnected(networks: tuple[NetworkAttachment, ...]) -> tuple[NetworkAttachment, ...]:
    return tuple(NetworkAttachment(network=item.network, network_id=item.network_id) for item in networks)
