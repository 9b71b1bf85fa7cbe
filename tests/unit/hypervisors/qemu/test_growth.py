"""When a processor is plugged in, and that the machine goes on whatever comes of it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from hyper.errors import Internal, Unsupported
from hyper.hypervisors.qemu.growth import add_cpus
from hyper.hypervisors.qemu.qmp import Qmp

SLOTS = [
    {"type": "max-x86_64-cpu", "props": {"socket-id": 1}},
    {"type": "max-x86_64-cpu", "props": {"socket-id": 0}, "qom-path": "/machine/unattached/device[0]"},
]
MIB = 1 << 20


class Machine:
    """Answers as QEMU 7.2 does, with so much of 64 MiB of translated code in use (None: it is not TCG)."""

    def __init__(self, used_mib: int | None) -> None:
        self._used_mib = used_mib
        self.fails = ""
        self.asked: list[str] = []

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> Any:
        self.asked.append(command)
        if command == self.fails:
            raise Internal("QEMU refused")
        if command == "query-hotpluggable-cpus":
            return SLOTS
        if command == "human-monitor-command":
            if self._used_mib is None:
                return "JIT information is only available with accel=tcg\r\n"
            return f"Translation buffer state:\r\ngen code size       {self._used_mib * MIB}/{64 * MIB}\r\n"
        return {}


async def grown(machine: Machine) -> None:
    await add_cpus(cast(Qmp, machine), 2)


@pytest.mark.parametrize("used_mib", [None, 0, 47])
async def test_a_processor_is_plugged_while_the_machine_stands_still(used_mib: int | None) -> None:
    machine = Machine(used_mib)
    await grown(machine)
    assert machine.asked[1:] == ["stop", "human-monitor-command", "device_add", "cont"]


async def test_with_too_little_room_for_its_code_it_is_refused_and_the_machine_goes_on() -> None:
    machine = Machine(49)
    with pytest.raises(Unsupported, match="stop the container and start it again"):
        await grown(machine)
    assert "device_add" not in machine.asked and machine.asked[-1] == "cont"


@pytest.mark.parametrize("step", ["stop", "human-monitor-command", "device_add"])
async def test_whatever_fails_the_machine_goes_on(step: str) -> None:
    machine = Machine(0)
    machine.fails = step
    with pytest.raises(Internal):
        await grown(machine)
    assert machine.asked[-1] == "cont"
