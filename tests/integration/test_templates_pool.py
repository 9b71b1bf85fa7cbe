"""The pool with real VMs: refilled behind what takes from it, bounded by the host's memory, given up when that is
short; clones whose memory is shared."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.hyperd import Hyperd, needs_docker_cli, running_hyperd
from tests.integration.test_sandboxes import Site, site
from tests.netns import NetworkNamespace
from tests.templates import MIB, SMALL, Memory, run, rung, settled, status, template_memory, until, vmms

from hyper.sandboxes.pool import PoolSettings
from hyper.sandboxes.sizing import SizingSettings
from hyper.sandboxes.source import SandboxConfig, SandboxRequest, SandboxSettings
from hyper.system import memory_files

__all__ = ["site"]
pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def hyperd() -> Iterator[Hyperd]:
    needs_docker_cli()
    with running_hyperd("--pool-size", "2", "--shared-pool-size", "1", *SMALL) as daemon:
        yield daemon


def test_a_pool_is_refilled_behind_what_takes_from_it(hyperd: Hyperd) -> None:
    settled(hyperd)
    assert status(hyperd)["Pool"] == "3 of 3 ready"
    pooled = vmms(hyperd)
    assert run(hyperd) == "pool"
    settled(hyperd)
    assert len(pooled.keys() & vmms(hyperd).keys()) == 2, "one was taken, and has ended with its container"

    victim, pid = next(iter(vmms(hyperd).items()))
    os.kill(pid, 9)
    until(lambda: victim not in vmms(hyperd), lambda: str(vmms(hyperd)))
    until(lambda: len(vmms(hyperd)) == 3, lambda: str(vmms(hyperd)))
    settled(hyperd)


def test_a_burst_larger_than_the_pool_only_takes_its_time(hyperd: Hyperd) -> None:
    settled(hyperd)
    names = [f"burst-{number}" for number in range(6)]
    began = time.monotonic()
    run_one = ("run", "--network", "none", "--name")
    clients = [hyperd.door.popen(*run_one, name, "busybox", "echo", name, stdout=subprocess.PIPE) for name in names]
    said = [client.communicate()[0].decode().strip() for client in clients]
    assert time.monotonic() - began < 60
    assert said == names
    rungs = [rung(hyperd, name) for name in names]
    assert set(rungs) == {"pool", "template"} and rungs.count("pool") >= 2
    hyperd.door.docker("rm", *names)
    settled(hyperd)
    assert len(vmms(hyperd)) == 3


_MOUNT = 'mount --bind "$1" /proc/meminfo && shift && exec "$@"'


class ShortOfMemory(NetworkNamespace):
    """A host whose /proc/meminfo a test writes, for what is started by :meth:`popen`."""

    def __init__(self, host: NetworkNamespace, meminfo: Path) -> None:
        self._host = host
        self._meminfo = meminfo
        self.name = host.name

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        own = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNT, "sh"]
        return self._host.popen([*own, str(self._meminfo), *argv], **options)


class MemInfo:
    """A host's memory; each VM takes two hundredths of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self.tell(share=0.5)

    def tell(self, *, share: float, vmms: int = 0) -> None:
        total_kib = 16 << 20
        available_kib = int(total_kib * (share - 0.02 * vmms))
        text = f"MemTotal:       {total_kib:10} kB\nMemAvailable:   {available_kib:10} kB\n"
        with self.path.open("r+b", buffering=0) as file:  # at once: there is a reader at any time
            file.write(text.encode())


def test_a_pool_is_bounded_by_the_hosts_memory_and_given_up_when_that_is_short(tmp_path: Path) -> None:
    needs_docker_cli()
    meminfo = MemInfo(tmp_path / "meminfo")
    meminfo.tell(share=0.15)
    flags = ("--pool-size", "4000", *SMALL)
    with running_hyperd(*flags, seen_by=lambda host: ShortOfMemory(host, meminfo.path)) as daemon:

        def pool(share: float) -> str:
            """How full it is, on a host whose memory shrinks with it."""
            meminfo.tell(share=share, vmms=len(vmms(daemon)))
            return status(daemon)["Pool"]

        def reached(share: float, least: int) -> Callable[[], bool]:
            full = "the host has not enough free memory for more"
            return lambda: (words := pool(share)).endswith(full) and int(words.split()[0]) >= least

        until(lambda: "MiB" in status(daemon)["Template"], lambda: str(status(daemon)))
        assert status(daemon)["Pool"] == "0 of 4000 ready; the host has not enough free memory for more"
        assert run(daemon) == "template"

        until(reached(0.25, 2), lambda: str(status(daemon)))
        assert len(vmms(daemon)) <= 4, "a fifth of the memory is left alone"
        assert run(daemon) == "pool"

        until(lambda: pool(0.08) == "0 of 4000 ready; given up while the host is short of memory", daemon.tail)
        assert vmms(daemon) == {} and "the host is short of memory: the pool is given up" in daemon.tail()
        assert run(daemon) == "template", "what is short for the pool is enough for a container"


def sharing(site: Site) -> SandboxSettings:
    return replace(
        site.settings,
        template_folder=site.folder / "templates",
        sizing=SizingSettings(default_memory_bytes=96 * MIB),
        pool=PoolSettings(0, shared_size=1),
    )


def holds(memory: Memory, name: str) -> bool:
    """Whether this text is in the file."""
    fd = memory.open()
    try:
        parts = memory_files.extents(fd)
        return any(name.encode() in os.pread(fd, length, offset) for offset, length in parts)
    finally:
        os.close(fd)


async def test_a_clone_with_shared_memory_has_a_copy_of_its_own(site: Site) -> None:
    source = site.daemon(sharing(site))
    await source.open()
    await asyncio.to_thread(until, lambda: source.describe().pool == "1 of 1 ready", lambda: str(source.describe()))
    template = template_memory(os.getpid())
    before = template.digest()
    names = [f"sandbox-{secrets.token_hex(16)}" for _ in range(3)]
    requests = [
        SandboxRequest("", None, None, SandboxConfig(name), shared_memory=number < 2)
        for number, name in enumerate(names)
    ]
    sandboxes = [await source.acquire(request) for request in requests]
    assert sandboxes[0].rung == "pool" and sandboxes[1].rung in ("pool", "template")
    assert sandboxes[2].rung == "template"
    files = [template_memory(sandbox.record.pid) for sandbox in sandboxes]
    assert [[holds(file, name) for name in names] for file in files] == [
        [True, False, False],
        [False, True, False],
        [False, False, False],  # its writes are nobody's but its own
    ]
    assert template.digest() == before
    await sandboxes[0].resize(400 * MIB, None)
    assert (await sandboxes[0].agent.state()).memory.total_bytes > 400 * MIB

    record = sandboxes[0].record
    await source.close()
    adopted = await site.daemon(sharing(site)).adopt(record)
    await adopted.agent.ping()
    await adopted.resize(600 * MIB, None)
    assert (await adopted.agent.state()).memory.total_bytes > 600 * MIB
    await adopted.destroy(graceful=True)
