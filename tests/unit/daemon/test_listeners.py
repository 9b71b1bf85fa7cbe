from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hyper.daemon.listeners import DataRoot, Listeners, PidFile, find_group, parse_host
from hyper.errors import Conflict, FailedPrecondition, HyperError, InvalidArgument, Unsupported

NOBODY_GID = 65534


@pytest.mark.parametrize("text", ["unix:///run/x.sock", "/run/x.sock"])
def test_unix_addresses_are_read(text: str) -> None:
    assert str(parse_host(text)) == "unix:///run/x.sock"


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("tcp://0.0.0.0:2376", Unsupported, "mutual TLS"),
        ("0.0.0.0:2376", Unsupported, "mutual TLS"),
        ("fd://", Unsupported, "socket activation"),
        ("unix://relative.sock", InvalidArgument, "absolute path"),
        ("npipe:////./pipe", InvalidArgument, "unknown kind"),
    ],
)
def test_addresses_that_are_not_there_are_refused_with_an_alternative(
    text: str, kind: type[HyperError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        parse_host(text)


def test_socket_is_for_its_group_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "hyper.sock"
    with Listeners.open([f"unix://{path}"], str(NOBODY_GID)) as listeners:
        found = path.stat()
        assert stat.S_IMODE(found.st_mode) == 0o660
        assert found.st_gid == (NOBODY_GID if os.geteuid() == 0 else found.st_gid)
        assert listeners.addresses == [f"unix://{path}"]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


async def test_socket_is_removed_after_its_server_has_closed_it(tmp_path: Path) -> None:
    path = tmp_path / "hyper.sock"
    with Listeners.open([str(path)], None) as listeners:
        [listener] = listeners.sockets
        server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), sock=listener)
        server.close()
        await server.wait_closed()
        assert listener.fileno() < 0
        assert path.exists()
    assert not path.exists()


def test_socket_of_a_dead_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "hyper.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with Listeners.open([str(path)], None), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_socket_of_a_live_daemon_is_left_to_it(tmp_path: Path) -> None:
    path, other = tmp_path / "hyper.sock", tmp_path / "other.sock"
    with Listeners.open([str(path)], None):
        with pytest.raises(Conflict, match=r"another daemon is listening on .*hyper\.sock"):
            Listeners.open([str(other), str(path)], None)
        assert path.exists()
        assert not other.exists()  # all or none


def test_late_close_does_not_remove_a_successors_socket(tmp_path: Path) -> None:
    path = tmp_path / "hyper.sock"
    first = Listeners.open([str(path)], None)
    path.unlink()
    with Listeners.open([str(path)], None):
        first.close()
        assert path.exists()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "hyper.sock"
    make(path)
    with pytest.raises(FailedPrecondition, match="exists and is not a socket"):
        Listeners.open([str(path)], None)
    assert path.exists()


def test_too_long_a_path_is_refused_with_the_limit(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="longer than 107 bytes"):
        Listeners.open([str(tmp_path / ("x" * 120))], None)


def test_same_address_twice_is_one_socket(tmp_path: Path) -> None:
    path = tmp_path / "hyper.sock"
    with Listeners.open([str(path), f"unix://{path}"], None) as listeners:
        assert len(listeners.sockets) == 1


def test_missing_group_is_refused_only_when_it_was_asked_for() -> None:
    with pytest.raises(InvalidArgument, match="--group no-such-group"):
        find_group("no-such-group")
    assert find_group(None) >= 0


def test_second_daemon_on_a_root_is_refused_with_the_firsts_pid(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with DataRoot.lock(root), pytest.raises(Conflict, match=rf"in use by another hyperd \(pid {os.getpid()}\)"):
        DataRoot.lock(root)
    DataRoot.lock(root).close()


def test_killed_daemon_leaves_no_lock(tmp_path: Path) -> None:
    root = tmp_path / "data"
    script = (
        "import os, sys; from pathlib import Path; from hyper.daemon.listeners import DataRoot;"
        "lock = DataRoot.lock(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"locked\n"
        with pytest.raises(Conflict, match=rf"pid {child.pid}"):
            DataRoot.lock(root)
        child.kill()
        child.wait()
    DataRoot.lock(root).close()


def test_root_id_follows_from_the_place(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with DataRoot.lock(tmp_path / "data") as first:
        root_id = first.root_id
    with DataRoot.lock(tmp_path / "link") as second, DataRoot.lock(tmp_path / "other") as other:
        assert second.root_id == root_id != other.root_id
    assert len(root_id) == 12


def test_unusable_root_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailedPrecondition, match="--data-root"):
        DataRoot.lock(tmp_path / "file" / "data")


def test_pid_file_is_ours_while_we_run(tmp_path: Path) -> None:
    path = tmp_path / "run" / "hyperd.pid"
    with PidFile.write(path):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "junk", "1\n", "4194303\n"])
def test_stale_pid_file_is_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "hyperd.pid"
    path.write_text(content)
    PidFile.write(path).close()
    assert not path.exists()


def test_pid_file_of_a_running_hyperd_is_respected(tmp_path: Path) -> None:
    path = tmp_path / "hyperd.pid"
    script = "import sys; print('up', flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", script, "hyperd"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        path.write_text(f"{child.pid}\n")
        with pytest.raises(Conflict, match=rf"running hyperd \(pid {child.pid}\)"):
            PidFile.write(path)
        child.kill()
    assert path.exists()


def test_pid_file_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "hyperd.pid"
    first = PidFile.write(path)
    path.write_text("1\n")
    first.close()
    assert path.exists()
