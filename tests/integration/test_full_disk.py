"""A data root without space: clear errors, nothing half-done, what runs runs on; with space again, all works again.

The data root is a small tmpfs in a mount namespace of the daemon's own, filled from outside.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.hyperd import Hyperd
from tests.netns import NetworkNamespace, host_and_outside
from tests.unit.images.store_tools import docker_archive, image, layer

pytestmark = pytest.mark.vm

SIZE_MIB = 320
"""Images are only taken while 256 MiB stay free."""
_MOUNT = 'mount -t tmpfs -o size="$1"m none "$2" && shift 2 && exec "$@"'


class SmallDisk(NetworkNamespace):
    """A host whose ``folder`` is a small file system of what is started by :meth:`popen`."""

    def __init__(self, host: NetworkNamespace, folder: Path) -> None:
        self._host = host
        self._folder = folder
        self.name = host.name

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        own = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNT, "sh"]
        return self._host.popen([*own, str(SIZE_MIB), str(self._folder), *argv], **options)


class Full:
    """The daemon and its disk."""

    def __init__(self, hyperd: Hyperd) -> None:
        assert hyperd.process is not None
        self.hyperd = hyperd
        self.door = hyperd.door
        self.root = Path(f"/proc/{hyperd.process.pid}/root{hyperd.data_root}")
        self.ballast = self.root / "ballast"

    def fill(self) -> None:
        with self.ballast.open("ab", buffering=0) as file:
            block = bytes(1 << 20)
            while block:
                try:
                    file.write(block)
                except OSError:
                    block = block[: len(block) // 2]

    def free(self) -> None:
        self.ballast.unlink(missing_ok=True)

    def inventory(self) -> tuple[list[str], list[str], list[str]]:
        files = [str(path) for path in self.root.rglob("*") if "state.db" not in path.name]
        containers = [item["Id"] for item in self.door.http("GET", "/containers/json?all=1").json]
        return sorted(files), containers, [item["Id"] for item in self.door.http("GET", "/images/json").json]


@pytest.fixture(scope="module")
def disk() -> Iterator[Full]:
    folder = Path(tempfile.mkdtemp(prefix="full-", dir="/var/tmp"))
    folder.chmod(0o711)
    (folder / "data").mkdir()
    try:
        with host_and_outside() as (host, _outside):
            daemon = Hyperd(folder, SmallDisk(host, folder / "data"))
            daemon.start()
            made = Full(daemon)
            made.door.docker("run", "-d", "--name", "good", "--network", "none", "busybox", "sleep", "1000")
            yield made
            made.free()
            made.door.docker("rm", "-f", "good")
            daemon.stop()
            traces = [line for line in daemon.log.read_text().splitlines() if "trace=" in line]
            assert traces == []
            assert daemon.leftovers() == []
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def space_returns(disk: Full) -> Iterator[None]:
    """After each test there is space again, and things work."""
    yield
    disk.free()
    assert disk.door.out("exec", "good", "echo", "still here") == "still here"
    assert disk.door.out("create", "--name", "after", "--network", "none", "busybox", "true")
    disk.door.docker("rm", "after")


def test_create_without_space_is_an_error_that_says_so(disk: Full) -> None:
    disk.fill()
    before = disk.inventory()
    answer = disk.door.http("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"NetworkMode": "none"}})
    assert answer.status == 500, answer.body
    assert "space" in answer.message.lower() or "full" in answer.message.lower()
    assert disk.inventory() == before


def test_load_and_import_without_space_are_errors_that_say_so(disk: Full) -> None:
    archive = docker_archive({"big:latest": image(layer({"big": os.urandom(100 << 20)}))})
    before = disk.inventory()
    for target in ("/images/load?quiet=1", "/images/create?fromSrc=-&repo=big"):
        answer = disk.door.http("POST", target, raw=archive, headers={"Content-Type": "application/x-tar"})
        text = answer.message if answer.status >= 400 else json.loads(answer.body.splitlines()[-1])["error"]
        assert "space" in text.lower(), text
        assert disk.inventory() == before


def test_a_container_that_writes_when_the_host_is_full_gets_an_error_and_nobody_else(disk: Full) -> None:
    door = disk.door
    door.docker("run", "-d", "--name", "writer", "--network", "none", "busybox", "sleep", "1000")
    disk.fill()
    script = "dd if=/dev/zero of=/fill bs=1M count=400; sync; echo status $?"
    result = door.docker("exec", "writer", "sh", "-c", script, check=False, timeout_s=60)
    assert b"error" in result.stderr.lower() or b"status" in result.stdout
    assert door.out("exec", "good", "echo", "still here") == "still here"
    assert door.http("GET", "/_ping").status == 200
    disk.free()
    door.docker("rm", "-f", "writer")


def test_a_log_that_cannot_grow_stops_nobody(disk: Full) -> None:
    door = disk.door
    talker = door.popen(
        "run", "-i", "--name", "talker", "--network", "none", "busybox", "sh", "-c",
        "read x; i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; read x; echo last",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert talker.stdin is not None
    assert talker.stdout is not None
    deadline_s = time.monotonic() + 20
    while "talker" not in door.out("ps", "--format", "{{.Names}}"):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    disk.fill()
    talker.stdin.write(b"go\n")
    talker.stdin.flush()
    for number in range(3000):
        assert talker.stdout.readline() == b"line %d\n" % number
    disk.free()
    talker.stdin.write(b"end\n")
    talker.stdin.flush()
    assert talker.communicate(timeout=30)[0] == b"last\n"
    assert door.out("logs", "talker").splitlines()[-1] == "last"
    door.docker("rm", "talker")


def test_an_exit_while_the_disk_is_full_is_not_forgotten(disk: Full) -> None:
    door = disk.door
    ending = door.popen(
        "run", "-i", "--name", "ending", "--network", "none", "busybox", "sh", "-c", "echo up; read x; exit 5",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert ending.stdout is not None
    assert ending.stdout.readline() == b"up\n"
    disk.fill()
    ending.communicate(b"end\n", timeout=30)
    assert ending.returncode == 5
    assert door.out("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "ending") == "exited 5"
    disk.free()
    door.docker("rm", "ending")


def test_a_full_disk_can_be_cleared_by_removing_things(disk: Full) -> None:
    door = disk.door
    door.docker("create", "--name", "old", "--network", "none", "busybox", "true")
    disk.fill()
    result = door.docker("rm", "old", check=False)
    if result.returncode != 0:  # a transaction needs some pages of its own: then it says so
        assert b"space" in result.stderr.lower() or b"full" in result.stderr.lower()
        disk.free()
        door.docker("rm", "old")
    assert "old" not in door.out("ps", "-a", "--format", "{{.Names}}")
