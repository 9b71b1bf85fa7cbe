"""The host's side of the guest against the real agent in a real VM, with the kernel and initramfs that we make.

QEMU is started by hand here, without the hypervisor driver: what is tested is the kernel finder, the initramfs, the
protocol and the runtime spec.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hyper.errors import NotFound
from hyper.guest import initramfs
from hyper.guest.agent import Agent
from hyper.guest.kernel import FoundKernel, KernelSettings, find_kernel
from hyper.guest.messages import Configuration, Disk, Event, ProcessExited, Rootfs, ScsiAddress, Stdio
from hyper.guest.streams import OutputStream
from hyper.oci.runtime_spec import ContainerRequest, ProcessRequest, container_spec, process_spec

pytestmark = pytest.mark.vm

REPOSITORY = Path(__file__).parents[2]
KERNELS = Path(os.environ.get("HYPER_TEST_KERNELS", "/var/lib/hyper/kernels"))
DISK = Disk(ScsiAddress(0, 0, 1), "erofs")
BOOT_DEADLINE_S = 60.0


def agent_binary() -> Path:
    if named := os.environ.get("HYPER_TEST_AGENT"):
        return Path(named)
    built = sorted((REPOSITORY / "agent/target").glob("*/release/hyper-agent"))
    if not built:
        pytest.skip("the guest agent is not built: make agent")
    return built[0]


@pytest.fixture(scope="module", params=["tuned", "distribution"])
def kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FoundKernel:
    """Both kernels that Hyper makes; one that is not there is skipped."""
    if not (KERNELS / request.param).is_dir():
        pytest.skip(f"no {request.param} kernel in {KERNELS}: make {'kernel' if request.param == 'tuned' else 'setup'}")
    only = tmp_path_factory.mktemp("kernels")
    (only / request.param).symlink_to(KERNELS / request.param)
    found = find_kernel(KernelSettings(only))
    assert found.kind == request.param
    return found


@pytest.fixture(scope="module")
def busybox_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An EROFS disk with a static busybox."""
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
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nworker:x:1000:1000::/tmp:/bin/sh\n")
    subprocess.run(["mkfs.erofs", "--quiet", folder / "disk.erofs", root], check=True, capture_output=True)
    return folder / "disk.erofs"


@asynccontextmanager
async def booted(
    kernel: FoundKernel, disk: Path, folder: Path, *devices: str, memory: str = "128"
) -> AsyncIterator[Path]:
    """A running VM; the path of its agent's socket. QMP is at ``qmp.sock`` in ``folder``. Ended, whatever happens."""
    initrd = initramfs.build(agent_binary(), kernel, folder / "cache")
    path = folder / "agent.sock"
    with socket.socket(socket.AF_UNIX) as listener, (folder / "console").open("wb") as console:
        listener.bind(str(path))
        listener.listen(1)
        arguments = [
            *("-M", "q35,hpet=off,vmport=off,smbus=off,sata=off", "-accel", "tcg,tb-size=64", "-cpu", "max"),
            *("-m", memory, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-kernel", str(kernel.vmlinux), "-initrd", str(initrd), "-serial", "stdio"),
            *("-append", f"console=ttyS0 {kernel.command_line(emulated=True)}"),
            *("-device", "virtio-serial-pci,id=serial0"),
            *("-chardev", f"socket,id=agent,fd={listener.fileno()},server=on,wait=off"),
            *("-device", "virtserialport,bus=serial0.0,nr=1,chardev=agent,name=org.hyper.agent.0"),
            *("-device", "virtio-scsi-pci,id=scsi0", "-device", "virtio-rng-pci"),
            *("-qmp", f"unix:{folder / 'qmp.sock'},server=on,wait=off", *devices),
            *("-blockdev", f"raw,node-name=disk,read-only=on,file.driver=file,file.filename={disk}"),
            *("-device", "scsi-hd,bus=scsi0.0,drive=disk,scsi-id=0,lun=1"),
        ]
        process = await asyncio.create_subprocess_exec(
            "qemu-system-x86_64",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            pass_fds=(listener.fileno(),),
        )
    try:
        yield path
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    console = tmp_path / "console"
    if console.exists() and console.stat().st_size:
        console.write_bytes(console.read_bytes()[-20_000:])


async def connected(path: Path, *, instance: str = "aa" * 16, first: bool = True) -> Agent:
    return await Agent.connect(path, instance=instance, first=first, deadline_s=BOOT_DEADLINE_S)


async def read_all(output: OutputStream) -> bytes:
    data = bytearray()
    while True:
        chunk = await output.read()
        data += chunk.data
        output.ack(chunk.next)
        if chunk.end:
            return bytes(data)


class Exits:
    """The exit events, by container and exec."""

    def __init__(self, agent: Agent) -> None:
        self._waiting: dict[tuple[str, str], asyncio.Future[ProcessExited]] = {}
        agent.on_event = self._arrived

    def of(self, container: str, process: str = "") -> asyncio.Future[ProcessExited]:
        return self._waiting.setdefault((container, process), asyncio.get_running_loop().create_future())

    def _arrived(self, event: Event) -> None:
        if isinstance(event, ProcessExited):
            self.of(event.id, event.exec_id).set_result(event)


async def create(agent: Agent, name: str, process: ProcessRequest, *, stdin: bool = False) -> Stdio:
    stdio = Stdio(agent.new_stream(), None if process.terminal else agent.new_stream(), stdin)
    spec = container_spec(ContainerRequest(process))
    await agent.create(name, spec, Rootfs([DISK], writable_tmpfs_bytes=32 << 20), [], stdio)
    return stdio


ENV = ["PATH=/bin", "HOME=/"]


async def test_a_container_runs_prints_and_exits(kernel: FoundKernel, busybox_disk: Path, folder: Path) -> None:
    async with booted(kernel, busybox_disk, folder) as path, asyncio.timeout(100):
        agent = await connected(path)
        exits = Exits(agent)
        await agent.configure(Configuration(hostname="box", time_ns=1_900_000_000 * 10**9, entropy=os.urandom(64)))
        assert await agent.ping() > 1_900_000_000 * 10**9
        script = "echo out; echo err >&2; uname -r; hostname; id -u; cat; exit 7"
        process = ProcessRequest(args=["sh", "-c", script], env=ENV, user="worker")
        stdio = await create(agent, "one", process, stdin=True)
        assert stdio.stderr is not None
        out, err, stdin = agent.output(stdio.io), agent.output(stdio.stderr), agent.input(stdio.io)
        await agent.start("one")
        await stdin.write(b"from the host\n")
        await stdin.finish()
        assert await read_all(out) == f"out\n{kernel.release}\nbox\n1000\nfrom the host\n".encode()
        assert await read_all(err) == b"err\n"
        assert (await exits.of("one")).exit_code == 7
        state = await agent.state()
        assert state.kernel == kernel.release
        assert [(entry.id, entry.status) for entry in state.containers] == [("one", "stopped")]
        await agent.delete("one")
        assert (await agent.state()).containers == []
        with pytest.raises(NotFound):
            await agent.delete("one")
        await agent.shutdown()
        await agent.closed()


async def test_nothing_is_lost_when_hosts_come_and_go(kernel: FoundKernel, busybox_disk: Path, folder: Path) -> None:
    """Three host processes in turn read one container's output, each going on where the log ends."""
    lines = 40_000
    expected = "".join(f"line {number} of many\n" for number in range(1, lines + 1)).encode()
    async with booted(kernel, busybox_disk, folder) as path, asyncio.timeout(100):
        agent = await connected(path)
        script = f"i=1; while [ $i -le {lines} ]; do echo line $i of many; i=$((i+1)); done"
        stdio = await create(agent, "many", ProcessRequest(args=["sh", "-c", script], env=ENV))
        log = bytearray()
        output = agent.output(stdio.io)
        await agent.start("many")
        for turn in range(1, 4):
            while len(log) < len(expected) * turn // 4:
                chunk = await output.read()
                log += chunk.data
                output.ack(chunk.next)
            await output.read()  # arrived, never written down: must come again
            await agent.release()
            agent = await connected(path, instance=f"{turn:032x}", first=False)
            output = agent.output(stdio.io, from_offset=len(log))
        exits = Exits(agent)
        log += await read_all(output)
        assert bytes(log) == expected
        processes = (await agent.state()).containers[0].processes
        exited = processes[0].status == "exited" or (await exits.of("many")).exit_code == 0
        assert exited
        await agent.release()


async def test_exec_terminal_signals_pause_and_stats(kernel: FoundKernel, busybox_disk: Path, folder: Path) -> None:
    async with booted(kernel, busybox_disk, folder) as path, asyncio.timeout(100):
        agent = await connected(path)
        exits = Exits(agent)
        await create(agent, "long", ProcessRequest(args=["sleep", "1000"], env=ENV))
        await agent.start("long")
        process = ProcessRequest(
            args=["sh", "-c", "stty size; tty; echo $TERM"],
            env=[*ENV, "TERM=vt100"],
            terminal=True,
            console_size=(40, 100),
        )
        stdio = Stdio(agent.new_stream(), None, True)
        screen = agent.output(stdio.io)
        await agent.exec("long", "look", process_spec(process), stdio)
        assert await read_all(screen) == b"40 100\r\n/dev/pts/0\r\nvt100\r\n"
        assert (await exits.of("long", "look")).exit_code == 0
        await agent.forget("long", "look")
        stats = await agent.stats("long")
        assert stats.memory_bytes > 0
        assert stats.pids >= 1
        assert await agent.processes("long")
        await agent.pause("long")
        assert (await agent.state()).containers[0].status == "paused"
        await agent.resume("long")
        await agent.signal("long", 9)
        exited = await exits.of("long")
        assert (exited.exit_code, exited.signal) == (137, 9)
        missing = await create(agent, "missing", ProcessRequest(args=["nosuchprogram"], env=ENV))
        assert missing.io
        with pytest.raises(NotFound, match="not found"):
            await agent.start("missing")
        await agent.release()


async def test_what_the_default_profile_forbids_is_forbidden(
    kernel: FoundKernel, busybox_disk: Path, folder: Path
) -> None:
    async with booted(kernel, busybox_disk, folder) as path, asyncio.timeout(100):
        agent = await connected(path)
        script = """
            mount -t tmpfs x /tmp && echo mounted; unshare -m true && echo unshared
            echo 1 > /proc/sys/kernel/panic && echo written; cat /proc/kcore | head -c1 && echo read
            mknod /tmp/sda b 8 0; cat /tmp/sda | head -c1 && echo disk; echo end
        """
        stdio = await create(agent, "try", ProcessRequest(args=["sh", "-c", script], env=ENV))
        output = agent.output(stdio.io)
        assert stdio.stderr is not None
        errors = agent.output(stdio.stderr)
        await agent.start("try")
        printed, refused = await asyncio.gather(read_all(output), read_all(errors))
        assert printed.split() in ([b"end"], [b"read", b"disk", b"end"]), printed  # head succeeds on nothing
        assert b"mount: " in refused and b"unshare: " in refused and b"panic" in refused and b"/tmp/sda" in refused
        await agent.release()
