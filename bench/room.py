"""A room for another engine: network and mount namespaces of its own, so that its firewall rules, bridges, locks
and mounts concern nobody and are gone with it; Debian's packages that ``tools/peers`` unpacked are laid over /usr
and /etc in there.

What runs inside is started by :meth:`Room.popen`, or from a thread that :meth:`Room.enter` has moved inside for
good: a timed command must not have an ``nsenter`` before it. Neighbours: ``docker_engine.py``,
``podman_engine.py``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.engine import NotAvailable
from tests.netns import NetworkNamespace, host_and_outside

_CLONE_FS, _CLONE_NEWNS, _CLONE_NEWNET = 0x200, 0x20000, 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

_UNSHARE = ("unshare", "--mount", "--propagation", "private")
# $1: a folder of the room's own; $2: what to lay over /usr and /etc, or "". What is written to /etc, /usr, /run and
# /dev/shm goes to memory and is gone with the room. Ends when its stdin does.
_FURNISH = """
mount -t tmpfs -o mode=755 none "$1/over"
mount -t tmpfs -o mode=755 none /run
mount -t tmpfs -o mode=1777 none /dev/shm
for name in usr etc; do
    upper=$1/over/$name/upper work=$1/over/$name/work
    mkdir -p "$upper" "$work"
    mount -t overlay -o "lowerdir=${2:+$2/$name:}/$name,upperdir=$upper,workdir=$work" none /$name
done
echo ready
exec cat
"""


@dataclass
class Room:
    """``host`` is the network inside, ``outside`` a machine beside it; ``folder`` may be used by who lives here."""

    folder: Path
    host: NetworkNamespace
    outside: NetworkNamespace
    keeper: subprocess.Popen[bytes]

    def popen(
        self, argv: Sequence[str], *, log: Path, environment: Mapping[str, str], prefix: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Start a command in here; its output goes to ``log``. ``prefix``: what leads to it outside of the room."""
        enter = ["nsenter", f"--mount=/proc/{self.keeper.pid}/ns/mnt", f"--net=/proc/{self.keeper.pid}/ns/net"]
        with log.open("ab") as sink:
            return subprocess.Popen(
                [*prefix, *enter, *argv], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=dict(environment)
            )

    def run(self, argv: Sequence[str]) -> None:
        """Run a small command in here to its end; RuntimeError with what it said when it fails."""
        result = subprocess.run(
            ["nsenter", f"--mount=/proc/{self.keeper.pid}/ns/mnt", f"--net=/proc/{self.keeper.pid}/ns/net", *argv],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {result.stderr.strip()}")

    def enter(self) -> None:
        """Move the calling thread, and what it starts from now on, inside; there is no way back."""
        _call("unshare", _libc.unshare(_CLONE_FS))
        for name, kind in (("net", _CLONE_NEWNET), ("mnt", _CLONE_NEWNS)):
            descriptor = os.open(f"/proc/{self.keeper.pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _call(f"setns {name}", _libc.setns(descriptor, kind))
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def room(folder: Path, laid_over: Path | None) -> Iterator[Room]:
    """A furnished room; ``laid_over`` has ``usr`` and ``etc``. What still runs in it at the end is the caller's to
    end."""
    folder.mkdir()
    (folder / "over").mkdir()
    with host_and_outside() as (host, outside):
        keeper = host.popen(
            [*_UNSHARE, "sh", "-ec", _FURNISH, "sh", str(folder), str(laid_over or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert keeper.stdin is not None and keeper.stdout is not None and keeper.stderr is not None
        if keeper.stdout.readline() != b"ready\n":
            reason = keeper.stderr.read().decode(errors="replace").strip()
            raise NotAvailable(f"no room for another engine (namespaces, tmpfs, overlayfs): {reason}")
        try:
            yield Room(folder, host, outside, keeper)
        finally:
            keeper.stdin.close()
            keeper.wait(10)


def _call(what: str, result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
