"""The real agent against hostile images and processes, in a real VM: what a container can put into its image or do with
its descriptors must not reach the agent, its memory, or another container of the sandbox."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.integration.test_agent_vm import DISK, ENV, KERNELS, Exits, booted, connected, read_all

from hyper.errors import HyperError, NotFound, PermissionDenied
from hyper.guest.agent import Agent
from hyper.guest.kernel import FoundKernel, KernelSettings, find_kernel
from hyper.guest.messages import Configuration, InjectedFile, Rootfs, Stdio
from hyper.oci.runtime_spec import ContainerRequest, ProcessRequest, container_spec, process_spec

pytestmark = [pytest.mark.vm, pytest.mark.timeout(60)]

FILES = [
    InjectedFile(path, f"injected {path}\n".encode()) for path in ("/etc/hosts", "/etc/resolv.conf", "/lnk/hostname")
]


@pytest.fixture(scope="module")
def kernel() -> FoundKernel:
    if not KERNELS.is_dir():
        pytest.skip(f"no kernel in {KERNELS}: make kernel")
    return find_kernel(KernelSettings(KERNELS))


@pytest.fixture(scope="module")
def hostile_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image whose paths are links to everywhere, and whose group file is a FIFO."""
    for tool in ("busybox", "mkfs.erofs", "qemu-system-x86_64"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing: apt-get install busybox-static erofs-utils qemu-system-x86")
    folder = tmp_path_factory.mktemp("disk")
    root = folder / "root"
    for name in ("bin", "dev", "proc", "sys", "tmp", "etc"):
        (root / name).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), root / "bin/busybox")
    for applet in subprocess.run([root / "bin/busybox", "--list"], capture_output=True, text=True).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    os.mkfifo(root / "etc/group")
    (root / "etc/hosts").symlink_to("/proc/1/environ")  # a container must not be started onto another's memory
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")  # as systemd's images have it
    (root / "lnk").symlink_to("../../../../etc/deep/er")
    for number in range(3, 64):
        (root / f"fd{number}").symlink_to(f"/proc/self/fd/{number}")
    subprocess.run(["mkfs.erofs", "--quiet", folder / "disk.erofs", root], check=True, capture_output=True)
    return folder / "disk.erofs"


@pytest_asyncio.fixture
async def agent(kernel: FoundKernel, hostile_disk: Path, tmp_path: Path) -> AsyncIterator[Agent]:
    async with booted(kernel, hostile_disk, tmp_path) as path:
        agent = await connected(path)
        await agent.configure(Configuration(hostname="box"))
        yield agent
        await agent.release()


async def create(
    agent: Agent, name: str, process: ProcessRequest, files: list[InjectedFile] | None = None, stdin: bool = False
) -> Stdio:
    stdio = Stdio(agent.new_stream(), None if process.terminal else agent.new_stream(), stdin)
    spec = container_spec(ContainerRequest(process))
    await agent.create(name, spec, Rootfs([DISK], writable_tmpfs_bytes=32 << 20), files or [], stdio)
    return stdio


async def output_of(agent: Agent, name: str, script: str, files: list[InjectedFile] | None = None) -> bytes:
    stdio = await create(agent, name, ProcessRequest(args=["sh", "-c", script], env=ENV), files)
    await agent.start(name)
    return await read_all(agent.output(stdio.io))


async def test_links_of_an_image_lead_nowhere_but_into_it(agent: Agent) -> None:
    """A dangling link is followed inside the image, and what is made for it is not for everybody to write."""
    dangling = [FILES[1], FILES[2]]
    script = "cat /etc/resolv.conf /etc/deep/er/hostname; stat -c %a /run/systemd /etc/deep"
    printed = await output_of(agent, "links", script, dangling)
    assert printed == b"injected /etc/resolv.conf\ninjected /lnk/hostname\n755\n755\n"
    try:
        # A file cannot be made in /proc, or it is the container's own /proc that is mounted over.
        await create(agent, "proc", ProcessRequest(args=["true"], env=ENV), [FILES[0]])
    except HyperError as error:
        assert "/etc/hosts" in str(error)


async def test_only_stdio_is_open_in_a_process(agent: Agent) -> None:
    await create(agent, "other", ProcessRequest(args=["cat"], env=ENV), stdin=True)
    await agent.start("other")
    stdio = await create(agent, "long", ProcessRequest(args=["sh", "-c", "echo /proc/$$/fd/*; sleep 100"], env=ENV))
    await agent.start("long")
    printed = (await agent.output(stdio.io).read()).data
    descriptors = sorted(Path(name).name for name in printed.decode().split())
    assert descriptors == ["0", "1", "2", "3"]  # 3 is the folder that the shell reads
    for terminal in (False, True):
        look = ProcessRequest(args=["busybox", "ls", "/proc/self/fd"], env=ENV, terminal=terminal)
        streams = Stdio(agent.new_stream(), None if terminal else agent.new_stream(), False)
        shown = agent.output(streams.io)
        await agent.exec("long", f"look{terminal}", process_spec(look), streams)
        assert (await read_all(shown)).split() == [b"0", b"1", b"2", b"3"]  # 3 is the folder that ls reads


async def test_a_working_directory_cannot_be_one_of_the_agents_descriptors(agent: Agent) -> None:
    await create(agent, "long", ProcessRequest(args=["sleep", "1000"], env=ENV))
    await agent.start("long")
    for number in range(3, 32):
        for cwd in (f"/proc/self/fd/{number}", f"/fd{number}/../../.."):
            escape = ProcessRequest(args=["pwd"], env=ENV, cwd=cwd)
            stdio = Stdio(agent.new_stream(), agent.new_stream(), False)
            seen = agent.output(stdio.io)
            try:
                await agent.exec("long", f"escape{cwd}".replace("/", "-"), process_spec(escape), stdio)
            except HyperError:
                continue
            assert (await read_all(seen)).strip() in (b"/", b"/proc"), cwd


async def test_a_container_that_waits_to_be_started_keeps_no_stdin_of_another_open(agent: Agent) -> None:
    exits = Exits(agent)
    stdio = await create(agent, "reader", ProcessRequest(args=["cat"], env=ENV), stdin=True)
    await agent.start("reader")
    await create(agent, "waiting", ProcessRequest(args=["true"], env=ENV))
    stdin = agent.input(stdio.io)
    await stdin.write(b"text")
    await stdin.finish()
    assert await read_all(agent.output(stdio.io)) == b"text"
    async with asyncio.timeout(20):
        assert (await exits.of("reader")).exit_code == 0


async def test_what_a_left_behind_process_prints_does_not_fill_the_agent(agent: Agent) -> None:
    """The exec is over, its output not read, and its grandchild prints on: the agent keeps a bounded part of it."""
    exits = Exits(agent)
    await create(agent, "long", ProcessRequest(args=["sleep", "1000"], env=ENV))
    await agent.start("long")
    before = (await agent.state()).memory.available_bytes
    noisy = ProcessRequest(args=["sh", "-c", "dd if=/dev/zero bs=256k & exit 3"], env=ENV)
    stdio = Stdio(agent.new_stream(), agent.new_stream(), False)
    agent.output(stdio.io)  # never read
    await agent.exec("long", "noisy", process_spec(noisy), stdio)
    assert (await exits.of("long", "noisy")).exit_code == 3
    taken = before - (await agent.state()).memory.available_bytes
    assert taken < 12 << 20


async def test_a_name_of_any_length_is_reported_as_not_found(agent: Agent) -> None:
    await create(agent, "long", ProcessRequest(args=["/" + "x" * 60_000], env=ENV))
    with pytest.raises((NotFound, PermissionDenied)):
        await agent.start("long")


async def test_a_terminal_is_the_console_and_the_containers_own(agent: Agent) -> None:
    script = "tty; [ -c /dev/console ] && echo device; echo hello > /dev/console"
    stdio = await create(agent, "tty", ProcessRequest(args=["sh", "-c", script], env=ENV, terminal=True))
    await agent.start("tty")
    assert await read_all(agent.output(stdio.io)) == b"/dev/pts/0\r\ndevice\r\nhello\r\n"


async def test_files_that_a_container_fills_do_not_fill_the_agents_own(agent: Agent) -> None:
    script = "dd if=/dev/zero of=/etc/resolv.conf bs=1M count=100 2>&1 | tail -1; wc -c < /etc/resolv.conf"
    printed = await output_of(agent, "filler", script, [FILES[1]])
    assert int(printed.split()[-1]) <= 8 << 20
    assert await output_of(agent, "next", "cat /etc/resolv.conf", [FILES[1]]) == b"injected /etc/resolv.conf\n"
