"""Archives that the store writes, read by the store itself and by Python's tarfile; and images of commits."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from tests.unit.images.store_tools import docker_archive, image, layer, stream

from hyper.errors import DataLoss, NotFound
from hyper.images.store import ImageStore
from hyper.oci import digest
from hyper.oci.image_config import ContainerConfig, History
from hyper.system.database import Database


async def opened(folder: Path) -> ImageStore:
    return await ImageStore.open(folder, Database(folder / "state.db"))


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def cut_the_only_blob(folder: Path) -> None:
    [blob] = (folder / "images" / "blobs" / "sha256").iterdir()
    blob.write_bytes(blob.read_bytes()[:-100])


async def saved(store: ImageStore, *names: str) -> bytes:
    return b"".join([piece async for piece in store.save(names)])


def files(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {item.name: tar.extractfile(item).read() for item in tar if item.isreg()}  # type: ignore[union-attr]


async def test_one_store_takes_what_another_saved(tmp_path: Path) -> None:
    first, second = await opened(made(tmp_path / "a")), await opened(made(tmp_path / "b"))
    shared = layer({"bin/tool": b"#!" * 3000})
    archive = docker_archive({"one:1": image(shared, Cmd=["a"]), "two:2": image(shared, layer({"x": b"y"}), Cmd=["b"])})
    await first.load(stream(archive), progress=lambda _: None)
    first.tag("one:1", "one:latest")
    content = await saved(first, "one", "two:2")
    await second.load(stream(content), progress=lambda _: None)
    assert {image.id: image.references for image in second.list()} == {
        image.id: image.references for image in first.list()
    }
    # The layer that both have is in it once, and every blob is what its name says.
    blobs = {name.rpartition("/")[2]: body for name, body in files(content).items() if name.startswith("blobs/")}
    assert all(digest.of(body) == f"sha256:{name}" for name, body in blobs.items())
    assert [item["RepoTags"] for item in json.loads(files(content)["manifest.json"])] == [
        ["one:1", "one:latest"],
        ["two:2"],
    ]
    assert await saved(second, "two:2") == await saved(first, "two:2")
    await first.close()
    await second.close()


async def test_unknown_names_and_damaged_blobs_are_told(tmp_path: Path) -> None:
    store = await opened(made(tmp_path / "a"))
    await store.load(stream(docker_archive({"one:1": image(layer({"x": b"y"}))})), progress=lambda _: None)
    with pytest.raises(NotFound):
        store.save(["one:1", "nosuch"])
    cut_the_only_blob(tmp_path / "a")
    with pytest.raises(DataLoss):
        await saved(store, "one:1")
    await store.close()


async def test_a_commit_stands_on_its_parent_and_an_empty_one_adds_no_layer(tmp_path: Path) -> None:
    store = await opened(made(tmp_path / "a"))
    await store.load(stream(docker_archive({"one:1": image(layer({"x": b"y"}))})), progress=lambda _: None)
    parent = store.resolve("one:1")
    step = History(created="2024-01-01T00:00:00Z", created_by="tool", comment="why")

    async def commit(content: bytes, name: str) -> tuple[str, ...]:
        config = ContainerConfig(cmd=["tool"])
        result = await store.commit(
            parent, stream(content), config=config, step=step, container="c" * 64, reference=name
        )
        assert store.resolve(name).id == result.id
        assert result.config.history is not None
        assert result.config.history[-1].comment == "why"
        return result.config.diff_ids

    added = layer({"z": b"w"})
    assert await commit(added, "two") == (*parent.config.diff_ids, digest.of(added))
    assert await commit(bytes(1024), "three") == parent.config.diff_ids
    await store.close()
