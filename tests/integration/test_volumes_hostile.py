"""A hostile guest and its shared directories: it owns its kernel's view of them, and cannot leave them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from tests.hyperd import IMAGE, Hyperd
from tests.integration.test_volumes import servers, sh

pytestmark = pytest.mark.vm


@pytest.fixture
def host(tmp_path: Path) -> Path:
    folder = tmp_path / "host"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    return folder


def test_the_root_of_the_share_leads_nowhere_and_holds_only_what_was_given(hyperd: Hyperd, host: Path) -> None:
    """A privileged container can mount the whole file system that the agent binds from."""
    (host / "file").write_text("x")
    script = """
        mkdir /m; mount -t virtiofs hyper-share /m
        find /m /m/.. /m/../.. -xdev -name secret
        ! touch /m/new; ! mkdir /m/0/../new; ! rm -r /m/0; ! mv /m/0 /m/2
        ! ls /m/0/../../secret; ! ls /m/0/../secret
        ! ln /m/0/file /m/1/file
    """
    result = sh(hyperd, script, "--privileged", "-v", f"{host}:/a", "-v", f"{host}:/b:ro")
    assert result.stdout == b""
    assert (host / "file").read_text() == "x"
    assert not (host.parent / "new").exists()


def test_links_that_a_guest_makes_are_only_text_to_the_host(hyperd: Hyperd, host: Path) -> None:
    script = f"""
        ln -s {host.parent}/secret /d/absolute; ln -s ../secret /d/relative; ln -s / /d/root
        ! cat /d/absolute; ! cat /d/relative; ! ls /d/root{host.parent}/secret
        ! sh -c 'echo changed >/d/absolute'; ! sh -c 'echo changed >/d/relative'
        mkdir /d/sub; ! mv /d/sub /d/root{host.parent}/moved
    """
    assert b"secret\n" not in sh(hyperd, script, "--privileged", "-v", f"{host}:/d").stdout
    assert (host.parent / "secret").read_text() == "secret"
    assert not (host.parent / "moved").exists()


def test_no_device_node_is_made_nor_opened(hyperd: Hyperd, host: Path) -> None:
    """One that root on the host has put there is the guest's own device, if any, never the host's."""
    os.mknod(host / "full", 0o666 | stat.S_IFCHR, os.makedev(1, 7))
    script = """
        ! mknod /d/disk b 8 0; ! mknod /d/mem c 1 1; ! mknod /d/null c 1 3
        mkfifo /d/pipe
    """
    sh(hyperd, script, "--privileged", "-v", f"{host}:/d")
    assert sorted(entry.name for entry in host.iterdir()) == ["full", "pipe"]


def test_directories_swapped_for_links_while_others_walk_lead_nowhere(hyperd: Hyperd, host: Path) -> None:
    """Two VMs at once: one swaps a directory for a link to the outside, the other keeps writing through the path."""
    outside = host.parent / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    with hyperd.door.name() as swapper:
        loop = f"cd /d; while :; do mkdir x 2>/dev/null; rm -rf x; ln -s {outside} x; rm x; done"
        hyperd.door.docker("run", "-d", "--name", swapper, "-v", f"{host}:/d", IMAGE, "sh", "-c", loop)
        walk = "n=0; while [ $n -lt 3000 ]; do echo hit >/d/x/f$n 2>/dev/null || :; n=$((n+1)); done"
        sh(hyperd, walk, "-v", f"{host}:/d")
    assert list(outside.iterdir()) == []


def test_the_server_has_left_the_host_behind(hyperd: Hyperd, host: Path) -> None:
    with hyperd.door.name() as name:
        hyperd.door.docker("run", "-d", "--name", name, "-v", f"{host}:/d", IMAGE, "sleep", "1000")
        [parent] = servers(hyperd)
        [child] = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        assert os.listdir(f"/proc/{child}/root/") == ["0"]
        for kind in ("mnt", "net", "pid"):
            assert os.readlink(f"/proc/{child}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
        status = dict(line.split(":", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines())
        assert status["Seccomp"].strip() == "2"
        allowed = {0, 1, 3, 4, 6, 7, 31}  # CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, SETFCAP
        effective = int(status["CapEff"].strip(), 16)
        assert {bit for bit in range(64) if effective >> bit & 1} <= allowed
        mounts = Path(f"/proc/{child}/mountinfo").read_text()
        assert all("nodev" in line.split(" - ")[0] for line in mounts.splitlines() if " /0 " in line)
        assert str(host.parent / "secret") not in mounts


def test_a_share_that_nobody_serves_any_more_ends_the_container_and_leaves_nothing(hyperd: Hyperd, host: Path) -> None:
    with hyperd.door.name() as name:
        hyperd.door.docker("run", "-d", "--name", name, "-v", f"{host}:/d", IMAGE, "sleep", "1000")
        hyperd.kill()
        [server] = servers(hyperd)
        os.kill(server, 9)
        hyperd.start()
        state = hyperd.door.out("inspect", "-f", "{{.State.Status}}: {{.State.Error}}", name)
        assert state.startswith("exited: "), state
    assert servers(hyperd) == []
