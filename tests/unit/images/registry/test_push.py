"""Pushing to a registry in memory: what is sent, what is not, and under which digest."""

from __future__ import annotations

import gzip
import json

import pytest
import zstandard
from tests.unit.images.registry import fake_registry as fake
from tests.unit.images.registry.conftest import ME, Client
from tests.unit.images.registry.fake_registry import FakeRegistry, digest_of
from tests.unit.images.store_tools import docker_archive, image, index_of, layer, oci_manifest, stream, tar

from hyper.errors import InvalidArgument, NotFound, RemoteFailure

BASE = layer({"etc/os": b"base" * 5000})
TOP = layer({"app": b"top"})
TWO = image(BASE, TOP, Cmd=["two"])


async def load(client: Client, archive: bytes) -> None:
    await client.store.load(stream(archive), progress=lambda progress: None)


async def test_a_loaded_image_is_packed_the_same_each_time(client: Client, registry: FakeRegistry) -> None:
    name = f"{registry.host}/two:v1"
    await load(client, docker_archive({name: TWO}))
    await client.push(name)
    raw, kind = registry.manifests["two:v1"]
    assert kind == "application/vnd.docker.distribution.manifest.v2+json"
    layers = json.loads(raw)["layers"]
    assert [gzip.decompress(registry.blobs[one["digest"]]) for one in layers] == [BASE, TOP]
    assert [len(registry.blobs[one["digest"]]) for one in layers] == [one["size"] for one in layers]
    assert registry.blobs[TWO.id] == TWO.config
    top, base = (digest_of(item)[7:19] for item in (TOP, BASE))
    lines = client.lines()
    assert lines[0] == f"The push refers to repository [{registry.host}/two]"
    assert lines[1:3] == [f"{top}: Preparing", f"{base}: Preparing"]
    assert {f"{top}: Pushed", f"{base}: Pushed"} < set(lines)
    assert lines[-1] == f"v1: digest: {digest_of(raw)} size: {len(raw)}"
    end = client.told[-1].pushed
    assert end is not None and (end.tag, end.digest, end.size_bytes) == ("v1", digest_of(raw), len(raw))
    assert client.store.resolve(name).digests == (f"{registry.host}/two@{digest_of(raw)}",)
    sent = registry.requests["patch"]
    client.told.clear()
    await client.push(name)
    assert registry.requests["patch"] == sent
    assert f"{top}: Layer already exists" in client.lines()
    assert registry.manifests["two:v1"][0] == raw


async def test_a_pulled_image_keeps_its_digest_in_another_registry(client: Client, registry: FakeRegistry) -> None:
    other = FakeRegistry()
    await other.start()
    try:
        named = registry.add_image("two", TWO, "v1", stored=[zstandard.compress(BASE), gzip.compress(TOP)])
        await client.pull(f"{registry.host}/two:v1")
        client.store.tag(f"{registry.host}/two:v1", f"{other.host}/copy:v2")
        await client.push(f"{other.host}/copy:v2")
        assert digest_of(other.manifests["copy:v2"][0]) == named["digest"]
    finally:
        await other.stop()


async def test_an_image_of_an_oci_layout_keeps_its_digest(client: Client, registry: FakeRegistry) -> None:
    name = f"{registry.host}/two:v1"
    descriptor, files = oci_manifest(
        TWO, [gzip.compress(item) for item in TWO.layers], annotations={"io.containerd.image.name": name}
    )
    await load(client, tar([*files, ("index.json", index_of([descriptor]))]))
    await client.push(name)
    assert digest_of(registry.manifests["two:v1"][0]) == descriptor["digest"]


async def test_blobs_of_the_same_registry_are_mounted(client: Client, registry: FakeRegistry) -> None:
    registry.add_image("team/two", TWO, "v1")
    await client.pull(f"{registry.host}/team/two:v1")
    client.store.tag(f"{registry.host}/team/two:v1", f"{registry.host}/fork:1")
    kept = dict(registry.blobs)
    registry.mounts = {("team/two", digest_of(item)) for item in (BASE, TOP)}
    registry.hidden = set(kept)  # the new repository has none of them yet
    await client.push(f"{registry.host}/fork:1")
    assert registry.requests["mounted"] == 2
    assert f"{digest_of(TOP)[7:19]}: Mounted from team/two" in client.lines()
    posts = [path for method, path, _ in registry.seen if method == "POST" and "mount=" in path]
    assert all("from=team%2Ftwo" in path or "from=team/two" in path for path in posts)


async def test_a_broken_upload_begins_again(client: Client, registry: FakeRegistry) -> None:
    name = f"{registry.host}/two:v1"
    await load(client, docker_archive({name: TWO}))
    registry.faults["patch"] = [fake.status(503), fake.status(500)]
    await client.push(name)
    assert f"{digest_of(TOP)[7:19]}: Pushed" in client.lines()


async def test_who_may_not_push(client: Client, registry: FakeRegistry) -> None:
    registry.token, registry.password = "t0ken", "right"
    name = f"{registry.host}/two:v1"
    await load(client, docker_archive({name: TWO}))
    with pytest.raises(RemoteFailure, match="denied: requested access to the resource is denied"):
        await client.push(name)
    await client.push(name, credentials=ME)
    assert any("scope=repository%3Atwo%3Apull%2Cpush" in path for _, path, _ in registry.seen) or any(
        "scope=repository:two:pull,push" in path for _, path, _ in registry.seen
    )


async def test_all_tags_of_a_repository(client: Client, registry: FakeRegistry) -> None:
    await load(client, docker_archive({f"{registry.host}/two:a,{registry.host}/two:b": TWO}))
    await client.push(f"{registry.host}/two")
    assert {"two:a", "two:b"} < set(registry.manifests)


async def test_what_cannot_be_pushed(client: Client, registry: FakeRegistry) -> None:
    await load(client, docker_archive({f"{registry.host}/two:a": TWO}))
    with pytest.raises(NotFound, match=r"An image does not exist locally with the tag: .*/none"):
        await client.push(f"{registry.host}/none:a")
    with pytest.raises(NotFound, match=r"tag does not exist: .*/two:b"):
        await client.push(f"{registry.host}/two:b")
    with pytest.raises(InvalidArgument, match="cannot push a digest reference"):
        await client.push(f"{registry.host}/two@{digest_of(b'')}")
