"""Whoever owns a clone, its VMM included, cannot change the template that others start from."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator

import pytest
from tests.hyperd import Hyperd, needs_docker_cli, running_hyperd
from tests.templates import SMALL, Memory, rung, sandbox, settled, template_memory, vmms

pytestmark = pytest.mark.vm

_PIDFD_GETFD = 438
"""The system call's number, on every architecture (pidfd_getfd(2))."""
_PUNCH_HOLE = 3
"""FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE (fallocate(2))."""
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
_MAP_FAILED = ctypes.c_void_p(-1).value


@pytest.fixture(scope="module")
def hyperd() -> Iterator[Hyperd]:
    needs_docker_cli()
    with running_hyperd("--pool-size", "1", *SMALL) as daemon:
        settled(daemon)
        yield daemon


def punch(fd: int) -> None:
    if _libc.fallocate(fd, _PUNCH_HOLE, 0, mmap.PAGESIZE) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def make_writable(fd: int) -> None:
    """By a mapping that was for reading first."""
    address = _libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), "mmap")
    if _libc.mprotect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")


ATTACKS: dict[str, Callable[[int], object]] = {
    "write": lambda fd: os.pwrite(fd, b"evil", 0),
    "append": lambda fd: os.pwrite(fd, b"evil", os.fstat(fd).st_size),
    "map": lambda fd: mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
    "map for reading, then write": make_writable,
    "shrink": lambda fd: os.ftruncate(fd, 0),
    "grow": lambda fd: os.ftruncate(fd, os.fstat(fd).st_size * 2),
    "punch a hole": punch,
    "change the seals": lambda fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0),
    "open again": lambda fd: os.pwrite(os.open(f"/proc/self/fd/{fd}", os.O_RDWR), b"evil", 0),
}


def attack(uid: int, memory: Memory, by_name: bool) -> dict[str, int]:
    """What becomes of each attempt, as error numbers (0: it worked). For a process of its own: it becomes that user,
    with the VMM's own descriptor or one that it opens."""
    inherited = -1
    if not by_name:
        pidfd = os.pidfd_open(memory.pid)
        inherited = _libc.syscall(_PIDFD_GETFD, pidfd, memory.number, 0)
        assert inherited >= 0, os.strerror(ctypes.get_errno())
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    fd = os.open(memory.path, os.O_RDWR) if by_name else inherited
    outcomes = {}
    for name, attempt in ATTACKS.items():
        try:
            attempt(fd)
            outcomes[name] = 0
        except OSError as error:
            outcomes[name] = error.errno or -1
    return outcomes


@pytest.mark.parametrize("by_name", [False, True], ids=["its own descriptor", "/proc"])
def test_a_vmm_that_was_broken_into_cannot_write_the_template(hyperd: Hyperd, by_name: bool) -> None:
    [pid] = vmms(hyperd).values()
    assert hyperd.process is not None
    template = template_memory(hyperd.process.pid)
    before = template.digest()
    memory = template_memory(pid)
    assert memory.path.stat().st_ino == template.path.stat().st_ino, "the template itself, not a copy"
    outcomes = hyperd.namespace.python(attack, os.stat(f"/proc/{pid}").st_uid, memory, by_name)
    refused = (errno.EPERM, errno.EACCES)
    assert outcomes.keys() == ATTACKS.keys()
    assert {name: outcome for name, outcome in outcomes.items() if outcome not in refused} == {}
    assert template.digest() == before


SCRIBBLE = """
mount -o remount,size=100% /dev/shm 2>/dev/null
dd if=/dev/urandom of=/dev/shm/x bs=1M count=40
mknod /mem c 1 1 && dd if=/dev/urandom of=/mem bs=4096 seek=16 count=64 conv=notrunc
dd if=/dev/urandom of=/mem bs=1M seek=16 count=64 conv=notrunc
echo c > /proc/sysrq-trigger
"""


def test_a_guest_that_overwrites_its_own_memory_is_alone_with_it(hyperd: Hyperd) -> None:
    door = hyperd.door
    assert hyperd.process is not None
    template = template_memory(hyperd.process.pid)
    before = template.digest()
    with door.name() as evil, door.name() as bystander, door.name() as after:
        sleeper = ("--network", "none", "busybox", "sleep", "1000")
        door.docker("run", "-d", "--name", bystander, *sleeper)
        settled(hyperd)
        door.docker(
            "run", "--name", evil, "--privileged", "--network", "none", "busybox", "sh", "-c", SCRIBBLE, check=False
        )
        state = door.out("inspect", "-f", "{{.State.Status}} {{.State.Error}}", evil)
        assert state.startswith("exited "), state
        assert template.digest() == before
        door.docker("run", "-d", "--name", after, *sleeper)
        assert {rung(hyperd, name) for name in (evil, bystander, after)} <= {"pool", "template"}
        for name in (bystander, after):
            assert sandbox(hyperd, name) in vmms(hyperd)
            assert door.out("exec", name, "echo", "unharmed") == "unharmed"
