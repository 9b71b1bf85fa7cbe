"""``docker cp``, ``diff``, ``export``, ``commit``, ``save`` and ``load``: the real CLI and docker-py against hyperd."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hyperd import Door, Hyperd, needs_docker_cli

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("cli")]


@pytest.fixture(scope="module")
def cli() -> None:
    needs_docker_cli()


@pytest.fixture(params=["created", "running", "paused", "exited"])
def container(hyperd: Hyperd, request: pytest.FixtureRequest) -> Iterator[tuple[Door, str]]:
    door = hyperd.door
    with door.name() as name:
        door.docker("create", "--name", name, "--network", "none", "busybox", "sleep", "1000")
        if request.param != "created":
            door.docker("start", name)
        if request.param == "paused":
            door.docker("pause", name)
        if request.param == "exited":
            door.docker("kill", name)
        yield door, name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "from" / "deep").mkdir(parents=True)
    (tmp_path / "from" / "file").write_text("one\n")
    (tmp_path / "from" / "deep" / "file").write_text("two\n")
    (tmp_path / "from" / "link").symlink_to("deep/file")
    return tmp_path


def test_a_folder_goes_in_and_comes_back_the_same(container: tuple[Door, str], folder: Path) -> None:
    door, name = container
    door.docker("cp", f"{folder}/from", f"{name}:/opt-new")
    door.docker("cp", f"{name}:/opt-new", f"{folder}/back")
    assert (folder / "back" / "file").read_text() == "one\n"
    assert (folder / "back" / "deep" / "file").read_text() == "two\n"
    assert os.readlink(folder / "back" / "link") == "deep/file"


def test_the_target_decides_what_a_copy_is_called(container: tuple[Door, str], folder: Path) -> None:
    door, name = container
    door.docker("cp", f"{folder}/from/file", f"{name}:/tmp")
    door.docker("cp", f"{folder}/from/file", f"{name}:/tmp/renamed")
    door.docker("cp", f"{folder}/from/.", f"{name}:/tmp")
    with tarfile.open(fileobj=io.BytesIO(door.docker("cp", f"{name}:/tmp", "-").stdout)) as tar:
        listing = tar.getnames()
    assert {"tmp/file", "tmp/renamed", "tmp/deep/file", "tmp/link"} <= set(listing)
    missing = door.docker("cp", f"{folder}/from/file", f"{name}:/no/such/folder", check=False)
    assert missing.returncode == 1
    assert b"Could not find the file /no/such" in missing.stderr


def test_links_are_followed_when_asked_for(container: tuple[Door, str], folder: Path) -> None:
    door, name = container
    door.docker("cp", f"{folder}/from", f"{name}:/links")
    door.docker("cp", f"{name}:/links/link", f"{folder}/as-link")
    assert (folder / "as-link").is_symlink()
    door.docker("cp", "-L", f"{name}:/links/link", f"{folder}/followed")
    assert (folder / "followed").read_text() == "two\n"
    assert not (folder / "followed").is_symlink()
    door.docker("cp", "-L", f"{folder}/from/link", f"{name}:/tmp/followed")
    assert b"two" in door.docker("cp", f"{name}:/tmp/followed", "-").stdout


def test_owners_are_the_archives_both_ways(container: tuple[Door, str], folder: Path) -> None:
    door, name = container
    os.chown(folder / "from" / "file", 123, 456)
    door.docker("cp", "-a", f"{folder}/from/file", f"{name}:/tmp/owned")
    with tarfile.open(fileobj=io.BytesIO(door.docker("cp", "-a", f"{name}:/tmp/owned", "-").stdout)) as tar:
        [info] = tar.getmembers()
    assert (info.uid, info.gid) == (123, 456)


def test_a_tar_goes_in_by_stdin(container: tuple[Door, str]) -> None:
    door, name = container
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("from-stdin")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"hello"))
    door.docker("cp", "-", f"{name}:/root", input=out.getvalue())
    assert b"hello" in door.docker("cp", f"{name}:/root/from-stdin", "-").stdout


def test_a_file_in_a_folders_place_is_refused(container: tuple[Door, str], folder: Path) -> None:
    door, name = container
    refused = door.docker("cp", f"{folder}/from/", f"{name}:/bin/busybox", check=False)
    assert refused.returncode == 1
    assert b"cannot copy directory" in refused.stderr
    missing = door.docker("cp", f"{name}:/nosuch", str(folder), check=False)
    assert f"Could not find the file /nosuch in container {name}".encode() in missing.stderr


def test_diff_export_and_import(container: tuple[Door, str], folder: Path) -> None:
    door, name = container
    assert door.out("diff", name) == ""
    door.docker("cp", f"{folder}/from", f"{name}:/added")
    added = ["A /added", "A /added/deep", "A /added/deep/file", "A /added/file", "A /added/link"]
    assert sorted(door.out("diff", name).splitlines()) == added
    door.docker("export", "-o", f"{folder}/root.tar", name)
    with tarfile.open(folder / "root.tar") as tar:
        assert tar.extractfile("added/file").read() == b"one\n"  # type: ignore[union-attr]
        assert "bin/busybox" in tar.getnames()
    image = door.out("import", f"{folder}/root.tar")
    try:
        assert door.out("run", "--rm", "--network", "none", image, "cat", "/added/link") == "two"
    finally:
        door.docker("rmi", "-f", image)


def test_commit_save_and_load(container: tuple[Door, str], folder: Path) -> None:
    door, name = container
    door.docker("cp", f"{folder}/from", f"{name}:/added")
    image = f"{name}:done"
    made = door.out(
        "commit",
        "-m",
        "why",
        "-a",
        "me",
        "-c",
        "CMD cat /added/link",
        "-c",
        "ENV X=1",
        "-c",
        "EXPOSE 80/udp",
        name,
        image,
    )
    try:
        assert door.out("inspect", "-f", "{{.Id}} {{.Comment}} {{.Author}}", image) == f"{made} why me"
        assert door.out("run", "--rm", "--network", "none", image) == "two"
        assert door.out("history", "--format", "{{.Comment}}", image).splitlines()[0] == "why"
        door.docker("save", "-o", f"{folder}/image.tar", image)
        door.docker("rmi", image)
        assert door.out("load", "-i", f"{folder}/image.tar") == f"Loaded image: {image}"
        assert door.out("run", "--rm", "--network", "none", image, "sh", "-c", "echo $X") == "1"
    finally:
        door.docker("rmi", "-f", image, check=False)


def test_prune_and_disk_usage(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker("create", "--name", name, "--network", "none", "busybox", "true")
        image = door.out("commit", "-c", "LABEL a=b", name)
        assert image.removeprefix("sha256:")[:12] in door.out("images", "-q", "--filter", "dangling=true")
        assert "Images" in door.out("system", "df")
        assert name in door.out("system", "df", "-v")
        pruned = door.out("image", "prune", "-f", "--filter", "label=a=b")
        assert image in pruned
        assert "Total reclaimed space" in pruned
        assert door.out("images", "-q", "--filter", "dangling=true") == ""


def test_docker_py_moves_archives(hyperd: Hyperd) -> None:
    client = hyperd.door.client()
    try:
        container = client.containers.create("busybox", ["sleep", "1000"], network_mode="none")
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            info = tarfile.TarInfo("py")
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
        assert container.put_archive("/tmp", out.getvalue())
        pieces, stat = container.get_archive("/tmp/py")
        assert (stat["name"], stat["size"]) == ("py", 3)
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
            assert tar.extractfile("py").read() == b"abc"  # type: ignore[union-attr]
        assert {"Path": "/tmp/py", "Kind": 1} in container.diff()
        image = container.commit(repository="from-py", tag="1", changes=["CMD cat /tmp/py"])
        assert client.containers.run(image.id, remove=True, network_mode="none") == b"abc"
        assert b"".join(image.save(named=True)).count(b"from-py:1") >= 1
        container.remove(force=True)
        client.images.remove("from-py:1", force=True)
    finally:
        client.close()
