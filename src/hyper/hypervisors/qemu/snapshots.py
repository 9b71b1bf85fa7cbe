"""Saving a machine's devices and going on from what was saved, by QEMU's migration without its memory.

The memory is in a file that both sides have (capability ``x-ignore-shared``), so only the devices' state travels, by a
descriptor: 0.4 to 0.5 MB. Whether the state fits is for the caller to know (:func:`command_line.shape`); QEMU checks a
part of it and refuses the rest by ending. Source: QEMU's docs/devel/migration.rst.
"""

from __future__ import annotations

import asyncio

from hyper.errors import DataLoss, Internal, Unavailable
from hyper.hypervisors.qemu.qmp import Qmp

_STATE = "state"
_POLL_S = 0.001
_SAVE_S = 30.0
_LOAD_S = 10.0
_CAPABILITIES: dict[str, object] = {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}


async def save(qmp: Qmp, state_fd: int) -> None:
    """Stop the machine and write its devices' state to ``state_fd``. Unavailable when QEMU does not bring it to an
    end."""
    await qmp.execute("stop")
    await qmp.execute("migrate-set-capabilities", _CAPABILITIES)
    await qmp.get_fd(state_fd, _STATE)
    await qmp.execute("migrate", {"uri": f"fd:{_STATE}"})
    status = await _outcome(qmp, "query-migrate", {"none", "setup", "active", "device"}, _SAVE_S)
    if status.get("status") != "completed":
        raise Unavailable(f"QEMU could not save the machine: {status.get('error-desc') or status.get('status')}")


async def load(qmp: Qmp, state_fd: int) -> None:
    """Take the state into a QEMU that waits for one, and run. DataLoss when QEMU does not take it (it may also end),
    Unavailable when it does not answer."""
    await qmp.execute("migrate-set-capabilities", _CAPABILITIES)
    await qmp.get_fd(state_fd, _STATE)
    await qmp.execute("migrate-incoming", {"uri": f"fd:{_STATE}"})
    status = await _outcome(qmp, "query-status", {"inmigrate"}, _LOAD_S)
    if status.get("status") not in ("paused", "postmigrate", "prelaunch"):
        raise DataLoss(f"QEMU did not take the saved machine: it is {status.get('status')}")
    try:
        await qmp.execute("cont")
    except Internal as error:
        raise DataLoss(f"QEMU did not take the saved machine: {error.message}") from error


async def _outcome(qmp: Qmp, query: str, going_on: set[str], limit_s: float) -> dict[str, object]:
    """The first answer to ``query`` whose status is none of ``going_on``."""
    try:
        async with asyncio.timeout(limit_s):
            while True:
                answer: dict[str, object] = await qmp.execute(query)
                if answer.get("status", "none") not in going_on:
                    return answer
                await asyncio.sleep(_POLL_S)
    except TimeoutError as error:
        raise Unavailable(f"QEMU did not finish within {limit_s:g} s") from error
