"""Making a running machine bigger: memory by virtio-mem, processors by hot-plug.

Both take effect in the guest only when it follows, which its agent tells (docs/agent-protocol.md, ``sandbox.resize``).
"""

from __future__ import annotations

from hyper.errors import InvalidArgument
from hyper.hypervisors.qemu.command_line import GROWTH
from hyper.hypervisors.qemu.qmp import Qmp

_DEVICE = f"/machine/peripheral/{GROWTH}"


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
    """Plug processors until there are ``wanted``."""
    # The list has the machine's last processor first; those that are plugged have a path.
    slots = list(reversed(await qmp.execute("query-hotpluggable-cpus")))
    if wanted > len(slots):
        raise InvalidArgument(f"this VM can have at most {len(slots)} processors, not {wanted}")
    missing = wanted - sum("qom-path" in slot for slot in slots)
    for slot in slots:
        if missing <= 0:
            return
        if "qom-path" not in slot:
            await qmp.execute("device_add", {"driver": slot["type"], "id": f"cpu{slots.index(slot)}", **slot["props"]})
            missing -= 1
