"""New limits for a container: checked against those it has, set in its guest when it runs, and recorded.

A VM that is too small for them is made bigger first; it is never made smaller, because the limit itself is held by the
container's cgroup inside. What fails leaves the container with the limits it had. Sources: dockerd 28's checks and
words; runc's for a memory limit below the usage. Neighbours: ``runtime.py`` (the limits of a new container),
``starter.py`` (how many processors they need).
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from hyper.engine.events import EventLog
from hyper.engine.managed import Managed
from hyper.engine.model import ContainerConfig, ContainerUpdate
from hyper.engine.registry import ContainerRegistry
from hyper.engine.run import Run
from hyper.engine.starter import cpus
from hyper.errors import Conflict, HyperError, InvalidArgument, NotFound, Unsupported
from hyper.guest.agent import Agent
from hyper.oci.runtime_spec import Resources, resources

_RECLAIMABLE = ("active_file", "inactive_file", "slab_reclaimable")
"""Of a cgroup's memory, what the kernel gives up before it kills anybody."""
_DEFAULT_SHARES = 1024

_log = logging.getLogger(__name__)


class LimitUpdates:
    """``default_memory_bytes``: of a container that has no limit of its own."""

    def __init__(self, registry: ContainerRegistry, events: EventLog, default_memory_bytes: int) -> None:
        self._registry = registry
        self._events = events
        self._default_memory_bytes = default_memory_bytes

    async def update(self, managed: Managed, changes: ContainerUpdate) -> tuple[str, ...]:
        """Warnings. The container's own limits, unchanged, when it raises."""
        async with managed.lock:
            if managed.removed:
                raise NotFound(f"No such container: {managed.snapshot.name}")
            before = managed.snapshot.config
            try:
                if managed.removing:
                    raise Conflict('container is marked for removal and cannot be "update"')
                after = updated(before, changes)
                run = managed.run
                applied = run is not None and await self._apply(managed, run, after, changes)
                try:
                    self._registry.store(managed, msgspec.structs.replace(managed.snapshot, config=after))
                except HyperError:
                    if applied and run is not None:
                        await self._restore(managed, run.sandbox.agent, before, changes)
                    raise
            except HyperError as error:
                raise type(error)(f"Cannot update container {managed.id}: {error.message}") from error
        self._events.of_container(managed.snapshot, "update")
        return ()

    async def _apply(self, managed: Managed, run: Run, after: ContainerConfig, changes: ContainerUpdate) -> bool:
        """In the guest; False when there is nothing to do there, or the process has ended in the meantime."""
        wanted = self._limits(after, changes)
        if not wanted:
            return False
        agent = run.sandbox.agent
        try:
            if changes.memory_bytes is not None:
                await _check_usage(agent, managed.id, changes.memory_bytes)
            if "memory" in wanted or "cpu" in wanted:
                await run.pod.resize({managed.id: (after.memory_bytes or None, cpus(after))})
            try:
                await agent.update(managed.id, wanted)
            except (Conflict, InvalidArgument, Unsupported):
                # It sets one limit after the other; those that it took before it refused one are put back.
                await self._restore(managed, agent, managed.snapshot.config, changes)
                raise
        except HyperError:
            if managed.run is run and not run.ending:
                raise
            return False
        return True

    async def _restore(self, managed: Managed, agent: Agent, before: ContainerConfig, changes: ContainerUpdate) -> None:
        try:
            await agent.update(managed.id, self._limits(before, changes))
        except HyperError as error:
            _log.warning("container %s: its former limits could not be put back: %s", managed.id[:12], error.message)

    def _limits(self, config: ContainerConfig, changes: ContainerUpdate) -> dict[str, Any]:
        """OCI's ``linux.resources`` with what ``changes`` touches, as ``config`` has it. Defaults are spelled out: what
        is left out stays as it was."""
        memory = _any(changes.memory_bytes, changes.memory_swap_bytes, changes.memory_reservation_bytes)
        default_bytes = None if changes.memory_bytes is None else self._default_memory_bytes
        bandwidth = _any(changes.nano_cpus, changes.cpu_period_us, changes.cpu_quota_us)
        return resources(
            Resources(
                memory_bytes=(config.memory_bytes or default_bytes) if memory else None,
                memory_swap_bytes=(config.memory_swap_bytes or -1) if memory else None,
                memory_reservation_bytes=(config.memory_reservation_bytes or None) if memory else None,
                cpus=config.nano_cpus / 1e9 if bandwidth and config.nano_cpus else None,
                cpu_quota_us=(config.cpu_quota_us or -1) if bandwidth and not config.nano_cpus else None,
                cpu_period_us=(config.cpu_period_us or None) if bandwidth and not config.nano_cpus else None,
                cpu_shares=(config.cpu_shares or _DEFAULT_SHARES) if changes.cpu_shares is not None else None,
                cpuset_cpus=config.cpuset_cpus if changes.cpuset_cpus is not None else "",
                pids=(config.pids_limit or -1) if changes.pids_limit is not None else None,
            )
        )


def updated(config: ContainerConfig, changes: ContainerUpdate) -> ContainerConfig:
    """``config`` with the changes. Conflict, InvalidArgument or Unsupported when they do not go together. Pure."""
    for asked, name, present, other in (
        (changes.nano_cpus, "Nano CPUs", config.cpu_period_us, "CPU Period"),
        (changes.nano_cpus, "Nano CPUs", config.cpu_quota_us, "CPU Quota"),
        (changes.cpu_period_us, "CPU Period", config.nano_cpus, "NanoCPUs"),
        (changes.cpu_quota_us, "CPU Quota", config.nano_cpus, "NanoCPUs"),
    ):
        if (asked or 0) > 0 and present > 0:
            raise Conflict(f"Conflicting options: {name} cannot be updated as {other} has already been set")
    policy = changes.restart_policy
    if policy is not None and config.auto_remove and policy.name != "no":
        raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
    values = {name: getattr(changes, name) for name in changes.__struct_fields__}
    after = msgspec.structs.replace(config, **{name: value for name, value in values.items() if value is not None})
    _check_swap(config, changes, after)
    return after


def _check_swap(before: ContainerConfig, changes: ContainerUpdate, after: ContainerConfig) -> None:
    swap = after.memory_swap_bytes
    if swap <= 0:
        return
    if changes.memory_swap_bytes is None and after.memory_bytes > before.memory_swap_bytes:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    # dockerd takes these two and the container could not be started any more.
    if not after.memory_bytes:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if swap < after.memory_bytes:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")


async def _check_usage(agent: Agent, container_id: str, limit_bytes: int) -> None:
    """The kernel would take such a limit, and kill the container's processes to keep it."""
    stats = await agent.stats(container_id)
    used_bytes = stats.memory_bytes - sum(stats.memory_stat.get(name, 0) for name in _RECLAIMABLE)
    if used_bytes > limit_bytes:
        raise Conflict(
            f"rejecting memory limit {limit_bytes}, because it's below the current usage ({used_bytes}); "
            "choose a higher one, or stop the container first"
        )


def _any(*values: object) -> bool:
    return any(value is not None for value in values)
