"""A whole Debian (minbase with Python and nginx) imported and used as a user would: nothing in it was made for Hyper.

One VM serves most tests (``inside``); what needs a network has its own (``published``). Neighbours:
``tests/debian_image.py`` makes the image; ``test_images_vm.py`` does the same for made-up images with every oddity.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.debian_image import debian_tar
from tests.hyperd import Hyperd, needs_docker_cli, running_hyperd
from tests.integration.image_listing import expected
from tests.netns import HOST_ADDRESS

pytestmark = pytest.mark.vm

IMAGE = "debian:test"
PORT = 8080
OURS = {b".dockerenv", b"etc/hostname", b"etc/hosts", b"etc/resolv.conf"}
"""Files that the engine puts over the image's, as Docker does."""

# Every file as the guest's kernel shows it, as JSON lines; MD5 because translated code computes it 25 times faster than
# SHA-256.
LISTING = r"""
import hashlib, json, os, stat
for folder, folders, files in os.walk(b"/"):
    if folder == b"/":
        folders[:] = [name for name in folders if name not in (b"proc", b"sys", b"dev")]
    for path in [folder, *(os.path.join(folder, name) for name in files),
                 *(os.path.join(folder, name) for name in folders if os.path.islink(os.path.join(folder, name)))]:
        status = os.lstat(path)
        content = ""
        if stat.S_ISLNK(status.st_mode):
            content = os.fsdecode(os.readlink(path))
        elif stat.S_ISREG(status.st_mode):
            content = hashlib.md5(open(path, "rb").read()).hexdigest()
        attributes = [[name, os.getxattr(path, name, follow_symlinks=False).hex()]
                      for name in sorted(os.listxattr(path, follow_symlinks=False))]
        print(json.dumps([os.fsdecode(path)[1:], status.st_mode, status.st_uid, status.st_gid,
                          0 if stat.S_ISDIR(status.st_mode) else status.st_size,
                          1 if stat.S_ISDIR(status.st_mode) else status.st_nlink,
                          status.st_rdev, status.st_mtime_ns, content, attributes]))
"""

PROGRAM = r"""
import json, mmap, multiprocessing, os, sqlite3, subprocess, sys, tempfile, threading

done = {}
database = sqlite3.connect("/srv/database")
done["journal"] = database.execute("pragma journal_mode=wal").fetchone()[0]
database.execute("create table numbers(value)")
database.executemany("insert into numbers values (?)", [(number,) for number in range(10_000)])
database.commit()
database.close()
done["sum"] = sqlite3.connect("/srv/database").execute("select sum(value) from numbers").fetchone()[0]

results = []
threads = [threading.Thread(target=lambda n=n: results.append(sum(range(n * 1000)))) for n in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
done["threads"] = len(results)
with multiprocessing.Pool(4) as pool:
    done["processes"] = sum(pool.map(abs, range(-100, 0)))
done["child"] = subprocess.run(["sh", "-c", "exit 7"]).returncode

shm = os.statvfs("/dev/shm")
done["shm"] = shm.f_frsize * shm.f_blocks
fd = os.open("/srv/sparse", os.O_RDWR | os.O_CREAT, 0o640)
os.ftruncate(fd, 500 << 20)
os.pwrite(fd, b"end", (500 << 20) - 3)
os.fsync(fd)
status = os.fstat(fd)
done["sparse"] = [status.st_size, status.st_blocks * 512 < 1 << 20, os.lseek(fd, 0, os.SEEK_DATA) > 499 << 20]
mapped = mmap.mmap(fd, 1 << 20)
mapped[:4] = b"mmap"
mapped.flush()
done["mapped"] = os.pread(fd, 4, 0).decode()
os.setxattr("/srv/sparse", "user.note", b"kept")
done["xattr"] = os.getxattr("/srv/sparse", "user.note").decode()

os.link("/usr/bin/env", "/usr/bin/env-too")  # of a file that only the image has: copied up, one file still
one, two = os.stat("/usr/bin/env"), os.stat("/usr/bin/env-too")
done["linked"] = [one.st_nlink, one.st_ino == two.st_ino]
os.unlink("/usr/bin/env-too")
with tempfile.NamedTemporaryFile() as file:
    done["temporary"] = file.name.startswith("/tmp/")
done["encoding"] = [sys.getfilesystemencoding(), sys.stdout.encoding]
json.dump(done, sys.stdout)
"""


@pytest.fixture(scope="module")
def tar() -> Path:
    return debian_tar()


@pytest.fixture(scope="module")
def daemon(tar: Path) -> Iterator[Hyperd]:
    needs_docker_cli()
    with running_hyperd() as daemon:
        daemon.door.docker("import", str(tar), IMAGE, timeout_s=120)
        yield daemon
        for line in daemon.door.out("ps", "-aq").split():
            daemon.door.docker("rm", "-f", line)


Inside = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def inside(daemon: Hyperd) -> Inside:
    """Runs a command in a container that has only ``lo``; its result, whatever the exit status."""
    daemon.door.docker("run", "-d", "--name", "inside", "--network", "none", IMAGE, "sleep", "1000000")

    def run(*command: str, input: bytes | None = None, user: str = "root") -> subprocess.CompletedProcess[bytes]:
        return daemon.door.docker("exec", "-i", "-u", user, "inside", *command, input=input, check=False, timeout_s=180)

    return run


def succeeded(result: subprocess.CompletedProcess[bytes]) -> str:
    assert result.returncode == 0, (result.stdout + result.stderr).decode(errors="replace")
    return result.stdout.decode()


def page(url: str) -> bytes:
    """What is served there; tries again while the server is on its way up."""
    deadline_s = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                content: bytes = answer.read()
                return content
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


def contents(tar: Path) -> dict[bytes, str]:
    """MD5 of every regular file and hard link, by name."""
    found: dict[bytes, str] = {}
    with tarfile.open(tar, encoding="utf-8", errors="surrogateescape") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() or member.islnk() else None
            if file is not None:
                name = os.path.normpath(member.name).encode("utf-8", "surrogateescape")
                found[name] = hashlib.file_digest(file, "md5").hexdigest()
    return found


# Before the others, which write.
def test_every_file_is_as_the_tar_says(inside: Inside, tar: Path) -> None:
    sums = contents(tar)
    wanted: dict[bytes, tuple[object, ...]] = {}
    for name, values in expected(tar).items():
        mode, uid, gid, size, links, device, mtime_ns, target, attributes = values
        assert isinstance(mode, int) and isinstance(attributes, tuple)
        content = target.decode("utf-8", "surrogateescape") if isinstance(target, bytes) else sums[name]
        shown = tuple((key, value.hex()) for key, value in attributes)
        links = 1 if stat.S_ISDIR(mode) else links
        wanted[name] = (mode, uid, gid, size, links, device, mtime_ns, content, shown)
    found: dict[bytes, tuple[object, ...]] = {}
    for line in succeeded(inside("python3", "-", input=LISTING.encode())).splitlines():
        path, *values, attributes = json.loads(line)
        found[path.encode("utf-8", "surrogateescape")] = (*values, tuple((key, value) for key, value in attributes))
    # The engine's own mount points and what it puts over the image's files.
    skipped = {name for name in wanted if name in OURS or name.split(b"/")[0] in (b"proc", b"sys", b"dev")}
    changed_times = {b"", b"etc"}  # of folders in which mount points had to be made
    differing = {
        name: (values, found.get(name))
        for name, values in wanted.items()
        if name not in skipped | changed_times and found.get(name) != values
    }
    assert differing == {}
    assert set(found) - set(wanted) - OURS == set()
    modes = {name: int(str(values[0])) for name, values in found.items()}
    assert modes[b"usr/bin/sudo"] & stat.S_ISUID
    assert found[b"usr/bin/ping"][-1] == (("security.capability", "0100000200200000000000000000000000000000"),)


def test_dpkg_finds_every_file_of_every_package_unchanged(inside: Inside) -> None:
    assert succeeded(inside("dpkg", "--verify")) == ""


def test_python_writes_databases_files_and_starts_threads_and_processes(inside: Inside) -> None:
    assert json.loads(succeeded(inside("python3", "-", input=PROGRAM.encode()))) == {
        "journal": "wal",
        "sum": 49_995_000,
        "threads": 16,
        "processes": 5050,
        "child": 7,
        "shm": 64 << 20,
        "sparse": [500 << 20, True, True],
        "mapped": "mmap",
        "xattr": "kept",
        "linked": [2, True],
        "temporary": True,
        "encoding": ["utf-8", "utf-8"],
    }


def test_python_prints_what_it_is_told(daemon: Hyperd) -> None:
    code = "import sys; print('hello', 6 * 7, sys.version_info[:2])"
    assert daemon.door.out("run", "--rm", "--network", "none", IMAGE, "python3", "-c", code) == "hello 42 (3, 11)"


def test_apt_lists_the_packages(inside: Inside) -> None:
    listed = succeeded(inside("apt", "list", "--installed"))
    assert "\nnginx/" in listed and "\npython3/" in listed


def test_apt_without_a_network_says_so(inside: Inside) -> None:
    result = inside("sh", "-c", "apt-get -o Acquire::Retries=0 update 2>&1")
    assert b"Temporary failure resolving" in result.stdout, result.stdout


def test_nginx_accepts_its_configuration(inside: Inside) -> None:
    result = inside("nginx", "-t")
    assert (result.returncode, b"test is successful" in result.stderr) == (0, True), result.stderr


def test_nginx_serves_a_page_through_a_published_port(daemon: Hyperd) -> None:
    door = daemon.door
    command = ["sh", "-c", "echo 'from a VM' > /var/www/html/index.html && exec nginx -g 'daemon off;'"]
    door.docker("run", "-d", "--name", "web", "-p", f"{PORT}:80", IMAGE, *command)
    assert daemon.namespace.python(page, f"http://{HOST_ADDRESS}:{PORT}/") == b"from a VM\n"
    door.docker("stop", "web", timeout_s=30)
    assert door.out("inspect", "-f", "{{.State.ExitCode}}", "web") == "0"


def test_only_lo_is_there_without_a_network(inside: Inside) -> None:
    assert succeeded(inside("ls", "/sys/class/net")).split() == ["lo"]
    assert "bytes from" in succeeded(inside("ping", "-c1", "127.0.0.1"))


def test_users_are_made_own_files_and_may_become_root_by_sudo_alone(inside: Inside) -> None:
    succeeded(inside("useradd", "-m", "-s", "/bin/bash", "bob"))
    succeeded(inside("sh", "-c", "touch /srv/bobs && chown bob:bob /srv/bobs && chmod 600 /srv/bobs"))
    assert succeeded(inside("stat", "-c", "%U:%G %a", "/srv/bobs")) == "bob:bob 600\n"
    assert succeeded(inside("sh", "-c", "echo note > ~/note && cat ~/note /srv/bobs", user="bob")) == "note\n"
    assert inside("cat", "/etc/shadow", user="bob").returncode == 1
    assert b"password is required" in inside("sudo", "-n", "id", "-u", user="bob").stderr
    succeeded(inside("sh", "-c", "echo 'bob ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/bob"))
    assert succeeded(inside("sudo", "-n", "id", "-u", user="bob")) == "0\n"
    # A file capability: an ordinary user's ping may open a raw socket.
    assert "bytes from" in succeeded(inside("ping", "-c1", "127.0.0.1", user="bob"))
    assert succeeded(inside("getcap", "/usr/bin/ping")) == "/usr/bin/ping cap_net_raw=ep\n"
    succeeded(inside("userdel", "-r", "bob"))


def test_locales_and_space_are_as_expected(inside: Inside) -> None:
    assert "C.utf8" in succeeded(inside("locale", "-a"))
    assert succeeded(inside("sh", "-c", "printf grün | LC_ALL=C.UTF-8 wc -m")) == "4\n"
    _, size, used, *_ = succeeded(inside("df", "-B1", "--output=target,size,used", "/")).split("\n")[1].split()
    assert 9 << 30 < int(size) < 11 << 30
    assert int(used) < 2 << 30


def test_our_own_cli_imports_it_too(daemon: Hyperd, tar: Path) -> None:
    hyper = Path(sys.executable).with_name("hyper")
    command = [str(hyper), "import", str(tar), "debian:by-hyper"]
    result = subprocess.run(
        command, env=daemon.door.environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert daemon.door.out("images", "-q", "debian:by-hyper")
