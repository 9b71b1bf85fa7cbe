"""Pulling from a registry in memory: what comes, what is told, and what becomes of every way to fail."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import replace

import pytest
import zstandard
from tests.unit.images.registry import fake_registry as fake
from tests.unit.images.registry.conftest import ME, Client
from tests.unit.images.registry.fake_registry import FakeRegistry, digest_of
from tests.unit.images.store_tools import files_below, image, layer

from hyper.errors import (
    DataLoss,
    HyperError,
    InvalidArgument,
    NotFound,
    RemoteFailure,
    ResourceExhausted,
    Unsupported,
)
from hyper.images.registry.client import RegistryClient
from hyper.images.registry.settings import RegistrySettings
from hyper.oci.distribution import Credentials

BASE = layer({"etc/os": b"base" * 5000})
TOP = layer({"app": b"top"})
ONE = image(BASE, Cmd=["one"])
TWO = image(BASE, TOP, created="2024-02-02T00:00:00Z", Cmd=["two"])


def short(content: bytes) -> str:
    return digest_of(content)[7:19]


def no_blob_is_left(client: Client) -> bool:
    return not [name for name in files_below(client.root / "images") if name != "builtin"]


async def test_a_pull_tells_what_dockers_client_draws(client: Client, registry: FakeRegistry) -> None:
    top = gzip.compress(TOP, mtime=0)
    named = registry.add_image("two", TWO, "v1", stored=[BASE, top])
    (pulled,) = await client.pull(f"{registry.host}/two:v1")
    lines = client.lines()
    assert lines[:3] == ["v1: Pulling from two", f"{short(BASE)}: Pulling fs layer", f"{short(top)}: Pulling fs layer"]
    assert lines[-4:] == [
        f"{short(BASE)}: Pull complete",
        f"{short(top)}: Pull complete",
        f"Digest: {named['digest']}",
        f"Status: Downloaded newer image for {registry.host}/two:v1",
    ]
    for content in (BASE, top):
        about = [one.status for one in client.told if one.id == short(content) and one.status != "Waiting"]
        steps = list(dict.fromkeys(about))
        assert steps == [
            "Pulling fs layer",
            "Downloading",
            "Verifying Checksum",
            "Download complete",
            "Extracting",
            "Pull complete",
        ]
        bars = [one for one in client.told if one.id == short(content) and one.status == "Downloading"]
        assert (bars[-1].current, bars[-1].total) == (len(content), len(content))
    assert pulled.is_new
    found = client.store.resolve(f"{registry.host}/two:v1")
    assert found.id == TWO.id
    assert found.digests == (f"{registry.host}/two@{named['digest']}",)
    assert client.store.resolve(f"{registry.host}/two@{named['digest']}").id == TWO.id


async def test_a_second_pull_finds_everything_there(client: Client, registry: FakeRegistry) -> None:
    registry.add_image("one", ONE, "latest")
    await client.pull(f"{registry.host}/one:latest")
    client.told.clear()
    await client.pull(f"{registry.host}/one:latest")
    assert client.lines()[0] == "latest: Pulling from one"
    assert client.lines()[-1] == f"Status: Image is up to date for {registry.host}/one:latest"
    assert registry.requests[digest_of(BASE)] == 1


async def test_layers_of_other_images_are_not_fetched_again(client: Client, registry: FakeRegistry) -> None:
    registry.add_image("one", ONE, "latest")
    registry.add_image("two", TWO, "latest")
    await client.pull(f"{registry.host}/one:latest")
    client.told.clear()
    await client.pull(f"{registry.host}/two:latest")
    assert f"{short(BASE)}: Already exists" in client.lines()
    assert registry.requests[digest_of(BASE)] == 1


async def test_a_tag_that_moved_takes_the_name_with_it(client: Client, registry: FakeRegistry) -> None:
    registry.add_image("app", ONE, "latest")
    await client.pull(f"{registry.host}/app:latest")
    registry.add_image("app", TWO, "latest")
    (pulled,) = await client.pull(f"{registry.host}/app:latest")
    assert pulled.is_new
    assert client.store.resolve(f"{registry.host}/app:latest").id == TWO.id
    assert client.store.resolve(ONE.id).references == ()
    assert client.store.resolve(ONE.id).digests != ()


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, lambda content: content])
async def test_every_compression_of_layers(client: Client, registry: FakeRegistry, pack: object) -> None:
    assert callable(pack)
    registry.add_image("two", TWO, "x", stored=[pack(BASE), pack(TOP)])
    (pulled,) = await client.pull(f"{registry.host}/two:x")
    assert pulled.image.size_bytes == len(BASE) + len(TOP)


async def test_by_digest_makes_no_tag(client: Client, registry: FakeRegistry) -> None:
    named = registry.add_image("one", ONE, "latest")
    (pulled,) = await client.pull(f"{registry.host}/one:ignored@{named['digest']}")
    assert pulled.image.references == ()
    assert pulled.image.digests == (f"{registry.host}/one@{named['digest']}",)
    assert client.lines()[0] == f"{registry.host}/one@{named['digest']}: Pulling from one"


async def test_all_tags_over_several_pages(client: Client, registry: FakeRegistry) -> None:
    registry.add_image("app", ONE, "1", "2", "3")
    registry.add_image("app", TWO, "4", "5")
    pulled = await client.pull(f"{registry.host}/app")
    assert len(pulled) == 5
    assert client.store.resolve(f"{registry.host}/app:5").id == TWO.id
    assert client.lines()[-1] == f"Status: Downloaded newer image for {registry.host}/app"


async def test_removal_takes_digests_of_the_last_tag_along(client: Client, registry: FakeRegistry) -> None:
    named = registry.add_image("one", ONE, "a", "b")
    await client.pull(f"{registry.host}/one:a")
    await client.pull(f"{registry.host}/one:b")
    nobody = lambda image_id: []  # noqa: E731
    first = client.store.remove(f"{registry.host}/one:a", force=False, in_use=nobody)
    assert [one.untagged for one in first] == [f"{registry.host}/one:a"]
    second = client.store.remove(f"{registry.host}/one:b", force=False, in_use=nobody)
    assert [one.untagged or one.deleted for one in second][:3] == [
        f"{registry.host}/one:b",
        f"{registry.host}/one@{named['digest']}",
        ONE.id,
    ]
    assert no_blob_is_left(client)


# Platforms.


async def test_an_index_gives_the_image_of_the_platform(client: Client, registry: FakeRegistry) -> None:
    other = replace(ONE, config=ONE.config.replace(b'"amd64"', b'"arm64"'))
    entries = [
        {**registry.add_image("app", TWO), "platform": {"os": "linux", "architecture": "amd64"}},
        {**registry.add_image("app", other), "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
        {**registry.add_image("app", ONE), "platform": {"os": "unknown", "architecture": "unknown"}},
    ]
    named = registry.add_manifest("app", {"schemaVersion": 2, "manifests": entries}, fake.INDEX, "latest")
    (pulled,) = await client.pull(f"{registry.host}/app:latest")
    assert (pulled.image.id, pulled.digest) == (TWO.id, named["digest"])
    (pulled,) = await client.pull(f"{registry.host}/app:latest", platform="linux/arm64")
    assert pulled.image.id == other.id
    with pytest.raises(NotFound) as caught:
        await client.pull(f"{registry.host}/app:latest", platform="linux/s390x")
    assert caught.value.message == "no matching manifest for linux/s390x in the manifest list entries"


async def test_one_platform_only_and_another_asked_for_is_a_warning(client: Client, registry: FakeRegistry) -> None:
    registry.add_image("one", ONE, "latest")
    await client.pull(f"{registry.host}/one:latest", platform="linux/arm64")
    assert any("does not match the specified platform (linux/arm64)" in line for line in client.lines())


# Failures in Docker's words.


async def test_what_is_not_there_is_told_as_docker_tells_it(client: Client, registry: FakeRegistry) -> None:
    with pytest.raises(NotFound) as caught:
        await client.pull(f"{registry.host}/none:v")
    assert caught.value.message == (
        f"manifest for {registry.host}/none:v not found: manifest unknown: manifest unknown"
    )
    with pytest.raises(NotFound) as caught:
        await client.pull(f"{registry.host}/none")
    assert caught.value.message.startswith(f"repository {registry.host}/none not found: name unknown: ")
    assert client.lines() == []


async def test_nobody_listens(client: Client, registry: FakeRegistry) -> None:
    await registry.stop()
    with pytest.raises(RemoteFailure) as caught:
        await client.pull(f"{registry.host}/one:latest")
    assert caught.value.message == (
        f'Get "http://{registry.host}/v2/": dial tcp {registry.host}: connect: connection refused'
    )
    await registry.start()


async def test_a_token_is_fetched_for_the_repository(client: Client, registry: FakeRegistry) -> None:
    registry.token = "t0ken"
    registry.add_image("one", ONE, "latest")
    await client.pull(f"{registry.host}/one:latest")
    asked = [path for method, path, _ in registry.seen if path.startswith("/token")]
    assert asked == ["/token?service=fake&scope=repository:one:pull"] or asked == [
        "/token?service=fake&scope=repository%3Aone%3Apull"
    ]


async def test_passwords_by_token_and_by_basic(client: Client, registry: FakeRegistry) -> None:
    registry.password = "right"
    registry.add_image("one", ONE, "latest")
    with pytest.raises(RemoteFailure) as caught:
        await client.pull(f"{registry.host}/one:latest")
    assert caught.value.message.endswith("no basic auth credentials")
    with pytest.raises(RemoteFailure, match="unauthorized: authentication required"):
        await client.pull(f"{registry.host}/one:latest", credentials=Credentials("me", "wrong"))
    await client.pull(f"{registry.host}/one:latest", credentials=ME)
    registry.token = "t0ken"
    with pytest.raises(NotFound) as denied:
        await client.pull(f"{registry.host}/one:latest")
    assert denied.value.message == (
        f"pull access denied for {registry.host}/one, repository does not exist or may require 'docker login': "
        "denied: requested access to the resource is denied"
    )
    with pytest.raises(RemoteFailure, match="unauthorized: incorrect username or password"):
        await client.pull(f"{registry.host}/one:latest", credentials=Credentials("me", "wrong"))
    await client.pull(f"{registry.host}/one:latest", credentials=ME)
    await client.pull(f"{registry.host}/one:latest", credentials=Credentials(identity_token="keep-me"))


# A bad line.


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_line_that_breaks_is_taken_up_where_it_broke(
    client: Client, registry: FakeRegistry, ranges: bool
) -> None:
    registry.add_image("one", ONE, "latest")
    registry.faults["blob"] = [None, fake.cut(7000, ranges=ranges), fake.cut(9000, ranges=ranges)]
    registry.faults["blob"] += [fake.cut(1 << 30, ranges=ranges)]
    await client.pull(f"{registry.host}/one:latest")
    wanted = [headers.get("Range", "") for _, path, headers in registry.seen if path.endswith(digest_of(BASE))]
    assert wanted[0] == "" and wanted[-1].startswith("bytes=")
    assert any(line.endswith("Retrying in 1 second") for line in client.lines())


async def test_overload_is_waited_for(client: Client, registry: FakeRegistry) -> None:
    registry.add_image("one", ONE, "latest")
    registry.faults = {
        "ping": [fake.status(503)],
        "manifest": [fake.status(429, Retry_After="0"), fake.status(502)],
        "blob": [fake.status(500), fake.status(429), None],
    }
    await client.pull(f"{registry.host}/one:latest")


async def test_a_registry_that_stays_overloaded_is_given_up(client: Client, registry: FakeRegistry) -> None:
    registry.add_image("one", ONE, "latest")
    registry.faults["manifest"] = [fake.status(429)] * 20
    with pytest.raises(RemoteFailure, match="toomanyrequests: too many requests"):
        await client.pull(f"{registry.host}/one:latest")
    assert registry.requests["manifest"] == 4
    registry.faults["manifest"] = [fake.status(503, Retry_After="86400")]
    with pytest.raises(RemoteFailure, match="received unexpected HTTP status: 503 Service Unavailable"):
        await client.pull(f"{registry.host}/one:latest")
    assert registry.requests["manifest"] == 5


async def test_corrupt_bytes_are_fetched_again(client: Client, registry: FakeRegistry) -> None:
    registry.add_image("one", ONE, "latest")
    config = digest_of(ONE.config)
    registry.faults["blob"] = [fake.corrupt, fake.corrupt, fake.corrupt]
    await client.pull(f"{registry.host}/one:latest")
    assert registry.requests[config] + registry.requests[digest_of(BASE)] == 5


# Lies.


async def test_bytes_that_stay_corrupt(client: Client, registry: FakeRegistry) -> None:
    registry.add_image("one", ONE, "latest")
    registry.faults["blob"] = [fake.corrupt] * 10
    with pytest.raises(DataLoss, match="filesystem layer verification failed for digest sha256:"):
        await client.pull(f"{registry.host}/one:latest")
    assert no_blob_is_left(client)


@pytest.mark.parametrize("lie", [fake.longer, fake.drip, fake.body(b"short")])
async def test_sizes_that_are_not_those_of_the_manifest(
    client: Client, registry: FakeRegistry, lie: fake.Fault
) -> None:
    registry.add_image("one", ONE, "latest")
    registry.faults["blob"] = [lie] * 20
    with pytest.raises(DataLoss, match=r"in its manifest|longer than"):
        await client.pull(f"{registry.host}/one:latest")
    assert no_blob_is_left(client)


async def test_a_layer_that_is_another_than_its_configuration_says(client: Client, registry: FakeRegistry) -> None:
    registry.add_image("one", ONE, "latest", stored=[gzip.compress(TOP)])
    with pytest.raises(DataLoss, match="does not match the image's configuration"):
        await client.pull(f"{registry.host}/one:latest")
    assert no_blob_is_left(client)
    assert client.store.list() == []


async def test_manifests_that_are_not_what_was_asked_for(client: Client, registry: FakeRegistry) -> None:
    named = registry.add_image("one", ONE, "latest")
    registry.faults["manifest"] = [fake.corrupt]
    with pytest.raises(DataLoss, match="manifest verification failed for digest"):
        await client.pull(f"{registry.host}/one@{named['digest']}")
    registry.faults["manifest"] = [fake.body(b"x" * (5 << 20))]
    with pytest.raises(RemoteFailure, match="longer than"):
        await client.pull(f"{registry.host}/one:latest")
    registry.faults["manifest"] = [fake.body(b"<html>")]
    with pytest.raises(HyperError):
        await client.pull(f"{registry.host}/one:latest")


async def test_what_is_no_image(client: Client, registry: FakeRegistry) -> None:
    chart = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digest_of(b"{}"), "size": 2}
    registry.add_image("chart", ONE, "1", config=chart)
    with pytest.raises(InvalidArgument, match=r"unsupported media type application/vnd\.cncf\.helm"):
        await client.pull(f"{registry.host}/chart:1")
    registry.add_manifest("old", {"schemaVersion": 1}, "application/vnd.docker.distribution.manifest.v1+json", "1")
    with pytest.raises(Unsupported, match="schema 1"):
        await client.pull(f"{registry.host}/old:1")
    odd = [{"mediaType": "application/x-secret", "digest": digest_of(BASE), "size": len(BASE)}]
    registry.add_image("odd", ONE, "1", layers=odd)
    with pytest.raises(InvalidArgument, match="unsupported media type application/x-secret of layer"):
        await client.pull(f"{registry.host}/odd:1")
    registry.add_image("sha512", ONE, "1", layers=[{"digest": "sha512:" + "0" * 128, "size": 5}])
    with pytest.raises(InvalidArgument, match="is not a digest"):
        await client.pull(f"{registry.host}/sha512:1")


async def test_absurd_manifests_are_refused_before_anything_is_fetched(client: Client, registry: FakeRegistry) -> None:
    one = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest_of(BASE), "size": len(BASE)}
    registry.add_image("many", ONE, "1", layers=[one] * 5000)
    with pytest.raises(ResourceExhausted, match="the image has 5000 layers; at most 500 are allowed"):
        await client.pull(f"{registry.host}/many:1")
    registry.add_image("huge", ONE, "1", layers=[{**one, "size": 1 << 50}])
    with pytest.raises(ResourceExhausted, match="more than the"):
        await client.pull(f"{registry.host}/huge:1")
    registry.add_image("negative", ONE, "1", layers=[{**one, "size": -1}])
    with pytest.raises(InvalidArgument, match="a size of -1 bytes"):
        await client.pull(f"{registry.host}/negative:1")
    registry.add_image("twice", TWO, "1", layers=[one, {**one, "size": 3}])
    with pytest.raises(InvalidArgument, match="two sizes"):
        await client.pull(f"{registry.host}/twice:1")
    assert sum(registry.requests.values()) == registry.requests["manifest"]


async def test_indexes_in_indexes_end(client: Client, registry: FakeRegistry) -> None:
    entry = registry.add_image("deep", ONE)
    for _ in range(6):
        entry = registry.add_manifest("deep", {"schemaVersion": 2, "manifests": [entry]}, fake.INDEX)
    with pytest.raises(InvalidArgument, match="nested more than 4 deep"):
        await client.pull(f"{registry.host}/deep@{entry['digest']}")
    many = registry.add_manifest("deep", {"schemaVersion": 2, "manifests": [entry] * 2000}, fake.INDEX)
    with pytest.raises(InvalidArgument, match="names more than 1000 manifests"):
        await client.pull(f"{registry.host}/deep@{many['digest']}")
    # One that names itself cannot be had by digest, but a registry may answer so.
    loop = registry.add_manifest("deep", {"manifests": [{**entry, "digest": digest_of(b"loop")}]}, fake.INDEX, "loop")
    registry.manifests[f"deep:{digest_of(b'loop')}"] = registry.manifests[f"deep:{loop['digest']}"]
    with pytest.raises(DataLoss, match="manifest verification failed"):
        await client.pull(f"{registry.host}/deep:loop")


# Redirects.


async def test_blobs_from_elsewhere_come_without_our_password(client: Client, registry: FakeRegistry) -> None:
    storage = FakeRegistry()
    await storage.start()
    try:
        storage.add_blob(BASE)
        registry.password = "right"
        registry.add_image("one", ONE, "latest")
        target = f"http://{storage.host}/v2/any/blobs/{digest_of(BASE)}?X-Amz-Signature=a%2Fb"
        registry.faults["blob"] = [None, fake.redirect(target)]
        # The configuration is the first blob that is asked for, or the second.
        registry.faults["blob"] = [
            lambda request, content: fake.redirect(target)(request, content) if content == BASE else None
        ] * 4
        await client.pull(f"{registry.host}/one:latest", credentials=ME)
        ((_, path, headers),) = storage.seen
        assert path.endswith("?X-Amz-Signature=a%2Fb")
        assert "Authorization" not in headers
    finally:
        await storage.stop()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "gopher://x/", "/v2/loop/blobs/sha256:" + "0" * 64])
async def test_redirects_to_nowhere_end(client: Client, registry: FakeRegistry, target: str) -> None:
    registry.add_image("one", ONE, "latest")
    registry.blobs["sha256:" + "0" * 64] = b""
    registry.faults["blob"] = [fake.redirect(target)] * 40
    with pytest.raises(RemoteFailure, match=r"no web address|stopped after 5 redirects"):
        await client.pull(f"{registry.host}/one:latest")


# Several at once.


async def test_ten_pulls_of_one_image_are_one_download(client: Client, registry: FakeRegistry) -> None:
    registry.add_image("two", TWO, "latest")
    registry.hold = asyncio.Event()
    pulls = [asyncio.create_task(client.pull(f"{registry.host}/two:latest", tell=lambda one: None)) for _ in range(10)]
    await registry.until(lambda: registry.requests["manifest"] == 10)
    registry.hold.set()
    await asyncio.gather(*pulls)
    assert {registry.requests[digest_of(item)] for item in (BASE, TOP, TWO.config)} == {1}
    assert not list((client.root / "images" / "tmp").iterdir())


async def test_a_client_that_goes_away_leaves_the_others(client: Client, registry: FakeRegistry) -> None:
    registry.add_image("one", ONE, "latest")
    registry.hold = asyncio.Event()
    first = asyncio.create_task(client.pull(f"{registry.host}/one:latest"))
    await registry.until(lambda: registry.requests[digest_of(BASE)] > 0)
    second = asyncio.create_task(client.pull(f"{registry.host}/one:latest"))
    await registry.until(lambda: registry.requests["manifest"] == 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    registry.hold.set()
    await second
    assert registry.requests[digest_of(BASE)] == 1


async def test_when_all_have_gone_nothing_goes_on(client: Client, registry: FakeRegistry) -> None:
    registry.add_image("one", ONE, "latest")
    registry.hold = asyncio.Event()
    pull = asyncio.create_task(client.pull(f"{registry.host}/one:latest"))
    await registry.until(lambda: registry.requests[digest_of(BASE)] > 0)
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    assert no_blob_is_left(client)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("blob ")]


# Mirrors.


async def test_mirrors_are_asked_first_and_without_the_password(
    client: Client, registry: FakeRegistry, registry_settings: RegistrySettings
) -> None:
    registry.add_image("library/one", ONE, "latest")
    settings = replace(registry_settings, mirrors=("http://127.0.0.1:1", f"http://{registry.host}/"))
    mirrored = Client(client.store, RegistryClient(settings), client.root)
    try:
        (pulled,) = await mirrored.pull("one:latest", credentials=ME)
    finally:
        await mirrored.registry_client.close()
    assert pulled.image.references == ("docker.io/library/one:latest",)
    assert mirrored.lines()[0] == "latest: Pulling from library/one"
    assert not [headers for _, _, headers in registry.seen if "Authorization" in headers]
