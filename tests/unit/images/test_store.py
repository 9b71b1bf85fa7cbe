"""The store: loading, naming, removing, leases, and what is left after failures."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zstandard
from disks import extract
from store_tools import Made, blob, docker_archive, files_below, image, index_of, layer, oci_manifest, stream, tar

from hyper.errors import Conflict, DataLoss, HyperError, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from hyper.images.limits import ImageLimits
from hyper.images.store import ImageStore, ImageUser, LoadedImage, LoadProgress, Removal
from hyper.system.database import Database

BASE = layer({"etc/os": b"base", "gone": b"x"})
TOP = layer({"app": b"top", ".wh.gone": b""})
ONE = image(BASE, Cmd=["one"])
TWO = image(BASE, TOP, created="2024-02-02T00:00:00Z", Cmd=["two"])
NOBODY = lambda image_id: []  # noqa: E731


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ImageStore]:
    database = Database(tmp_path / "state.db")
    opened = await ImageStore.open(tmp_path, database)
    yield opened
    await opened.close()
    database.close()


async def load(store: ImageStore, content: bytes) -> list[LoadedImage]:
    return await store.load(stream(content), progress=lambda progress: None)


async def reopened(store: ImageStore, tmp_path: Path) -> ImageStore:
    await store.close()
    return await ImageStore.open(tmp_path, Database(tmp_path / "state.db"))


@pytest.mark.parametrize("manifest_first", [True, False])
async def test_load_of_a_docker_archive(store: ImageStore, tmp_path: Path, manifest_first: bool) -> None:
    loaded = await load(store, docker_archive({"one:latest": ONE, "two:v1,two:v2": TWO}, manifest_first=manifest_first))
    assert [line for item in loaded for line in item.messages] == [
        "Loaded image: one:latest",
        "Loaded image: two:v1",
        "Loaded image: two:v2",
    ]
    two = store.resolve("two:v2")
    assert two.id == TWO.id
    assert two.config.container_config.cmd_words == ["two"]
    assert two.size_bytes == len(BASE) + len(TOP)
    assert two.references == ("docker.io/library/two:v1", "docker.io/library/two:v2")
    assert set(extract(two.disks[0], tmp_path / "out")) == {"etc", "etc/os", "app"}
    assert [found.id for found in store.list()] == [TWO.id, ONE.id]
    assert [item.size_bytes for item in store.history("two:v1")] == [0, len(TOP), len(BASE)]


async def test_an_unnamed_image_is_reported_by_its_id(store: ImageStore) -> None:
    (loaded,) = await load(store, docker_archive({"": ONE}))
    assert loaded.messages == (f"Loaded image ID: {ONE.id}",)


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
async def test_compressed_archives_and_layers(store: ImageStore, compress: object) -> None:
    assert callable(compress)
    descriptor, files = oci_manifest(
        TWO, [compress(item) for item in TWO.layers], annotations={"io.containerd.image.name": "docker.io/library/x:1"}
    )
    (loaded,) = await load(store, compress(tar([*files, ("index.json", index_of([descriptor]))])))
    assert loaded == LoadedImage(TWO.id, ("docker.io/library/x:1",))


async def test_an_oci_index_gives_the_image_for_this_platform(store: ImageStore) -> None:
    other = image(layer({"arm": b""}), architecture_note="other")
    ours, our_files = oci_manifest(ONE, platform={"os": "linux", "architecture": "amd64"})
    theirs, their_files = oci_manifest(other, platform={"os": "linux", "architecture": "s390x"})
    attestation, attestation_files = oci_manifest(
        image(layer({"proof": b""})),
        platform={"os": "unknown", "architecture": "unknown"},
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )
    nested, nested_file = blob(
        index_of([theirs, attestation, ours]),
        "application/vnd.oci.image.index.v1+json",
        annotations={"org.opencontainers.image.ref.name": "reg.example.com/a:b"},
    )
    archive = tar([("index.json", index_of([nested])), *their_files, *our_files, *attestation_files, nested_file])
    assert await load(store, archive) == [LoadedImage(ONE.id, ("reg.example.com/a:b",))]
    assert len(store.list()) == 1


async def test_a_layer_may_be_a_link_to_another(store: ImageStore) -> None:
    files = [("a/layer.tar", BASE), ("c.json", image(BASE, BASE).config)]
    manifest = json.dumps(
        [{"Config": "c.json", "RepoTags": ["a:b"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
    ).encode()
    archive = tar([*files, ("manifest.json", manifest)], {"b/layer.tar": "../a/layer.tar"})
    assert (await load(store, archive))[0].references == ("docker.io/library/a:b",)


async def test_images_of_equal_layers_share_a_disk(store: ImageStore) -> None:
    await load(store, docker_archive({"a:1": ONE}))
    await load(store, docker_archive({"b:1": image(BASE, Cmd=["other"])}))
    assert store.resolve("a:1").disks == store.resolve("b:1").disks


async def test_two_loads_at_once_of_the_same_image(store: ImageStore) -> None:
    archive = docker_archive({"a:1": TWO})
    first, second = await asyncio.gather(load(store, archive), load(store, archive))
    assert first == second
    assert len(store.list()) == 1


def _bad_archives() -> dict[str, tuple[bytes, type[HyperError], str]]:
    good = docker_archive({"a:1": TWO})
    wrong = Made(TWO.config, (BASE, layer({"app": b"evil"})))
    descriptor, files = oci_manifest(TWO)
    damaged = [(name, content.replace(b"base", b"BASE")) for name, content in files]
    manifest = lambda value: tar([("manifest.json", json.dumps(value).encode())])  # noqa: E731
    return {
        "truncated": (good[: len(good) // 2], InvalidArgument, "truncated"),
        "truncated when compressed": (gzip.compress(good)[:-20], DataLoss, "truncated"),
        "empty": (b"", InvalidArgument, "neither a manifest.json"),
        "something else": (b"hello world" * 100, InvalidArgument, "not a sound tar archive"),
        "a root file system": (BASE, InvalidArgument, "docker import"),
        "layer unlike its diff ID": (
            docker_archive({"a:1": wrong}),
            DataLoss,
            "does not match the image's configuration",
        ),
        "blob unlike its name": (
            tar([*damaged, ("index.json", index_of([descriptor]))]),
            DataLoss,
            "does not match its digest",
        ),
        "bad JSON": (tar([("manifest.json", b"{")]), InvalidArgument, "manifest.json is not valid"),
        "missing configuration": (
            manifest([{"Config": "x.json", "Layers": []}]),
            InvalidArgument,
            "missing from the archive",
        ),
        "path to outside": (manifest([{"Config": "../../etc/passwd", "Layers": []}]), InvalidArgument, "outside"),
        "wrong number of layers": (
            docker_archive({"a:1": Made(TWO.config, (BASE,))}),
            InvalidArgument,
            "layers length mismatch: expected 2, got 1",
        ),
        "bad name": (docker_archive({"Bad:1": ONE}), InvalidArgument, "must be lowercase"),
        "links in a loop": (
            tar([("manifest.json", b'[{"Config":"a","Layers":[]}]')], {"a": "b", "b": "a"}),
            InvalidArgument,
            "missing from the archive",
        ),
    }


@pytest.mark.parametrize("case", _bad_archives())
async def test_a_bad_archive_changes_nothing(store: ImageStore, tmp_path: Path, case: str) -> None:
    content, kind, words = _bad_archives()[case]
    with pytest.raises(HyperError) as caught:
        await load(store, content)
    assert type(caught.value) is kind
    assert words in caught.value.message
    assert store.list() == []
    assert files_below(tmp_path / "images") == set()


async def test_a_sender_that_breaks_off_changes_nothing(store: ImageStore, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield docker_archive({"a:1": ONE})[:4000]
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        await store.load(broken(), progress=lambda progress: None)
    assert files_below(tmp_path / "images") == set()


async def test_a_cancelled_load_ends_and_changes_nothing(store: ImageStore, tmp_path: Path) -> None:
    sent = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield docker_archive({"a:1": ONE})[:4000]
        sent.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.load(stalled(), progress=lambda progress: None))
    await sent.wait()
    task.cancel()
    with pytest.raises((asyncio.CancelledError, Unavailable)):
        await task
    assert files_below(tmp_path / "images") == set()


async def test_too_little_space_is_told_before_anything_is_written(tmp_path: Path) -> None:
    store = await ImageStore.open(tmp_path, Database(tmp_path / "state.db"), ImageLimits(free_bytes_kept=1 << 60))
    with pytest.raises(ResourceExhausted, match="not enough space"):
        await load(store, docker_archive({"a:1": ONE}))
    assert files_below(tmp_path / "images") == set()


async def test_progress_is_reported(store: ImageStore) -> None:
    seen: list[LoadProgress] = []
    await store.load(stream(docker_archive({"a:1": TWO})), progress=seen.append)
    await asyncio.sleep(0)
    assert {item.step for item in seen} == {"receiving", "building"}


async def test_images_survive_a_restart(store: ImageStore, tmp_path: Path) -> None:
    await load(store, docker_archive({"a:1": TWO}))
    store.tag("a:1", "b:2")
    again = await reopened(store, tmp_path)
    assert again.resolve("b:2").id == TWO.id
    assert again.resolve("b:2").disks[0].exists()


async def test_opening_removes_what_no_record_names(store: ImageStore, tmp_path: Path) -> None:
    await load(store, docker_archive({"a:1": ONE}))
    images = tmp_path / "images"
    before = files_below(images)
    (images / "disks" / ("0" * 64 + ".erofs")).write_bytes(b"half")
    (images / "blobs" / "sha256" / ("1" * 64)).write_bytes(b"stray")
    (images / "tmp" / "work").mkdir()
    (images / "tmp" / "work" / "x").write_bytes(b"x")
    await reopened(store, tmp_path)
    assert files_below(images) == before


async def test_an_image_not_synced_before_a_power_loss_is_dropped_whole(store: ImageStore, tmp_path: Path) -> None:
    await load(store, docker_archive({"a:1": ONE}))
    await store.close()
    database = Database(tmp_path / "state.db")
    database.connection.execute(
        "INSERT INTO unsynced_files VALUES ('disk', ?, 'another boot')", (store.resolve("a:1").disk_ids[0],)
    )
    again = await ImageStore.open(tmp_path, database)
    assert again.list() == []
    assert files_below(tmp_path / "images") == set()


# Names.


async def test_resolve_by_name_id_and_prefix(store: ImageStore) -> None:
    await load(store, docker_archive({"one:latest": ONE, "two:v1": TWO}))
    hexadecimal = ONE.id.removeprefix("sha256:")
    for name in (
        "one",
        "one:latest",
        "docker.io/library/one",
        ONE.id,
        hexadecimal,
        hexadecimal[:12],
        f"sha256:{hexadecimal[:8]}",
    ):
        assert store.resolve(name).id == ONE.id


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "No such image: missing:latest"),
        ("team/x:1", "No such image: team/x:1"),
        ("f" * 12, "No such image: ffffffffffff:latest"),
        ("sha256:" + "f" * 64, "No such image: sha256:" + "f" * 64),
    ],
)
async def test_unknown_images_are_named_as_docker_does(store: ImageStore, name: str, message: str) -> None:
    with pytest.raises(NotFound) as caught:
        store.resolve(name)
    assert caught.value.message == message


async def test_a_tag_moves_and_leaves_the_old_image_unnamed(store: ImageStore) -> None:
    await load(store, docker_archive({"x:1": ONE, "two:v1": TWO}))
    store.tag("two:v1", "x:1")
    assert store.resolve("x:1").id == TWO.id
    assert store.resolve(ONE.id).references == ()


@pytest.mark.parametrize("target", ["a@sha256:" + "0" * 64, "sha256:x", "Bad"])
async def test_names_that_cannot_be_tags(store: ImageStore, target: str) -> None:
    await load(store, docker_archive({"x:1": ONE}))
    with pytest.raises(InvalidArgument):
        store.tag("x:1", target)


# Removal.


async def test_removing_the_last_name_removes_the_image_and_its_files(store: ImageStore, tmp_path: Path) -> None:
    await load(store, docker_archive({"a:1": TWO}))
    chain = "sha256:" + store.resolve("a:1").disks[0].stem
    assert list(store.remove("a:1", force=False, in_use=NOBODY)) == [
        Removal(untagged="a:1"),
        Removal(deleted=TWO.id),
        Removal(deleted=chain),
        Removal(deleted=TWO_BASE),
    ]
    await store.close()
    assert files_below(tmp_path / "images") == set()


TWO_BASE = json.loads(TWO.config)["rootfs"]["diff_ids"][0]


async def test_removing_one_of_several_names_only_untags(store: ImageStore) -> None:
    await load(store, docker_archive({"a:1,b:1": ONE}))
    assert list(store.remove("a:1", force=False, in_use=lambda image_id: [ImageUser("c" * 64, True)])) == [
        Removal(untagged="a:1")
    ]
    assert store.resolve("b:1").id == ONE.id


async def test_removal_keeps_what_another_image_shares(store: ImageStore) -> None:
    await load(store, docker_archive({"one:1": ONE, "two:1": TWO}))
    lines = store.remove("one:1", force=False, in_use=NOBODY)
    assert list(lines) == [Removal(untagged="one:1"), Removal(deleted=ONE.id)]
    assert store.resolve("two:1").disks[0].exists()


@pytest.mark.parametrize(
    ("names", "by", "users", "force", "words"),
    [
        ("a:1,b:1", "id", [], False, "(must be forced) - image is referenced in multiple repositories"),
        (
            "a:1",
            "id",
            [ImageUser("c" * 64, False)],
            False,
            "(must be forced) - image is being used by stopped container cccccccccccc",
        ),
        (
            "a:1",
            "id",
            [ImageUser("c" * 64, True)],
            True,
            "(cannot be forced) - image is being used by running container cccccccccccc",
        ),
        (
            "a:1",
            "name",
            [ImageUser("c" * 64, False)],
            False,
            'unable to remove repository reference "a:1" (must force) - container cccccccccccc',
        ),
    ],
)
async def test_removal_conflicts_in_dockers_words(
    store: ImageStore, names: str, by: str, users: list[ImageUser], force: bool, words: str
) -> None:
    await load(store, docker_archive({names: ONE}))
    before = store.resolve(ONE.id).references
    with pytest.raises(Conflict) as caught:
        store.remove(ONE.id if by == "id" else "a:1", force=force, in_use=lambda image_id: users)
    assert words in caught.value.message
    assert caught.value.message.startswith("conflict: unable to ")
    assert store.resolve(ONE.id).references == before


async def test_forced_removal_by_name_leaves_the_image_to_a_running_container(store: ImageStore) -> None:
    await load(store, docker_archive({"a:1": ONE}))
    lines = store.remove("a:1", force=True, in_use=lambda image_id: [ImageUser("c" * 64, True)])
    assert list(lines) == [Removal(untagged="a:1")]
    assert store.resolve(ONE.id).references == ()


async def test_forced_removal_by_id_takes_all_names(store: ImageStore) -> None:
    await load(store, docker_archive({"a:1,b:1": ONE}))
    lines = store.remove(ONE.id, force=True, in_use=lambda image_id: [ImageUser("c" * 64, False)])
    assert list(lines)[:3] == [Removal(untagged="a:1"), Removal(untagged="b:1"), Removal(deleted=ONE.id)]


async def test_a_leased_disk_outlives_its_image(store: ImageStore, tmp_path: Path) -> None:
    await load(store, docker_archive({"a:1": ONE}))
    store.lease(ONE.id, "container")
    (disk,) = store.leased_disks("container")
    store.remove("a:1", force=True, in_use=lambda image_id: [ImageUser("c" * 64, False)])
    again = await reopened(store, tmp_path)
    assert disk.exists()
    assert again.leased_disks("container") == (disk,)
    again.release("container")
    again.release("container")
    assert files_below(tmp_path / "images") == set()


# Import.


async def test_import_makes_an_image_of_a_root_tar(store: ImageStore, tmp_path: Path) -> None:
    made = await store.import_root(
        stream(gzip.compress(BASE)),
        reference="root:1",
        changes=['CMD ["x"]', "ENV A=1"],
        message="why",
        platform="linux/amd64",
    )
    assert store.resolve("root:1") == made
    assert made.config.container_config.cmd_words == ["x"]
    assert made.config.diff_ids == (json.loads(ONE.config)["rootfs"]["diff_ids"][0],)
    assert [item.comment for item in store.history("root:1")] == ["why"]
    assert set(extract(made.disks[0], tmp_path / "out")) == {"etc", "etc/os", "gone"}


@pytest.mark.parametrize(
    ("reference", "changes", "platform", "content"),
    [
        ("Bad", (), None, BASE),
        ("a", ("RUN x",), None, BASE),
        ("a", (), "windows/amd64", BASE),
        ("a", (), None, b""),
        ("a", (), None, b"no tar" * 200),
    ],
)
async def test_a_bad_import_changes_nothing(
    store: ImageStore, tmp_path: Path, reference: str, changes: tuple[str, ...], platform: str | None, content: bytes
) -> None:
    with pytest.raises(InvalidArgument):
        await store.import_root(stream(content), reference=reference, changes=changes, message="", platform=platform)
    assert files_below(tmp_path / "images") == set()
