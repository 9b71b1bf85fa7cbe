"""Network namespaces for tests: whole hosts with their own interfaces, addresses, routes and rules, on one machine.

A socket belongs to the namespace it was made in, for ever: so clients and servers of a test are plain sockets, made by
:meth:`NetworkNamespace.listen` and :meth:`NetworkNamespace.connect`, and used from the test's own thread; no helper
processes, no waiting. Needs root.

    @pytest.fixture
    def host(): ...            # tests/integration/conftest.py has `host` and `outside`, connected by a veth pair

    async def test_something(host, outside):
        with host.entered():                      # this thread is inside now: what it opens belongs to that host
            network = await BridgeNetwork.open(...)
        daemon = host.popen(["hyperd", ...])      # ended with the namespace
        host.python(function, argument)           # in a child process, which may die as it likes
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import pickle
import select
import signal
import socket
import subprocess
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_ETH_P_ARP = 0x0806

HOST_ADDRESS = "198.51.100.1"
OUTSIDE_ADDRESS = "198.51.100.2"
"""TEST-NET-2 (RFC 5737): the two ends of the veth pair that :func:`host_and_outside` makes."""


class NetworkNamespace:
    """One namespace with ``lo`` up. Close it (or use ``with``): everything in it ends then, including what
    :meth:`popen` started."""

    def __init__(self, role: str = "n") -> None:
        self.name = f"hy{role}-{os.getpid()}-{next(_numbers)}"
        self._processes: list[subprocess.Popen[bytes]] = []
        _run(["ip", "netns", "add", self.name])
        self.ip("link", "set", "lo", "up")

    def __enter__(self) -> NetworkNamespace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what :meth:`popen` started (each with its session, if it leads one), then delete the namespace."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._processes.clear()
        if os.path.exists(f"/run/netns/{self.name}"):
            _run(["ip", "netns", "delete", self.name])

    # -- running things inside

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is inside; what it makes (sockets, taps, child processes, /proc/sys/net) belongs to the
        namespace."""
        outer = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        inner = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(inner)
            try:
                yield
            finally:
                _setns(outer)
        finally:
            os.close(inner)
            os.close(outer)

    def exec(
        self, argv: Sequence[str], *, check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, text output captured."""
        return _run(["ip", "netns", "exec", self.name, *argv], check=check, timeout_s=timeout_s)

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a command; killed when the namespace closes. Not by ``ip netns exec``: its own /sys has no cgroups."""
        process = subprocess.Popen(["nsenter", f"--net=/run/netns/{self.name}", *argv], **options)
        self._processes.append(process)
        return process

    def python(self, function: Callable[..., T], *arguments: object, timeout_s: float = 60) -> T:
        """Call the function in a forked child that is inside; its result or exception comes back pickled.

        A child that dies (``os._exit``, a signal) raises ChildProcessError with its status."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            self._child(writer, function, arguments)
        os.close(writer)
        try:
            data = _read_all(reader, timeout_s)
        except TimeoutError:
            os.kill(child, signal.SIGKILL)
            raise
        finally:
            os.close(reader)
            _, status = os.waitpid(child, 0)
        if not data:
            raise ChildProcessError(f"the child ended with status {os.waitstatus_to_exitcode(status)} and no result")
        succeeded, value = pickle.loads(data)
        if succeeded:
            return value  # type: ignore[no-any-return]
        raise value

    def _child(self, writer: int, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
        try:
            inner = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
            _setns(inner)
            outcome: tuple[bool, object] = (True, function(*arguments))
        except BaseException as error:
            error.add_note("in the child:\n" + traceback.format_exc())
            outcome = (False, error)
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(outcome, pipe)
        os._exit(0)

    # -- interfaces and sockets

    def ip(self, *arguments: str) -> str:
        """``ip`` of iproute2 on this namespace; its output."""
        return _run(["ip", "-n", self.name, *arguments]).stdout

    def nft(self, *arguments: str) -> str:
        return self.exec(["nft", *arguments]).stdout

    def open_socket(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """An IPv4 socket with a timeout of 5 s."""
        with self.entered():
            made = socket.socket(socket.AF_INET, kind)
        made.settimeout(5)
        return made

    def packets(self, interface: str) -> socket.socket:
        """A raw socket for whole Ethernet frames: sends any, receives ARP (but its own)."""
        with self.entered():
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP))
            made.bind((interface, _ETH_P_ARP))
        made.settimeout(5)
        return made

    def listen(self, address: str, port: int) -> socket.socket:
        """A listening TCP socket."""
        made = self.open_socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((address, port))
            made.listen(16)
        except BaseException:
            made.close()
            raise
        return made

    def connect(self, address: str, port: int, *, timeout_s: float = 5) -> socket.socket:
        """A connected TCP socket."""
        made = self.open_socket()
        made.settimeout(timeout_s)
        try:
            made.connect((address, port))
        except BaseException:
            made.close()
            raise
        return made


def connect_by_veth(left: NetworkNamespace, left_name: str, right: NetworkNamespace, right_name: str) -> None:
    """A veth pair, both ends up."""
    left.ip("link", "add", left_name, "type", "veth", "peer", "name", right_name, "netns", right.name)
    left.ip("link", "set", left_name, "up")
    right.ip("link", "set", right_name, "up")


@contextlib.contextmanager
def host_and_outside() -> Iterator[tuple[NetworkNamespace, NetworkNamespace]]:
    """A host (``up0``, 198.51.100.1) and another host beside it (``up0``, 198.51.100.2), without routes but the link's
    own."""
    with NetworkNamespace("h") as host, NetworkNamespace("o") as outside:
        connect_by_veth(host, "up0", outside, "up0")
        host.ip("address", "add", f"{HOST_ADDRESS}/24", "dev", "up0")
        outside.ip("address", "add", f"{OUTSIDE_ADDRESS}/24", "dev", "up0")
        yield host, outside


def _read_all(descriptor: int, timeout_s: float) -> bytes:
    chunks: list[bytes] = []
    while True:
        ready, _, _ = select.select([descriptor], [], [], timeout_s)
        if not ready:
            raise TimeoutError(f"the child gave no result within {timeout_s} s")
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


def _run(argv: Sequence[str], *, check: bool = True, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} failed with status {done.returncode}: {done.stderr.strip()}")
    return done
