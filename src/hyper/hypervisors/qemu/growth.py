"""Making a running machine bigger: memory by virtio-mem, processors by hot-plug.

Both take effect in the guest only when it follows, which its agent tells (docs/agent-protocol.md, ``sandbox.resize``).
"""

from __future__ import annotations

import asyncio
import re

from hyper.errors import InvalidArgument, Unsupported
from hyper.hypervisors.qemu.command_line import GROWTH
from hyper.hypervisors.qemu.qmp import Qmp

_DEVICE = f"/machine/peripheral/{GROWTH}"
_CODE = re.compile(r"gen code size +(\d+)/(\d+)")
_CODE_SHARE = 0.75
"""Of the cache: it is given out in pieces, of which the last ones are not full."""


async def grow_memory(qmp: Qmp, base_bytes: int, wanted_bytes: int, most_bytes: int, block_bytes: int) -> None:
    """Offer the guest ``wanted_bytes`` in all, of which it has ``base_bytes`` from the start; in whole blocks. Never
    less than it was offered before."""
    if wanted_bytes > most_bytes:
        raise InvalidArgument(
            f"this VM can have at most {most_bytes >> 20} MiB of memory, not {-(-wanted_bytes // (1 << 20))}"
        )
    offer = -(-max(0, wanted_bytes - base_bytes) // block_bytes) * block_bytes
    if not offer:
        return
    offered = int(await qmp.execute("qom-get", {"path": _DEVICE, "property": "requested-size"}))
    if offer > offered:
        await qmp.execute("qom-set", {"path": _DEVICE, "property": "requested-size", "value": offer})


async def add_cpus(qmp: Qmp, wanted: int) -> None:
    """Plug processors until there are ``wanted``. Unsupported when QEMU has no room for another one now."""
    # The list has the machine's last processor first; those that are plugged have a path.
    slots = list(reversed(await qmp.execute("query-hotpluggable-cpus")))
    if wanted > len(slots):
        raise InvalidArgument(f"this VM can have at most {len(slots)} processors, not {wanted}")
    missing = wanted - sum("qom-path" in slot for slot in slots)
    for slot in slots:
        if missing <= 0:
            return
        if "qom-path" not in slot:
            await _plug_cpu(qmp, {"driver": slot["type"], "id": f"cpu{slots.index(slot)}", **slot["props"]})
            missing -= 1


async def _plug_cpu(qmp: Qmp, device: dict[str, object]) -> None:
    """While the others stand still: under TCG each takes a share of the cache of translated code, and QEMU 7.2 aborts
    when a new one finds none left (tcg/region.c: tcg_region_initial_alloc)."""
    try:
        await qmp.execute("stop")
        if not await _has_room_for_code(qmp):
            raise Unsupported(
                "under software emulation a running VM cannot be given another processor while QEMU's cache of "
                "translated code is as full as now; try again later, or stop the container and start it again"
            )
        await qmp.execute("device_add", device)
    finally:
        await asyncio.shield(qmp.execute("cont"))  # a daemon that is killed before leaves it to the next one's adoption


async def _has_room_for_code(qmp: Qmp) -> bool:
    told = str(await qmp.execute("human-monitor-command", {"command-line": "info jit"}))
    found = _CODE.search(told)
    if found is None:
        return True  # "JIT information is only available with accel=tcg"
    used, most = int(found[1]), int(found[2])
    return used <= most * _CODE_SHARE
