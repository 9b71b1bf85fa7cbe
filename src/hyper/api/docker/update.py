"""The body of ``POST /containers/{id}/update`` to the engine's :class:`ContainerUpdate`.

As in dockerd, 0 and "" leave a limit as it is; only ``PidsLimit`` tells 0 (no limit) from nothing. What dockerd takes
and then forgets (``Ulimits``, ``Devices``, ``Init``, …) is refused. Neighbours: ``limits`` (the checks),
``create_refusals``.
"""

from __future__ import annotations

from hyper.api.docker import create_refusals, create_words, limits
from hyper.api.docker.create_body import Int64, Resources, RestartPolicy
from hyper.api.docker.versions import Version
from hyper.engine.model import ContainerUpdate


class UpdateBody(Resources, frozen=True, rename="pascal", kw_only=True):
    """``Resources`` with the restart policy beside its members, as the wire has it."""

    pids_limit: Int64 | None = None
    restart_policy: RestartPolicy = RestartPolicy()


def container_update(body: UpdateBody, version: Version) -> ContainerUpdate:
    """InvalidArgument for what contradicts itself, Unsupported for what cannot be changed."""
    create_refusals.check_update(body)
    limits.check(body)
    policy = limits.restart_policy(body.restart_policy) if body.restart_policy.name else None
    pids = None if body.pids_limit is None or version < (1, 40) else max(body.pids_limit, 0)
    return ContainerUpdate(
        memory_bytes=body.memory or None,
        memory_swap_bytes=body.memory_swap or None,
        memory_reservation_bytes=body.memory_reservation or None,
        nano_cpus=body.nano_cpus or None,
        cpu_shares=body.cpu_shares or None,
        cpu_period_us=body.cpu_period or None,
        cpu_quota_us=body.cpu_quota or None,
        cpuset_cpus=create_words.cpuset(body.cpuset_cpus) or None,
        pids_limit=pids,
        restart_policy=policy,
    )
