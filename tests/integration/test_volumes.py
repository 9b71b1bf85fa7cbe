"""Volumes and binds in real VMs: they behave as one Linux file system, from several containers at once, and a guest
stays inside of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hyperd import IMAGE, Hyperd

pytestmark = pytest.mark.vm


@pytest.fixture
def host(tmp_path: Path) -> Path:
    folder = tmp_path / "host"
    folder.mkdir()
    folder.chmod(0o755)
    return folder


@pytest.fixture
def volume(hyperd: Hyperd) -> Iterator[str]:
    name = hyperd.door.out("volume", "create")
    yield name
    hyperd.door.docker("volume", "rm", "-f", name)


def sh(hyperd: Hyperd, script: str, *flags: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return hyperd.door.docker("run", "--rm", "--network", "none", *flags, IMAGE, "sh", "-ec", script, check=check)


def test_a_bind_is_the_hosts_directory(hyperd: Hyperd, host: Path) -> None:
    (host / "in").write_text("from the host\n")
    result = sh(
        hyperd,
        "cat /d/in; echo out >/d/out; chown 1234:5678 /d/out; chmod 4750 /d/out; mkdir /d/sub; mv /d/out /d/sub/moved;"
        "ln -s moved /d/sub/link; ln /d/sub/moved /d/twin; mkfifo /d/pipe; stat -c '%u:%g %a %h' /d/twin",
        "-v",
        f"{host}:/d",
    )
    assert result.stdout.decode().splitlines() == ["from the host", "1234:5678 4750 2"]
    status = (host / "sub" / "moved").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777, status.st_nlink) == (1234, 5678, 0o4750, 2)
    assert os.readlink(host / "sub" / "link") == "moved"
    assert (host / "pipe").is_fifo()
    assert (host / "twin").read_text() == "out\n"


def test_a_read_only_bind_is_read_only_for_the_guests_root_too(hyperd: Hyperd, host: Path) -> None:
    (host / "file").write_text("kept")
    result = sh(
        hyperd,
        "cat /d/file; ! touch /d/new; ! rm /d/file; mount -o remount,rw /d; ! touch /d/new; ! chmod 777 /d/file",
        "--privileged",
        "-v",
        f"{host}:/d:ro",
    )
    assert result.stdout == b"kept"
    assert b"Read-only file system" in result.stderr
    assert [entry.name for entry in host.iterdir()] == ["file"]
    assert (host / "file").read_text() == "kept"


def test_a_file_is_bound_over_a_file_and_where_none_was(hyperd: Hyperd, host: Path) -> None:
    (host / "conf").write_text("one\n")
    script = "cat /etc/hosts /etc/new.conf; echo two >>/etc/new.conf; [ -f /etc/new.conf ]; ! rm /etc/new.conf"
    result = sh(hyperd, script, "-v", f"{host}/conf:/etc/hosts:ro", "-v", f"{host}/conf:/etc/new.conf")
    assert result.stdout == b"one\none\n"
    assert (host / "conf").read_text() == "one\ntwo\n"


def test_a_source_that_is_not_there_is_made_for_v_and_refused_for_mount(hyperd: Hyperd, host: Path) -> None:
    sh(hyperd, "touch /d/x", "-v", f"{host}/new/deep:/d")
    assert (host / "new" / "deep" / "x").exists()
    refused = sh(hyperd, "true", "--mount", f"type=bind,source={host}/none,target=/d", check=False)
    assert refused.returncode == 125
    assert f"bind source path does not exist: {host}/none" in refused.stderr.decode()


def test_what_lies_on_what_is_seen(hyperd: Hyperd, host: Path, volume: str) -> None:
    script = "touch /a/t/x /a/v/y /a/z; [ -e /a/t/x ]; df -T /a/t | grep -q tmpfs; ls /a"
    result = sh(hyperd, script, "-v", f"{volume}:/a/v", "--tmpfs", "/a/t", "-v", f"{host}:/a")
    assert result.stdout.split() == [b"t", b"v", b"z"]
    assert sorted(entry.name for entry in host.iterdir()) == ["t", "v", "z"]
    assert not any((host / "t").iterdir()) and not any((host / "v").iterdir())


def test_an_empty_volume_gets_what_the_image_has(hyperd: Hyperd, volume: str) -> None:
    listing = "cd {}; find . -exec stat -c '%n %a %u %g %F' {{}} + | sort | md5sum"
    image = sh(hyperd, listing.format("/etc")).stdout
    # Docker mounts its own files over an image's, and so over a volume's.
    first = sh(hyperd, "ls /v/passwd; rm /v/passwd; touch /v/mine", "-v", f"{volume}:/v", "-v", f"{volume}:/etc").stdout
    assert first == b"/v/passwd\n", (first, image)
    again = sh(hyperd, "ls /etc/mine; ! ls /etc/passwd", "-v", f"{volume}:/etc").stdout
    assert again == b"/etc/mine\n"
    hyperd.door.docker("volume", "create", f"{volume[:8]}empty")
    try:
        nothing = sh(hyperd, "ls -A /bin; echo end", "--mount", f"source={volume[:8]}empty,target=/home,volume-nocopy")
        assert nothing.stdout.endswith(b"end\n")
    finally:
        hyperd.door.docker("volume", "rm", f"{volume[:8]}empty")


def test_a_volume_is_filled_once_and_not_with_nocopy(hyperd: Hyperd, volume: str) -> None:
    bare = sh(hyperd, "ls -A /bin2 | wc -l; ls /etc/ssl", "-v", f"{volume}:/etc:nocopy", check=False)
    assert b"hosts" not in bare.stderr
    names = sh(hyperd, "ls -A /v", "-v", f"{volume}:/v").stdout.split()
    assert b"passwd" not in names


def test_anonymous_volumes_go_with_rm_v_and_with_run_rm(hyperd: Hyperd) -> None:
    before = set(hyperd.door.out("volume", "ls", "-q").split())
    sh(hyperd, "touch /d/x", "-v", "/d")
    assert set(hyperd.door.out("volume", "ls", "-q").split()) == before
    container = hyperd.door.out("create", "-v", "/d", IMAGE, "true")
    [mount] = json.loads(hyperd.door.out("inspect", "-f", "{{json .Mounts}}", container))
    assert (mount["Type"], mount["Destination"], mount["Driver"], mount["RW"]) == ("volume", "/d", "local", True)
    in_use = hyperd.door.docker("volume", "rm", mount["Name"], check=False)
    assert f"remove {mount['Name']}: volume is in use - [{container}]" in in_use.stderr.decode()
    hyperd.door.docker("rm", container)
    assert mount["Name"] in hyperd.door.out("volume", "ls", "-q").split()
    hyperd.door.docker("volume", "rm", mount["Name"])
    container = hyperd.door.out("create", "-v", "/d", IMAGE, "true")
    hyperd.door.docker("rm", "-v", container)
    assert set(hyperd.door.out("volume", "ls", "-q").split()) == before


def test_volumes_from_another_container(hyperd: Hyperd, host: Path, volume: str) -> None:
    with hyperd.door.name() as name:
        hyperd.door.docker("create", "--name", name, "-v", f"{volume}:/v", "-v", f"{host}:/h:ro", IMAGE)
        sh(hyperd, "echo 1 >/v/x; ! touch /h/y", "--volumes-from", name)
        assert sh(hyperd, "cat /v/x; ! touch /v/z", "--volumes-from", f"{name}:ro").stdout == b"1\n"
    missing = sh(hyperd, "true", "--volumes-from", "nobody", check=False)
    assert b"No such container: nobody" in missing.stderr


def test_a_subpath_is_all_that_is_seen_and_no_link_leads_out_of_it(hyperd: Hyperd, volume: str) -> None:
    sh(
        hyperd,
        "mkdir -p /v/a/b; echo in >/v/a/b/f; ln -s /etc /v/out; ln -s ../../../../etc /v/up",
        "-v",
        f"{volume}:/v",
    )
    seen = sh(hyperd, "cat /s/f", "--mount", f"source={volume},target=/s,volume-subpath=a/b")
    assert seen.stdout == b"in\n"
    for path in ("out", "up", "none"):
        refused = sh(hyperd, "ls /s", "--mount", f"source={volume},target=/s,volume-subpath={path}", check=False)
        assert refused.returncode == 127  # the docker CLI's reading of these words
        assert "no such file or directory" in refused.stderr.decode()


def test_several_containers_share_a_volume_as_one_file_system(hyperd: Hyperd, volume: str) -> None:
    with hyperd.door.name() as one, hyperd.door.name() as two:
        for name in (one, two):
            hyperd.door.docker("run", "-d", "--name", name, "-v", f"{volume}:/v", IMAGE, "sleep", "1000")

        def run(name: str, script: str) -> str:
            return hyperd.door.out("exec", name, "sh", "-ec", script)

        run(one, "echo first >/v/f")
        assert run(two, "cat /v/f") == "first"
        run(two, "echo second >>/v/f; chown 7:8 /v/f")
        assert run(one, "cat /v/f; stat -c %u:%g /v/f").split() == ["first", "second", "7:8"]
        # The other's rename is seen at once, and an open file outlives its name.
        assert run(one, "exec 3</v/f; mv /v/f /v/g; rm /v/g; cat <&3") == "first\nsecond"
        assert run(two, "ls -A /v") == ""
        for number in range(20):
            run(one, f"echo {number} >/v/n")
            assert run(two, "cat /v/n") == str(number)


def test_a_container_with_a_share_is_taken_over_by_the_next_daemon(hyperd: Hyperd, host: Path) -> None:
    with hyperd.door.name() as name:
        hyperd.door.docker("run", "-d", "--name", name, "-v", f"{host}:/d", IMAGE, "sleep", "1000")
        hyperd.kill()
        hyperd.start()
        hyperd.door.docker("exec", name, "touch", "/d/after")
        assert (host / "after").exists()
        [server] = servers(hyperd)
        os.kill(server, 9)
        assert hyperd.door.out("wait", name) == "137"
        error = hyperd.door.out("inspect", "-f", "{{.State.Error}}", name)
        assert "shared directories" in error
    assert servers(hyperd) == []


def servers(hyperd: Hyperd) -> list[int]:
    """The file servers of this daemon's sandboxes, without the processes that these have started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(word.startswith(f"source={hyperd.exec_root}/".encode()) for word in words):
            found.append((int(folder.name), parent))
    pids = {pid for pid, _ in found}
    return [pid for pid, parent in found if parent not in pids]
