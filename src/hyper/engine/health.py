"""Health checks: while a container runs, its check is run in it every so often, as an exec.

The rules are dockerd's. A check's exit code 0 makes the container healthy; so many others in a row (``retries``) make
it unhealthy, but those of the start period, while it has not been healthy yet, do not count. A check that takes longer
than its timeout is killed. Checks pause with the container, and end with its run. Neighbours: ``lifecycle.py`` (says
when it runs), ``execs.py`` (runs the checks).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec

from hyper.engine.events import EventLog
from hyper.engine.execs import ExecUseCases
from hyper.engine.managed import Managed
from hyper.engine.model import ContainerConfig, ContainerState, ExecConfig, Health, HealthCheck, HealthResult
from hyper.engine.registry import ContainerRegistry
from hyper.engine.run import Run
from hyper.engine.tasks import TaskSet
from hyper.errors import HyperError, InvalidArgument

KEPT_RESULTS = 5
OUTPUT_BYTES = 4096
START_TIMEOUT_S = 30.0
"""For bringing a check to run, which is not its own time."""
_INTERVAL_NS = 30_000_000_000
_TIMEOUT_NS = 30_000_000_000
_START_INTERVAL_NS = 5_000_000_000
_RETRIES = 3
_SHORTEST_NS = 1_000_000
_KINDS = ("NONE", "CMD", "CMD-SHELL")
_SHELL = ("/bin/sh", "-c")
_SIGKILL = 9


# --- the rules, pure ---------------------------------------------------------------------------------------------


def check(asked: HealthCheck | None) -> None:
    """InvalidArgument in dockerd's words; also for a kind of test that dockerd would only warn of in its log."""
    if asked is None or not asked.test:
        return
    if asked.test[0] not in _KINDS:
        raise InvalidArgument(f'unknown type "{asked.test[0][:64]}" in Healthcheck: use CMD, CMD-SHELL or NONE')
    for name, value_ns in (
        ("Interval", asked.interval_ns),
        ("Timeout", asked.timeout_ns),
        ("StartPeriod", asked.start_period_ns),
        ("StartInterval", asked.start_interval_ns),
    ):
        if value_ns != 0 and value_ns < _SHORTEST_NS:
            raise InvalidArgument(f"{name} in Healthcheck cannot be less than 1ms")
    if asked.retries < 0:
        raise InvalidArgument("Retries in Healthcheck cannot be negative")


def merged(own: HealthCheck | None, image: HealthCheck | None) -> HealthCheck | None:
    """The user's, with what it leaves open as the image has it."""
    if own is None or image is None:
        return own or image
    members = {name: getattr(own, name) or getattr(image, name) for name in own.__struct_fields__}
    return HealthCheck(**members)


def words(config: ContainerConfig) -> tuple[str, ...] | None:
    """The command that checks; None when nothing does."""
    test = config.health_check.test if config.health_check else ()
    if not test or test[0] == "NONE":
        return None
    return test[1:] if test[0] == "CMD" else (*(config.shell or _SHELL), *test[1:])


def after(health: Health, asked: HealthCheck, result: HealthResult, *, started_ns: int) -> Health:
    """What a container's health is after one more result. ``started_ns``: the container."""
    log = (*health.log, result)[-KEPT_RESULTS:]
    if result.exit_code == 0:
        return Health(status="healthy", log=log)
    if health.status == "starting" and result.began_ns - started_ns < asked.start_period_ns:
        return msgspec.structs.replace(health, log=log)
    streak = health.failing_streak + 1
    status = "unhealthy" if streak >= (asked.retries or _RETRIES) else health.status
    return Health(status=status, failing_streak=streak, log=log)


def interval_s(state: ContainerState, asked: HealthCheck, *, now_ns: int) -> float:
    """How long until the next check."""
    starting = state.health is not None and state.health.status == "starting"
    if starting and now_ns - state.started_ns < asked.start_period_ns:
        return (asked.start_interval_ns or _START_INTERVAL_NS) / 1e9
    return (asked.interval_ns or _INTERVAL_NS) / 1e9


# --- the checks --------------------------------------------------------------------------------------------------


class HealthChecks:
    """One task for each container that runs and has a check."""

    def __init__(self, registry: ContainerRegistry, execs: ExecUseCases, events: EventLog, tasks: TaskSet) -> None:
        self._registry = registry
        self._execs = execs
        self._events = events
        self._tasks = tasks
        self._watchers: dict[str, asyncio.Task[None]] = {}

    def first(self, config: ContainerConfig) -> Health | None:
        """Of a run that begins."""
        return Health() if words(config) is not None else None

    def begin(self, managed: Managed, run: Run) -> None:
        """It runs (again, after a pause)."""
        asked, command = managed.snapshot.config.health_check, words(managed.snapshot.config)
        self.end(managed)
        if asked is None or command is None:
            return
        watcher = self._tasks.spawn(self._watch(managed, run, asked, command), name=f"health {managed.id[:12]}")
        self._watchers[managed.id] = watcher

    def end(self, managed: Managed) -> None:
        """It does not run any more, or is frozen."""
        watcher = self._watchers.pop(managed.id, None)
        if watcher is not None:
            watcher.cancel()

    async def _watch(self, managed: Managed, run: Run, asked: HealthCheck, command: Sequence[str]) -> None:
        while True:
            await asyncio.sleep(interval_s(managed.state, asked, now_ns=time.time_ns()))
            began_ns = time.time_ns()
            exit_code, output = await self._probe(managed, run, asked, command)
            if managed.run is not run:
                return
            self._note(
                managed,
                asked,
                HealthResult(began_ns=began_ns, ended_ns=time.time_ns(), exit_code=exit_code, output=output),
            )

    def _note(self, managed: Managed, asked: HealthCheck, result: HealthResult) -> None:
        before = managed.state.health or Health()
        now = after(before, asked, result, started_ns=managed.state.started_ns)
        self._registry.note(managed, managed.with_state(health=now))
        if now.status != before.status:
            self._events.of_container(managed.snapshot, f"health_status: {now.status}")

    async def _probe(self, managed: Managed, run: Run, asked: HealthCheck, command: Sequence[str]) -> tuple[int, str]:
        """Its exit code and the beginning of what it printed; -1 and why when it could not be had."""
        try:
            exec_id = await self._execs.create(
                managed.id, ExecConfig(command=tuple(command), attach_stdout=True, attach_stderr=True)
            )
        except HyperError as error:
            return -1, error.message
        output = _Beginning()
        timeout_ns = asked.timeout_ns or _TIMEOUT_NS
        try:
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    attachment = await self._execs.start(exec_id, detach=False)
            except TimeoutError:
                return -1, "timed out starting health check for container"
            assert attachment is not None  # it was not detached
            try:
                async with asyncio.timeout(timeout_ns / 1e9):
                    async for _, data in attachment.output():
                        output.add(data)
            except TimeoutError:
                await self._kill(managed, run, exec_id)
                async for _, data in attachment.output():
                    output.add(data)
                said = f": {output.text()}" if output.text() else ""
                return -1, f"Health check exceeded timeout ({_duration(timeout_ns)}){said}"
            finally:
                await attachment.close()
            exit_code = self._execs.get(exec_id).exit_code
            return (-1, "its container has ended") if exit_code is None else (exit_code, output.text())
        except HyperError as error:
            return -1, error.message
        except asyncio.CancelledError:
            self._tasks.spawn(self._kill(managed, run, exec_id), name=f"exec {exec_id[:12]} is not wanted")
            raise
        finally:
            self._execs.forget(exec_id)

    async def _kill(self, managed: Managed, run: Run, exec_id: str) -> None:
        if exec_id not in run.exec_ends or run.ending:
            return
        try:
            await run.sandbox.agent.signal_exec(managed.id, exec_id, _SIGKILL)
        except HyperError:
            return  # it has ended by itself


class _Beginning:
    """The first bytes of an output."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._cut = False

    def add(self, data: bytes) -> None:
        room = OUTPUT_BYTES - len(self._kept)
        self._kept += data[:room]
        self._cut = self._cut or len(data) > room

    def text(self) -> str:
        return self._kept.decode(errors="replace") + ("..." if self._cut else "")


def _duration(value_ns: int) -> str:
    """As Go prints one: "1m30s", "1.5s", "200ms"."""
    if value_ns < 1_000_000_000:
        return f"{value_ns / 1e6:g}ms"
    minutes, rest_ns = divmod(value_ns, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    parts = (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "")
    return f"{parts}{rest_ns / 1e9:g}s"
