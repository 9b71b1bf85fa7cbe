"""A hyperd that is started wrongly, or on a machine that lacks something: one clear line, and nothing half-done."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hyperd import Hyperd, running_hyperd
from tests.netns import NetworkNamespace

pytestmark = pytest.mark.vm

ROOT = Path(__file__).resolve().parents[2]
HYPERD = str(Path(sys.executable).with_name("hyperd"))


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="bad-start-", dir="/var/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def nowhere() -> Iterator[NetworkNamespace]:
    """A host that daemons which should not start are started on."""
    with NetworkNamespace("bad") as made:
        yield made


def start(nowhere: NetworkNamespace, folder: Path, *flags: str, before: tuple[str, ...] = ()) -> str:
    """What it printed; it must end by itself with status 1, without a trace, and leave no process or socket."""
    usual = {"--data-root": str(folder / "data"), "--exec-root": str(folder / "exec"), "-H": f"unix://{folder}/s"}
    rest = [item for flag, value in usual.items() if flag not in flags for item in (flag, value)]
    result = nowhere.exec([*before, HYPERD, *rest, *flags], check=False, timeout_s=30)
    text = result.stdout + result.stderr
    assert result.returncode == 1, text
    assert "Traceback" not in text
    assert "this is a bug" not in text
    [*_, last] = text.splitlines()
    assert len(last) < 700
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError):
        probe.connect(str(folder / "s"))
    return text


def config(folder: Path, content: object) -> tuple[str, str]:
    path = folder / "daemon.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return "--config-file", str(path)


def test_configuration_files_that_are_wrong(nowhere: NetworkNamespace, folder: Path) -> None:
    assert "debugg" in start(nowhere, folder, *config(folder, {"debugg": True}))
    assert "not valid JSON" in start(nowhere, folder, *config(folder, "{"))
    assert "not valid JSON" in start(nowhere, folder, *config(folder, "[" * 100_000))
    assert "object" in start(nowhere, folder, *config(folder, "[]"))
    assert "mtu" in start(nowhere, folder, *config(folder, {"mtu": "big"}))
    assert "mtu" in start(nowhere, folder, *config(folder, {"mtu": 10**40}))
    assert "both" in start(nowhere, folder, *config(folder, {"data-root": "/x"}), "--data-root", str(folder / "data"))
    assert "does not exist" in start(nowhere, folder, "--config-file", str(folder / "none.json"))


@pytest.mark.parametrize(
    "flags",
    [
        ("--nonsense",),
        ("--log-level", "loud"),
        ("--bip", "here"),
        ("--bip", "172.29.0.1/99"),
        ("--mtu", "0"),
        ("--accel", "magic"),
        ("--default-memory", "-1"),
        ("--vmm-uid-range", "9-1"),
        ("--group", "no-such-group"),
        ("-H", "unix://" + "/x" * 80),
        ("-H", "unix://relative"),
        ("-H", "tcp://127.0.0.1:2375"),
        ("-H", "carrier-pigeon://x"),
        ("-H", "unix:///proc/hyper.sock"),
        ("--exec-root", "/proc/nothing"),
        ("--data-root", "/proc/nothing"),
        ("--data-root", "/dev/null"),
        ("--pidfile", "/proc/nothing/pid"),
    ],
    ids=" ".join,
)
def test_flags_that_are_wrong(nowhere: NetworkNamespace, folder: Path, flags: tuple[str, ...]) -> None:
    assert start(nowhere, folder, *flags)


def test_a_data_root_that_is_a_file_or_damaged(nowhere: NetworkNamespace, folder: Path) -> None:
    (folder / "data").write_text("a file")
    start(nowhere, folder)
    (folder / "data").unlink()
    (folder / "data").mkdir()
    (folder / "data" / "state.db").write_bytes(b"not a database" * 1000)
    assert "state.db" in start(nowhere, folder)


def test_without_root_it_says_what_it_needs(nowhere: NetworkNamespace, folder: Path) -> None:
    # The repository may lie where only root can go (/root): in a mount namespace of the test's own, it does not.
    closed = [parent for parent in (ROOT, *ROOT.parents) if not parent.stat().st_mode & 0o001]
    script = 'exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"'
    if closed:
        top = closed[-1]
        script = (
            f"mount --bind {ROOT} {folder / 'exec'} && mount -t tmpfs -o mode=755 none {top} && mkdir -p {ROOT} && "
            f"mount --move {folder / 'exec'} {ROOT} && {script}"
        )
        (folder / "exec").mkdir()
    text = start(nowhere, folder, before=("unshare", "--mount", "sh", "-ec", script, "sh"))
    assert "root" in text


def test_two_daemons_on_one_root_or_socket(nowhere: NetworkNamespace, folder: Path) -> None:
    with running_hyperd() as daemon:
        other = folder / "exec"
        text = start(nowhere, folder, "--data-root", str(daemon.data_root), "--exec-root", str(other))
        assert "in use by another hyperd" in text
        start(nowhere, folder, "-H", daemon.door.address)
        assert daemon.door.http("GET", "/_ping").status == 200  # the first one's socket is still there
        second = Hyperd(folder, daemon.namespace)
        second.start()  # with the same --bip
        result = second.door.docker("run", "--rm", "busybox", "true", check=False)
        assert result.returncode == 125
        assert b"bip" in result.stderr
        assert second.door.out("run", "--rm", "--network", "none", "busybox", "echo", "ran") == "ran"
        second.stop()
        assert daemon.door.out("run", "--rm", "busybox", "echo", "ran") == "ran"


LACKING = {
    "no QEMU": (("--qemu", "/nonexistent/qemu"), "/nonexistent/qemu"),
    "a QEMU that is none": (("--qemu", "/bin/true"), "QEMU"),
    "no kernel": (("--kernel", "/nonexistent/vmlinux"), "/nonexistent/vmlinux"),
    "a text for a kernel": (("--kernel", "/etc/passwd"), "/etc/passwd"),
    "a program for a kernel": (("--kernel", "/bin/true"), "/bin/true"),
    "a text for an agent": (("--agent", "/etc/passwd"), "/etc/passwd"),
    "no agent": (("--agent", "/nonexistent/agent"), "/nonexistent/agent"),
}


@pytest.mark.parametrize(("flags", "words"), LACKING.values(), ids=LACKING)
def test_what_is_missing_is_named_at_each_run_and_by_info(flags: tuple[str, ...], words: str) -> None:
    with running_hyperd(*flags) as daemon:
        result = daemon.door.docker("run", "--rm", "--network", "none", "busybox", "true", check=False)
        assert result.returncode == 125, result.stderr
        assert words.encode() in result.stderr
        [line] = [line for line in result.stderr.splitlines() if line.startswith(b"docker: ")]
        assert len(line) < 700
        assert words in daemon.door.docker("info").stdout.decode() + daemon.door.docker("info").stderr.decode()
        assert daemon.door.out("ps", "-aq") == ""
        assert list((daemon.exec_root / "vm").iterdir()) == []
        assert "trace=" not in daemon.log.read_text()


@pytest.mark.slow
def test_a_first_process_that_is_no_agent_fails_the_start_in_time() -> None:
    """busybox as the guest's init: it boots, fills the console with complaints for ever, and never says hello."""
    with running_hyperd("--agent", "/usr/bin/busybox") as daemon:
        result = daemon.door.docker("run", "--rm", "--network", "none", "busybox", "true", check=False, timeout_s=100)
        assert result.returncode == 125, result.stderr
        assert b"agent did not answer within" in result.stderr
        assert len(result.stderr) < 4000
        assert list((daemon.exec_root / "vm").iterdir()) == []
