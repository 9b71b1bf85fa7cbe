"""Standard streams end to end, from the docker CLI or a bare socket through hyperd and the VM to the process and back:
nothing lost, nothing twice, nobody held up by somebody else's slow client, memory bounded.

What is printed are numbered lines in blocks of 1 MiB, so that a hole, a double or a swap of any size shows. A line's
length divides no buffer's, so that everything is cut within lines.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.hyperd import Door, Hyperd, needs_docker_cli, running_hyperd

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("cli")]

MIB = 1 << 20
_PAD = "p" * 47
_LINE_BYTES = 61
_LINES = MIB // _LINE_BYTES
BLOCK = b"".join(b"%012d %b\n" % (number, _PAD.encode()) for number in range(_LINES))
PREPARE = (
    f"awk 'BEGIN {{ for (i = 0; i < {_LINES}; i++) printf \"%012d {_PAD}\\n\", i }}' > /dev/shm/block; show() {{ "
    "n=$1; while [ $n -gt 0 ]; do cat /dev/shm/block; n=$((n - 1)); done; }; "
)
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def cli() -> None:
    needs_docker_cli()


@pytest.fixture(scope="module")
def idle(hyperd: Hyperd) -> Iterator[str]:
    """A container with open stdin that does nothing, for execs."""
    name = hyperd.door.out("run", "-d", "--network", "none", "busybox", "sleep", "100000")
    yield name
    hyperd.door.docker("rm", "-f", name)


def same(received: bytes, expected: bytes) -> None:
    """A short message instead of megabytes of difference."""
    if received != expected:
        pairs = enumerate(zip(received, expected, strict=False))
        at = next((index for index, (left, right) in pairs if left != right), min(len(received), len(expected)))
        raise AssertionError(
            f"{len(received)} bytes instead of {len(expected)}, different from {at} on: "
            f"{received[at : at + 80]!r} instead of {expected[at : at + 80]!r}"
        )


def until(condition: Callable[[], object], what: str, timeout_s: float = DEADLINE_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"after {timeout_s} s: {what}"
        time.sleep(0.05)


class Raw:
    """A hijacked connection as a client without any library sees it."""

    def __init__(self, door: Door, target: str, *, body: bytes = b"", early: bytes = b"", upgrade: bool = True) -> None:
        """Head, body and ``early`` leave in one piece; returns when the answer's head is there."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(str(door.socket))
        head = f"POST {target} HTTP/1.1\r\nHost: docker\r\n"
        if upgrade:
            head += "Connection: Upgrade\r\nUpgrade: tcp\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.sock.sendall(head.encode() + b"\r\n" + body + early)
        self._held = b""
        while b"\r\n\r\n" not in self._held:
            self._held += self._receive()
        answer, _, self._held = self._held.partition(b"\r\n\r\n")
        self.status = int(answer.split()[1])

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def _receive(self) -> bytes:
        data = self.sock.recv(MIB)
        if not data:
            raise EOFError
        return data

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def finish(self) -> None:
        """Half-close."""
        self.sock.shutdown(socket.SHUT_WR)

    def bytes(self, size: int) -> bytes:
        """Exactly so many, unframed."""
        pieces, missing = [self._held], size - len(self._held)
        while missing > 0:
            pieces.append(self._receive())
            missing -= len(pieces[-1])
        data = b"".join(pieces)
        self._held = data[size:]
        return data[:size]

    def frame(self) -> tuple[int, bytes]:
        """The next one: 1 stdout or 2 stderr, and what it holds. EOFError at the end."""
        number, size = struct.unpack(">BxxxL", self.bytes(8))
        return number, self.bytes(size)

    def stdout(self, size: int) -> bytes:
        """So many bytes of output, or more by what the last frame held beyond."""
        pieces: list[bytes] = []
        while size > 0:
            number, data = self.frame()
            assert number == 1, data
            pieces.append(data)
            size -= len(data)
        return b"".join(pieces)

    def rest(self) -> bytes:
        """All output up to the end of the connection, which must not come within a frame."""
        pieces = []
        while True:
            if not self._held and not (data := self.sock.recv(MIB)):
                return b"".join(pieces)
            self._held = self._held or data
            pieces.append(self.frame()[1])


def attach(door: Door, container: str, *, stdin: bool = False, **options: object) -> Raw:
    wanted = f"stream=1&stdout=1&stderr=1&stdin={int(stdin)}"
    return Raw(door, f"/containers/{container}/attach?{wanted}", **options)  # type: ignore[arg-type]


def exec_start(door: Door, container: str, *command: str, **options: object) -> Raw:
    body = {"Cmd": command, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
    made = door.http("POST", f"/containers/{container}/exec", body)
    return Raw(door, f"/exec/{made.json['Id']}/start", body=b'{"Detach":false}', **options)  # type: ignore[arg-type]


def unread_bytes(sock: socket.socket) -> int:
    held = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, held)
    return held[0]


def until_stalled(figure: Callable[[], int], what: str) -> None:
    """Until something has grown, and then not any more for a second: the writer waits for its reader."""
    history: list[int] = []

    def still() -> bool:
        history.append(figure())
        return history[-1] > 0 and len(history) > 20 and len(set(history[-20:])) == 1

    until(still, f"{what} goes on without end: {history[-3:]}")


def log_path(daemon: Hyperd, container: str) -> Path:
    identity = daemon.door.out("inspect", "-f", "{{.Id}}", container)
    [path] = [p for p in (daemon.data_root / "containers" / identity).iterdir() if p.name.endswith(".log")]
    return path


# -- nothing lost


@pytest.mark.parametrize("mib", [20, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_random_bytes_come_back_from_cat_bit_for_bit(hyperd: Hyperd, tmp_path: Path, mib: int) -> None:
    """Would catch: loss, doubles or disorder in either direction under full back pressure, or an end that cuts."""
    sent, received = tmp_path / "sent", tmp_path / "received"
    sent.write_bytes(os.urandom(mib * MIB))
    with sent.open("rb") as source, received.open("wb") as sink:
        client = hyperd.door.popen(
            "run", "--rm", "-i", "--network", "none", "busybox", "cat", stdin=source, stdout=sink
        )
        assert client.wait(500) == 0
    assert subprocess.run(["cmp", sent, received], capture_output=True, check=False).stdout == b""


@pytest.mark.parametrize(
    ("containers", "mib"), [(3, 4), pytest.param(5, 20, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_containers_that_print_at_once_lose_nothing(hyperd: Hyperd, tmp_path: Path, containers: int, mib: int) -> None:
    """Would catch: streams of several VMs mixed up or starved, and a log that is not what was shown."""
    door = hyperd.door
    names = [f"printer{number}" for number in range(containers)]
    with contextlib.ExitStack() as stack:
        clients = []
        for name in names:
            sink = stack.enter_context((tmp_path / name).open("wb"))
            run = ("run", "--name", name, "--network", "none", "busybox", "sh", "-c", f"{PREPARE} show {mib}")
            clients.append(door.popen(*run, stdout=sink))
            stack.callback(door.docker, "rm", "-f", name)
        assert [client.wait(500) for client in clients] == [0] * containers
        for name in names:
            same((tmp_path / name).read_bytes(), BLOCK * mib)
            same(door.docker("logs", name).stdout, BLOCK * mib)


def test_every_attached_reader_gets_everything_once(hyperd: Hyperd) -> None:
    """Would catch: readers that share a queue, or one that misses what came while another was slow."""
    door = hyperd.door
    with door.name() as name:
        door.docker(
            "run", "-d", "-i", "--name", name, "--network", "none", "busybox", "sh", "-c", f"{PREPARE} read go; show 3"
        )
        with attach(door, name) as one, attach(door, name) as two, attach(door, name, stdin=True) as three:
            three.send(b"go\n")
            with ThreadPoolExecutor(3) as pool:  # at once: each waits for the slowest
                for received in pool.map(Raw.rest, (one, two, three)):
                    same(received, BLOCK * 3)


def test_output_and_errors_interleave_without_loss(hyperd: Hyperd, idle: str) -> None:
    """Would catch: a stream that is drowned by, or mixed with, its sibling in one connection."""
    script = f"{PREPARE} show 3 & show 3 >&2; wait"
    done = hyperd.door.docker("exec", idle, "sh", "-c", script)
    same(done.stdout, BLOCK * 3)
    same(done.stderr, BLOCK * 3)


# -- the beginning and the end of input


@pytest.mark.parametrize("upgrade", [True, False], ids=["upgrade", "plain"])
def test_input_sent_with_the_head_of_attach_reaches_the_process(hyperd: Hyperd, upgrade: bool) -> None:
    """Would catch: bytes behind the headers dropped by the parser, or input before the start dropped by the engine."""
    door = hyperd.door
    with door.name() as name:
        door.docker("create", "-i", "--name", name, "--network", "none", "busybox", "cat")
        with attach(door, name, stdin=True, early=BLOCK, upgrade=upgrade) as client:
            assert client.status == (101 if upgrade else 200)
            client.finish()
            door.docker("start", name)
            same(client.rest(), BLOCK)
        assert door.out("wait", name) == "0"


@pytest.mark.parametrize("upgrade", [True, False], ids=["upgrade", "plain"])
def test_input_sent_with_the_head_of_exec_reaches_the_process(hyperd: Hyperd, idle: str, upgrade: bool) -> None:
    """Would catch: bytes right behind the request's body dropped while the process is still being made."""
    with exec_start(hyperd.door, idle, "cat", early=BLOCK, upgrade=upgrade) as client:
        assert client.status == (101 if upgrade else 200)
        client.finish()
        same(client.rest(), BLOCK)


def test_the_end_of_input_reaches_the_process_and_its_answer_comes_back(hyperd: Hyperd, idle: str) -> None:
    """Would catch: a half-close that is not passed on (the client would hang), or taken for a full one (no answer)."""
    count = f"{len(BLOCK)}\n".encode()
    run = hyperd.door.docker("run", "--rm", "-i", "--network", "none", "busybox", "wc", "-c", input=BLOCK)
    assert run.stdout == count
    assert hyperd.door.docker("exec", "-i", idle, "wc", "-c", input=BLOCK).stdout == count
    assert hyperd.door.docker("exec", "-i", idle, "wc", "-c", input=b"").stdout == b"0\n"


def test_a_process_that_stops_reading_does_not_hold_its_client(hyperd: Hyperd, idle: str) -> None:
    """Would catch: input that waits for ever for a process that closed its stdin and goes on."""
    door = hyperd.door
    script = "head -n 1; exec <&-; echo closed; until rm /dev/shm/go 2>/dev/null; do sleep 0.05; done; echo end"
    with exec_start(door, idle, "sh", "-c", script, early=BLOCK[:_LINE_BYTES]) as client:
        assert client.stdout(_LINE_BYTES + len("closed\n")) == BLOCK[:_LINE_BYTES] + b"closed\n"
        for _ in range(8):
            client.send(BLOCK)  # more than all that can be on the way
        door.docker("exec", idle, "touch", "/dev/shm/go")
        assert client.rest() == b"end\n"


def test_a_client_that_vanishes_ends_the_input_of_its_exec(hyperd: Hyperd, idle: str) -> None:
    """Would catch: processes that wait for ever in the guest for a client that was killed while neither side read."""
    door = hyperd.door
    client = exec_start(door, idle, "sh", "-c", "echo begun; cat; rm /dev/shm/waiting", early=b"x")
    assert client.stdout(len("begun\n")).startswith(b"begun\n")
    door.docker("exec", idle, "touch", "/dev/shm/waiting")
    client.sock.settimeout(2)
    with contextlib.suppress(TimeoutError):  # until everything on the way is full
        while True:
            client.send(BLOCK)
    client.sock.close()
    gone = ("exec", idle, "test", "!", "-e", "/dev/shm/waiting")
    until(lambda: door.docker(*gone, check=False).returncode == 0, "the exec's cat still waits for input", 40)


# -- attaching and leaving


def test_attaching_to_what_has_ended(hyperd: Hyperd) -> None:
    """Would catch: a client that hangs on a stopped container, or history that is lost or doubled."""
    door = hyperd.door
    with door.name() as name:
        door.docker("run", "--name", name, "--network", "none", "busybox", "sh", "-c", f"{PREPARE} show 2")
        refused = door.docker("attach", name, check=False)
        assert refused.returncode == 1
        assert b"You cannot attach to a stopped container" in refused.stderr
        with Raw(door, f"/containers/{name}/attach?logs=1&stdout=1&stderr=1") as client:
            same(client.rest(), BLOCK * 2)


def test_history_and_what_follows_meet_without_a_gap(hyperd: Hyperd) -> None:
    """Would catch: bytes between reading the log and joining the stream lost or shown twice."""
    door = hyperd.door
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "--network", "none", "busybox", "sh", "-c", f"{PREPARE} show 8")
        until(lambda: log_path(hyperd, name).stat().st_size > MIB, "it prints nothing")
        with Raw(door, f"/containers/{name}/attach?logs=1&stream=1&stdout=1&stderr=1") as client:
            same(client.rest(), BLOCK * 8)


def test_detach_keys_end_the_connection_and_nothing_else(hyperd: Hyperd) -> None:
    """Would catch: keys passed on to the process, or an end of the process with its client."""
    door = hyperd.door
    with door.name() as name:
        door.docker("run", "-d", "-i", "-t", "--name", name, "--network=none", "busybox", "sh", "-c", "stty -echo; cat")
        target = f"/containers/{name}/attach?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,x"
        with Raw(door, target) as client:
            client.send(b"before\r\x01")
            assert client.bytes(8) == b"before\r\n"
            client.send(b"x")
            assert client.sock.recv(100) == b""
        with Raw(door, target) as client:
            client.send(b"after\r")
            assert client.bytes(7) == b"after\r\n"
        assert door.out("inspect", "-f", "{{.State.Running}}", name) == "true"


def test_a_terminal_translates_as_it_is_told(hyperd: Hyperd, idle: str) -> None:
    """Would catch: pipes where a terminal was asked for, output of a terminal that is framed, a size that is lost."""
    door = hyperd.door
    run = ("run", "--rm", "-t", "--network", "none", "busybox", "sh", "-c")
    assert (
        door.docker(*run, "printf 'a\\nb\\n'; stty -onlcr; printf 'c\\n'; tty").stdout == b"a\r\nb\r\nc\n/dev/pts/0\n"
    )
    assert door.docker("exec", "-t", idle, "sh", "-c", "test -t 0 && test -t 2 && printf '1\\n'").stdout == b"1\r\n"
    made = door.http(
        "POST",
        f"/containers/{idle}/exec",
        {"Cmd": ["stty", "size"], "Tty": True, "AttachStdout": True, "ConsoleSize": [33, 99]},
    )
    with Raw(door, f"/exec/{made.json['Id']}/start", body=b'{"Tty":true,"ConsoleSize":[33,99]}') as client:
        assert client.bytes(7) == b"33 99\r\n"


def test_megabytes_through_a_terminal_arrive_whole(hyperd: Hyperd, idle: str) -> None:
    """Would catch: a terminal's output dropped when its buffer is full, or cut when its process ends."""
    done = hyperd.door.docker("exec", "-t", idle, "sh", "-c", f"stty -opost; {PREPARE} show 2")
    same(done.stdout, BLOCK * 2)


# -- slow and dead clients


@pytest.mark.parametrize("client", ["socket", "stopped CLI"])
def test_a_stalled_client_holds_up_only_its_own_container(hyperd: Hyperd, client: str) -> None:
    """Would catch: one slow reader that blocks the event loop, another container's streams, or other streams of the
    same VM."""
    door = hyperd.door
    with door.name() as stalled, door.name() as other, contextlib.ExitStack() as stack:
        script = f"{PREPARE} read go; show 1000"
        door.docker("run", "-d", "-i", "--name", stalled, "--network", "none", "busybox", "sh", "-c", script)
        door.docker("run", "-d", "-i", "--name", other, "--network", "none", "busybox", "cat")
        if client == "socket":
            stack.enter_context(attach(door, stalled, stdin=True)).send(b"go\n")
        else:
            process = stack.enter_context(door.popen("attach", stalled, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
            same(process.stdout.read(_LINE_BYTES), BLOCK[:_LINE_BYTES])
            process.send_signal(signal.SIGSTOP)
        log = log_path(hyperd, stalled)
        until_stalled(lambda: log.stat().st_size, "the container whose client does not read")

        follower = stack.enter_context(door.popen("logs", "-f", other, stdout=subprocess.PIPE))
        stack.callback(follower.kill)
        assert follower.stdout is not None
        with attach(door, other, stdin=True) as writer:
            for number in range(20):
                line = b"line %d\n" % number
                writer.send(line)
                ready, _, _ = select.select([follower.stdout], [], [], 10)
                assert ready, f"docker logs -f shows nothing of {line!r} for 10 s"
                assert follower.stdout.readline() == line
                assert writer.stdout(len(line)) == line
        begin_s = time.monotonic()
        assert {stalled, other} <= set(door.out("ps", "--format", "{{.Names}}").split())
        assert door.out("exec", stalled, "echo", "I am here") == "I am here"
        assert time.monotonic() - begin_s < 20


def test_a_stalled_client_that_goes_on_reading_gets_everything(hyperd: Hyperd) -> None:
    """Would catch: output dropped to relieve a slow client."""
    door = hyperd.door
    with door.name() as name:
        script = f"{PREPARE} read go; show 12"
        door.docker("run", "-d", "-i", "--name", name, "--network", "none", "busybox", "sh", "-c", script)
        log = log_path(hyperd, name)
        with attach(door, name, stdin=True) as client:
            client.send(b"go\n")
            until_stalled(lambda: log.stat().st_size, "the container whose client does not read")
            assert log.stat().st_size < 12 * 2 * MIB
            same(client.rest(), BLOCK * 12)


def peak_growth_mib(daemon: Hyperd, act: Callable[[], None]) -> float:
    """How far hyperd's resident memory rose above what it was before, at any time during ``act``."""
    assert daemon.process is not None
    process = Path(f"/proc/{daemon.process.pid}")
    (process / "clear_refs").write_text("5")  # proc(5): the peak begins anew

    def figure(name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+) kB", (process / "status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1])

    before = figure("VmRSS")
    act()
    return (figure("VmHWM") - before) / 1024


def test_memory_stays_bounded_however_much_waits_for_a_client(hyperd: Hyperd) -> None:
    """Would catch: a queue without a bound for output, for a log that is read back, or for input nobody takes."""
    door = hyperd.door
    with door.name() as printer, door.name() as sleeper, contextlib.ExitStack() as stack:
        door.docker("run", "--name", printer, "--network", "none", "busybox", "sh", "-c", f"{PREPARE} show 60")
        script = f"{PREPARE} echo ready; read go; show 1000"
        door.docker("run", "-d", "-i", "--name", sleeper, "--network", "none", "busybox", "sh", "-c", script)
        until(lambda: door.out("logs", sleeper) == "ready", "it is not ready")

        def stall() -> None:
            for _ in range(4):
                reader = stack.enter_context(attach(door, sleeper))
                logs = stack.enter_context(Raw(door, f"/containers/{printer}/attach?logs=1&stdout=1&stderr=1"))
                until_stalled(lambda logs=logs: unread_bytes(logs.sock), "a log whose reader does not read")  # type: ignore[misc]
            with attach(door, sleeper, stdin=True) as writer:
                writer.send(b"go\n")
                until_stalled(lambda: unread_bytes(reader.sock), "output that nobody reads")
                writer.sock.settimeout(2)
                sent = 0
                with contextlib.suppress(TimeoutError):
                    while sent < 64 * MIB:
                        writer.send(BLOCK)
                        sent += MIB
                assert sent < 16 * MIB, "input that nobody takes is taken without end"

        assert peak_growth_mib(hyperd, stall) < 48  # 20 were seen; without the bounds hundreds


def figures(daemon: Hyperd) -> tuple[int, int]:
    """Open descriptors and tasks of hyperd; the tasks as its own list on SIGUSR1 tells them."""
    assert daemon.process is not None
    begin = daemon.log.stat().st_size
    daemon.process.send_signal(signal.SIGUSR1)
    found: list[str] = []

    def told() -> bool:
        with daemon.log.open("rb") as log:
            log.seek(begin)
            text = log.read().decode(errors="replace")
        found[:] = re.findall(r"<Task ", text)
        return bool(found) and text.endswith("\n")

    until(told, "no list of tasks in the log", 10)
    return len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir())), len(found)


def test_killed_clients_leave_the_container_alone_and_nothing_in_hyperd(hyperd: Hyperd) -> None:
    """Would catch: a container blocked or ended by its client's death, and tasks, sockets or queues kept for the
    dead."""
    door = hyperd.door
    door.docker("version")
    before = figures(hyperd)
    with door.name() as name:
        run = ("run", "--name", name, "--network", "none", "busybox", "sh", "-c", f"{PREPARE} show 50")
        with door.popen(*run, stdout=subprocess.PIPE) as first:
            assert first.stdout is not None
            same(first.stdout.read(2 * len(BLOCK)), BLOCK * 2)
            second = attach(door, name)
            with door.popen("logs", "-f", name, stdout=subprocess.PIPE) as third:
                assert third.stdout is not None
                same(third.stdout.read(_LINE_BYTES), BLOCK[:_LINE_BYTES])
                # Now the container waits for its clients: the worst moment to lose them.
                until_stalled(lambda: log_path(hyperd, name).stat().st_size, "output that nobody reads")
                second.sock.close()
                third.kill()
                first.kill()
        assert door.out("wait", name) == "0"
        same(door.docker("logs", name).stdout, BLOCK * 50)
    until(
        lambda: all(now <= then for now, then in zip(figures(hyperd), before, strict=True)),
        f"descriptors and tasks stay above {before}: {figures(hyperd)}",
        30,
    )


# -- hyperd's own death


@pytest.fixture
def mortal() -> Iterator[Hyperd]:
    with running_hyperd() as daemon:
        yield daemon
        if daemon.process is None:
            daemon.start()
        for line in daemon.door.out("ps", "-aq").split():
            daemon.door.docker("rm", "-f", line)


def test_killed_in_the_middle_of_output_hyperd_loses_and_doubles_nothing(mortal: Hyperd) -> None:
    """Would catch: output acknowledged before it was written, or written and asked for again, with a torn line, much on
    its way, and a client attached."""
    door = mortal.door
    door.docker("run", "-d", "--name", "printer", "--network", "none", "busybox", "sh", "-c", f"{PREPARE} show 20")
    log = log_path(mortal, "printer")
    kills = 0
    for size in (3 * MIB, 15 * MIB, 32 * MIB):
        with door.popen("attach", "printer", stdout=subprocess.DEVNULL):
            until(lambda size=size: log.stat().st_size > size, "the log does not grow")  # type: ignore[misc]
            mortal.kill()
        with log.open("rb") as file:
            last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
        with contextlib.suppress(json.JSONDecodeError):  # torn
            kills += json.loads(last)["end"][0] < 20 * len(BLOCK)
        mortal.start()
    assert kills > 0, "it had printed everything before it was killed: nothing was tested"
    assert door.out("wait", "printer") == "0"
    same(door.docker("logs", "printer").stdout, BLOCK * 20)
