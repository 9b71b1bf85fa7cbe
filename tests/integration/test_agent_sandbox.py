"""What a template and its clones need of the real agent, in a real VM: cards that come and go, an identity, growth, and
the rehearsal."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.integration.test_agent_vm import (
    DISK,
    ENV,
    Exits,
    agent_binary,
    booted,
    busybox_disk,
    connected,
    create,
    folder,
    kernel,
    read_all,
)

from hyper.errors import Conflict, DeadlineExceeded, InvalidArgument, NotFound
from hyper.guest.agent import Agent
from hyper.guest.kernel import FoundKernel
from hyper.guest.messages import Configuration, Interface, Rootfs, Route, Stdio
from hyper.hypervisors.qemu.qmp import Qmp
from hyper.oci.runtime_spec import ContainerRequest, ProcessRequest, container_spec

__all__ = ["busybox_disk", "folder", "kernel"]

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120)]

MIB = 1 << 20
FIRST, SECOND, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:99"
CARDS = (
    *("-netdev", "hubport,id=n1,hubid=1", "-device", f"virtio-net-pci,netdev=n1,mac={FIRST},romfile="),
    *("-netdev", "hubport,id=n2,hubid=2", "-device", f"virtio-net-pci,netdev=n2,mac={SECOND},romfile="),
)
GROWING = (
    *("-smp", "cpus=1,maxcpus=2"),
    *("-object", "memory-backend-ram,id=more,size=512M,reserve=off"),
    *("-device", "virtio-mem-pci,id=vmem,memdev=more,requested-size=0"),
)


@asynccontextmanager
async def control(folder: Path) -> AsyncIterator[Qmp]:
    qmp = await Qmp.connect(folder / "qmp.sock", 10)
    try:
        yield qmp
    finally:
        await qmp.close()


class Shell:
    """Runs scripts in containers of their own, one after the other; the sandbox's network is theirs."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._count = 0

    async def __call__(self, script: str, *, capabilities: tuple[str, ...] = ()) -> str:
        self._count += 1
        name = f"shell{self._count}"
        stdio = Stdio(self._agent.new_stream(), self._agent.new_stream(), False)
        assert stdio.stderr is not None
        outputs = self._agent.output(stdio.io), self._agent.output(stdio.stderr)
        process = ProcessRequest(args=["sh", "-c", script], env=ENV, capabilities_add=capabilities)
        rootfs = Rootfs([DISK], writable_tmpfs_bytes=32 << 20)
        await self._agent.create(name, container_spec(ContainerRequest(process)), rootfs, [], stdio)
        await self._agent.start(name)
        printed, errors = await asyncio.gather(*map(read_all, outputs))
        await self._agent.delete(name)
        return (printed + errors).decode()


def eth0(mac: str = FIRST, address: str = "10.7.0.2/24") -> Interface:
    gateway = address.rpartition(".")[0] + ".1"
    return Interface(mac, "eth0", 1400, [address], [Route("default", gateway)])


SEEN = "ls /sys/class/net; cat /sys/class/net/eth*/address; ip -4 addr show; ip route"


async def test_only_the_cards_that_are_named_are_seen(kernel: FoundKernel, busybox_disk: Path, folder: Path) -> None:
    async with booted(kernel, busybox_disk, folder, *CARDS) as path, asyncio.timeout(100):
        agent = await connected(path)
        shell = Shell(agent)
        assert (await shell("ls /sys/class/net")).split() == ["eth0", "eth1", "lo"]
        await agent.configure(Configuration(interfaces=[]))
        assert (await shell("ls /sys/class/net; ip route")).split() == ["lo"]
        for turn in range(2):
            # By the address of one card, then one that no card has.
            await agent.configure(Configuration(interfaces=[eth0(SECOND)]))
            seen = await shell(SEEN)
            assert seen.split()[:3] == ["eth0", "lo", SECOND], turn
            assert "10.7.0.2/24" in seen and "mtu 1400" in seen and "default via 10.7.0.1 dev eth0" in seen
            await agent.configure(Configuration(hostname="box"))  # says nothing of interfaces
            assert await shell(SEEN) == seen
            other = Interface(OTHER, "eth1", addresses=["10.8.0.2/24"])
            await agent.configure(Configuration(interfaces=[eth0(SECOND), other]))
            seen = await shell(SEEN)
            assert seen.split()[:5] == ["eth0", "eth1", "lo", SECOND, OTHER], turn
            assert "10.7.0.2/24" in seen and "10.8.0.2/24" in seen
            await agent.configure(Configuration(interfaces=[eth0(SECOND, "10.9.0.2/24")]))
            seen = await shell(SEEN)
            assert "eth1" not in seen and "10.9.0.2/24" in seen and "10.7.0.2" not in seen
            await agent.configure(Configuration(interfaces=[]))
            assert (await shell("ls /sys/class/net; ip route")).split() == ["lo"]
        await agent.release()


async def test_names_can_be_exchanged_and_too_few_cards_are_refused(
    kernel: FoundKernel, busybox_disk: Path, folder: Path
) -> None:
    async with booted(kernel, busybox_disk, folder, *CARDS) as path, asyncio.timeout(100):
        agent = await connected(path)
        shell = Shell(agent)
        for macs in ((SECOND, FIRST), (FIRST, SECOND)):
            named = [Interface(mac, f"eth{number}") for number, mac in enumerate(macs)]
            await agent.configure(Configuration(interfaces=named))
            assert (await shell("cat /sys/class/net/eth0/address /sys/class/net/eth1/address")).split() == [*macs]
        too_many = [Interface(f"02:00:00:00:00:0{number}", f"eth{number}") for number in range(1, 4)]
        waiting = asyncio.create_task(agent.configure(Configuration(interfaces=too_many)))
        await asyncio.sleep(0)
        with pytest.raises(Conflict, match="interfaces"):
            await agent.configure(Configuration(interfaces=[]))
        assert await agent.ping()
        with pytest.raises(NotFound, match="3 interfaces after 2 s"):
            await waiting
        await agent.configure(Configuration(interfaces=[eth0(OTHER)]))
        assert (await shell("ls /sys/class/net")).split() == ["eth0", "lo"]
        for bad in (Interface("x", "eth0"), Interface(FIRST, "a b"), eth0(FIRST, "10.0.0.1")):
            with pytest.raises(InvalidArgument):
                await agent.configure(Configuration(hostname="changed", interfaces=[bad]))
        assert "changed" not in await shell("hostname")
        await agent.release()


async def test_no_capability_over_networks_reaches_a_parked_card(
    kernel: FoundKernel, busybox_disk: Path, folder: Path
) -> None:
    async with booted(kernel, busybox_disk, folder, *CARDS) as path, asyncio.timeout(100):
        agent = await connected(path)
        shell = Shell(agent)
        await agent.configure(Configuration(interfaces=[eth0()]))
        script = """
            ip link show | grep -o 'eth[0-9]\\|card[0-9]'
            for card in /sys/bus/virtio/devices/*/; do
                [ "$(cat $card/device)" = 0x0001 ] && [ ! -e $card/driver ] && basename $card >/tmp/parked
            done
            cat /tmp/parked | sed 's/[0-9]*$//'
            (cat /tmp/parked >/sys/bus/virtio/drivers/virtio_net/bind) 2>&1 | grep -o 'Read-only file system'
            ls /sys/class/net
        """
        seen = await shell(script, capabilities=("NET_ADMIN", "NET_RAW"))
        assert seen.split("\n") == ["eth0", "virtio", "Read-only file system", "eth0", "lo", ""]
        # A card that a container has taken into use otherwise is as good as new for the next.
        await shell(
            "ip addr add 10.66.0.1/24 dev eth0; ip link set eth0 address 02:00:00:00:66:66", capabilities=("NET_ADMIN",)
        )
        await agent.configure(Configuration(interfaces=[]))
        await agent.configure(Configuration(interfaces=[eth0()]))
        seen = await shell(SEEN)
        assert FIRST in seen and "10.7.0.2/24" in seen and "10.66" not in seen
        await agent.release()


async def test_a_configuration_gives_an_identity_and_a_clock(
    kernel: FoundKernel, busybox_disk: Path, folder: Path
) -> None:
    async with booted(kernel, busybox_disk, folder) as path, asyncio.timeout(100):
        agent = await connected(path)
        for days in (30, -3, 4_000):
            then = time.time_ns() + days * 86_400 * 10**9
            await agent.configure(
                Configuration(
                    hostname=f"day{days}",
                    time_ns=then,
                    entropy=os.urandom(64),
                    machine_id="0123456789abcdef" * 2,
                    sysctls={"net.ipv4.ip_forward": "1"},
                )
            )
            assert 0 <= await agent.ping() - then < 60 * 10**9
        assert (await Shell(agent)("hostname; cat /proc/sys/net/ipv4/ip_forward")).split() == ["day4000", "1"]
        with pytest.raises(InvalidArgument, match="entropy"):
            await agent.configure(Configuration(entropy=b"short"))
        await agent.release()


async def test_what_is_plugged_in_is_waited_for_and_used(kernel: FoundKernel, busybox_disk: Path, folder: Path) -> None:
    async with (
        booted(kernel, busybox_disk, folder, *GROWING, memory="128,slots=1,maxmem=1G") as path,
        asyncio.timeout(100),
    ):
        agent = await connected(path)
        async with control(folder) as qmp:
            small = await agent.resize(1, 128 * MIB)
            assert small.cpus == 1
            assert 32 * MIB < small.memory_bytes < 128 * MIB
            assert (await agent.state()).memory.total_bytes == small.memory_bytes
            with pytest.raises(InvalidArgument, match="at most 2 processors"):
                await agent.resize(3)
            waiting = asyncio.create_task(agent.resize(2, 640 * MIB))
            assert await agent.ping()
            await qmp.execute(
                "qom-set", {"path": "/machine/peripheral/vmem", "property": "requested-size", "value": 512 * MIB}
            )
            (slot,) = [slot for slot in await qmp.execute("query-hotpluggable-cpus") if "qom-path" not in slot]
            await qmp.execute("device_add", {"driver": slot["type"], "id": "cpu1", **slot["props"]})
            large = await waiting
            assert large.cpus == 2
            assert small.memory_bytes + 500 * MIB < large.memory_bytes <= small.memory_bytes + 512 * MIB
            assert await agent.resize(1, 64 * MIB) == large  # nothing is taken away
            shell = Shell(agent)
            assert (await shell("nproc; grep -c ^processor /proc/cpuinfo")).split() == ["2", "2"]
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded, match=r"2 processors and \d+ MiB"):
                await agent.resize(memory_bytes=2048 * MIB)
            assert time.monotonic() - began < 15
        await agent.release()


@pytest.fixture
def rehearsal_disk(tmp_path: Path) -> Path:
    """An EROFS disk with the agent alone."""
    if shutil.which("mkfs.erofs") is None:
        pytest.skip("mkfs.erofs is missing: apt-get install erofs-utils")
    root = tmp_path / "rehearsal"
    root.mkdir()
    shutil.copy(agent_binary(), root / "rehearse")
    subprocess.run(["mkfs.erofs", "--quiet", tmp_path / "rehearsal.erofs", root], check=True, capture_output=True)
    return tmp_path / "rehearsal.erofs"


async def test_a_rehearsal_is_a_container_of_the_agents_own_file(
    kernel: FoundKernel, rehearsal_disk: Path, folder: Path
) -> None:
    async with booted(kernel, rehearsal_disk, folder) as path, asyncio.timeout(100):
        agent = await connected(path)
        exits = Exits(agent)
        for name, stdin in (("silent", False), ("spoken", True)):
            process = ProcessRequest(args=["/rehearse", "--rehearse"])
            stdio = await create(agent, name, process, stdin=stdin)
            output = agent.output(stdio.io)
            await agent.start(name)
            if stdin:
                source = agent.input(stdio.io)
                await source.write(bytes(100_000))
                await source.finish()
            assert await read_all(output) == b"rehearsed\n"
            assert (await exits.of(name)).exit_code == 0
            await agent.delete(name)
        await agent.release()
