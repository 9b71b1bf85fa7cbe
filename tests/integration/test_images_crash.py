"""The image store killed with SIGKILL at any moment, and on a disk that runs full."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hyper.images.store import ImageStore
from hyper.system.database import Database

_LOADER = """
import asyncio, hashlib, io, json, os, sys, tarfile
from pathlib import Path
from hyper.images.store import ImageStore
from hyper.system.database import Database

def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()

def archive(name):
    layer = tar([(f"file-{number}", os.urandom(20_000)) for number in range(int(sys.argv[3]))])
    diff_id = "sha256:" + hashlib.sha256(layer).hexdigest()
    config = json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}).encode()
    manifest = json.dumps([{"Config": "c.json", "RepoTags": [name], "Layers": ["l.tar"]}]).encode()
    return tar([("c.json", config), ("l.tar", layer), ("manifest.json", manifest)])

async def chunks(content):
    for at in range(0, len(content), 65536):
        yield content[at : at + 65536]

async def main():
    root = Path(sys.argv[1])
    store = await ImageStore.open(root, Database(root / "state.db"))
    for number in range(1000):
        name = f"image:{sys.argv[2]}-{number}"
        await store.load(chunks(archive(name)), progress=lambda progress: None)
        print("loaded", name, flush=True)
        store.tag(name, f"tag:{sys.argv[2]}-{number}")
        print("loaded", f"tag:{sys.argv[2]}-{number}", flush=True)
        if number % 3 == 2:
            gone = f"image:{sys.argv[2]}-{number - 1}"
            print("removing", gone, flush=True)
            store.remove(gone, force=False, in_use=lambda image_id: [])

asyncio.run(main())
"""


def test_no_acknowledged_image_is_lost_and_nothing_is_left_over(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    acknowledged: set[str] = set()
    for attempt in range(6):
        command = [sys.executable, "-c", _LOADER, str(tmp_path), str(attempt), "15"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            time.sleep(chance.random() * 0.15)  # the moment of the kill is what is tried out, not waited for
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        for line in lines:
            word, name = line.split()
            (acknowledged.add if word == "loaded" else acknowledged.discard)(name)
        asyncio.run(_check(tmp_path, acknowledged, seed))
    assert acknowledged


async def _check(root: Path, acknowledged: set[str], seed: int) -> None:
    database = Database(root / "state.db")
    store = await ImageStore.open(root, database)
    for name in acknowledged:
        assert store.resolve(name).disks[0].exists(), f"{name} was lost (seed {seed})"
    files = _files_below(root / "images")
    disks = {disk for image in store.list() for disk in image.disks}
    assert {path for path in files if path.suffix == ".erofs"} == disks, f"seed {seed}"
    assert len(files) == len(disks) + len({layer.blob for image in store.list() for layer in image.layers})
    await store.close()
    _check_disks(disks)
    database.close()


def _files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def _check_disks(disks: set[Path]) -> None:
    for disk in disks:
        subprocess.run(["fsck.erofs", "--extract", disk], check=True, capture_output=True)


def test_a_full_disk_is_told_and_left_clean(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    script = (
        'mount --make-rprivate / && mount -t tmpfs -o size=12m tmpfs "$1" && '
        '"$2" -c "$3" "$1" full 400; echo "status $?"; find "$1/images" -type f; df --output=used "$1"'
    )
    loader = _LOADER.replace(
        "ImageStore.open(root, ", "ImageStore.open(root, limits=ImageLimits(free_bytes_kept=0), database="
    ).replace("from hyper.images.store", "from hyper.images.limits import ImageLimits\nfrom hyper.images.store")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", tmp_path, sys.executable, loader],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ResourceExhausted: no space left" in done.stderr, done.stderr
    assert "free some space" in done.stderr
    assert "status 1" in done.stdout
    assert "/images/" not in done.stdout.split("status 1")[1]
