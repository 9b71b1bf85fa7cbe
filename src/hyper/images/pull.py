"""``docker pull``: from a name to an image that can run, told step by step in Docker's words.

The manifest is chosen for the platform and checked before anything big is fetched; blobs come in parallel, each once
for the whole daemon; then the store makes the disk and records the image with its tag and its digest in one step.

Neighbours: ``registry/client.py`` (where from), ``transfers.py`` (blobs), ``store.py`` (what becomes of them).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from hyper.errors import (
    DataLoss,
    HyperError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unsupported,
)
from hyper.images.archives import ArchiveImage, is_attestation
from hyper.images.content import Spooled
from hyper.images.progress import Progress, Tell
from hyper.images.registry.client import RegistryClient
from hyper.images.registry.failures import RegistryFailure, pull_failure
from hyper.images.registry.repository import FetchedManifest, Repository
from hyper.images.store import Image, ImageStore
from hyper.images.transfers import Downloading, Transfers
from hyper.oci import digest, image_config, manifest, platform
from hyper.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, Descriptor, Platform
from hyper.oci.distribution import CONFIG_TYPES, LAYER_TYPES, SCHEMA_1, Credentials
from hyper.oci.image_config import ImageConfig
from hyper.oci.reference import Reference

_INDEX_DEPTH_MAX = 4
_INDEX_ENTRIES_MAX = 1000
_TAGS_MAX = 10_000


@dataclass(frozen=True)
class PulledImage:
    """``digest``: of what the tag named, an index's too. ``is_new``: the name did not mean this image before."""

    image: Image
    digest: str
    is_new: bool


@dataclass(frozen=True)
class DistributionInfo:
    """``GET /distribution/{name}/json``."""

    descriptor: Descriptor
    platforms: tuple[Platform, ...]


@dataclass(frozen=True)
class _Chosen:
    """One image of the registry: its manifest, and its configuration's and layers' places."""

    fetched: FetchedManifest
    content: manifest.Manifest
    name_digest: str


class Puller:
    """Of one daemon."""

    def __init__(self, store: ImageStore, client: RegistryClient) -> None:
        self._store = store
        self._client = client
        self._transfers = Transfers(store.content, store.limits, client.settings)

    async def pull(
        self, name: Reference, *, wanted: Platform | None, credentials: Credentials, tell: Tell, owner: str = ""
    ) -> Sequence[PulledImage]:
        """The image of a tag or digest, or of every tag of a repository when ``name`` has neither.

        NotFound "pull access denied …", "manifest for … not found …", "no matching manifest …"; RegistryFailure;
        DataLoss for what does not match its digest or size. Nothing of a failed image remains."""
        try:
            return await self._client.reading(
                name, credentials, lambda repository: self._pull(repository, name, wanted, tell, owner)
            )
        except RegistryFailure as error:
            raise pull_failure(error, name) from error

    async def _pull(
        self, repository: Repository, name: Reference, wanted: Platform | None, tell: Tell, owner: str
    ) -> list[PulledImage]:
        if name.tag or name.digest:
            pulled = [await self._one(repository, name, wanted, tell, owner)]
        else:
            tags = await repository.tags()
            if len(tags) > _TAGS_MAX:
                raise ResourceExhausted(f"{name.familiar} has {len(tags)} tags; at most {_TAGS_MAX} are pulled at once")
            pulled = [
                await self._one(
                    repository, Reference(name.domain, name.path, _checked_tag(name, tag)), wanted, tell, owner
                )
                for tag in tags
            ]
        any_new = any(one.is_new for one in pulled)
        tell(
            Progress(
                f"Status: Downloaded newer image for {name.familiar}"
                if any_new
                else f"Status: Image is up to date for {name.familiar}"
            )
        )
        return pulled

    async def _one(
        self, repository: Repository, name: Reference, wanted: Platform | None, tell: Tell, owner: str
    ) -> PulledImage:
        # With both, the digest decides, and no tag is made.
        target = Reference(name.domain, name.path, digest=name.digest) if name.digest else name
        found = await repository.manifest(target.digest or target.tag)
        tell(Progress(f"Pulling from {name.path}", id=str(target) if target.digest else target.tag))
        chosen = await self._choose(repository, found, wanted or platform.host())
        if name.digest and found.digest != name.digest:
            raise DataLoss(f"manifest verification failed for digest {name.digest}")
        by_digest = Reference(name.domain, name.path, digest=found.digest)
        names = tuple(dict.fromkeys((str(target), str(by_digest))))
        known = self._store.find(chosen.content.config.digest)
        if known is not None:
            is_new = str(target) not in known.names
            image = self._store.add_names(known.id, names, chosen.fetched.raw, chosen.fetched.media_type)
        else:
            is_new = True
            image = await self._fetch(repository, name, chosen, names, tell, owner)
        tell(Progress(f"Digest: {found.digest}"))
        if wanted is not None and not platform.fits(_platform_of(image.config), wanted):
            tell(
                Progress(
                    f"WARNING: image with reference {name.familiar} was found but its platform "
                    f"({platform.text(_platform_of(image.config))}) does not match the specified platform "
                    f"({platform.text(wanted)})"
                )
            )
        return PulledImage(image, found.digest, is_new)

    async def inspect(self, name: Reference, credentials: Credentials) -> DistributionInfo:
        """What a registry has under a name, without pulling it. NotFound, PermissionDenied, Unauthenticated."""

        async def work(repository: Repository) -> DistributionInfo:
            found = await repository.manifest(name.digest or name.tag)
            described = Descriptor(found.digest, len(found.raw), found.media_type)
            if found.media_type in INDEX_TYPES:
                index = manifest.decode(found.raw, manifest.Index, f"the index {found.digest[:19]}")
                return DistributionInfo(described, tuple(one.platform for one in index.manifests if one.platform))
            if found.media_type not in MANIFEST_TYPES:
                return DistributionInfo(described, ())
            content = manifest.decode(found.raw, manifest.Manifest, f"the manifest {found.digest[:19]}")
            if content.config.media_type not in CONFIG_TYPES:
                return DistributionInfo(described, ())
            self._check(content)
            config = await self._config(repository, content)
            return DistributionInfo(described, (Platform(config.architecture, config.os or "linux", config.variant),))

        try:
            return await self._client.reading(name, credentials, work)
        except RegistryFailure as error:
            kinds: dict[str, type[HyperError]] = {"DENIED": PermissionDenied, "UNAUTHORIZED": Unauthenticated}
            kinds |= dict.fromkeys(("MANIFEST_UNKNOWN", "NAME_UNKNOWN"), NotFound)
            if error.code in kinds:
                raise kinds[error.code](error.message) from error
            raise

    # Manifests.

    async def _choose(
        self, repository: Repository, found: FetchedManifest, wanted: Platform, depth: int = 0
    ) -> _Chosen:
        """The image manifest for a platform, through indexes. NotFound in Docker's words when there is none."""
        if found.media_type in INDEX_TYPES:
            if depth >= _INDEX_DEPTH_MAX:
                raise InvalidArgument(f"the image's indexes are nested more than {_INDEX_DEPTH_MAX} deep")
            index = manifest.decode(found.raw, manifest.Index, f"the index {found.digest[:19]}")
            if len(index.manifests) > _INDEX_ENTRIES_MAX:
                raise InvalidArgument(f"the index {found.digest[:19]} names more than {_INDEX_ENTRIES_MAX} manifests")
            entries = [one for one in index.manifests if not is_attestation(one)]
            best = next(iter(platform.best(entries, wanted)), None)
            if best is None:
                raise NotFound(f"no matching manifest for {platform.text(wanted)} in the manifest list entries")
            inner = await repository.manifest(digest.parse(best.digest))
            if len(inner.raw) != best.size:
                raise DataLoss(
                    f"manifest {best.digest} has {len(inner.raw)} bytes, and {best.size} in the index that names it"
                )
            return await self._choose(repository, inner, wanted, depth + 1)
        if found.media_type in SCHEMA_1:
            raise Unsupported(
                "Docker Image Format v1 and Docker Image manifest version 2, schema 1 are not supported: "
                "push the image again with a current client"
            )
        if found.media_type not in MANIFEST_TYPES:
            raise InvalidArgument(f"unsupported manifest media type {found.media_type[:100]!r}: it is no image")
        content = manifest.decode(found.raw, manifest.Manifest, f"the manifest {found.digest[:19]}")
        self._check(content)
        return _Chosen(found, content, found.digest)

    def _check(self, content: manifest.Manifest) -> None:
        """Before anything is fetched: is it an image, and of a size that we take?"""
        limits = self._store.limits
        if content.config.media_type not in CONFIG_TYPES:
            raise InvalidArgument(f"unsupported media type {content.config.media_type[:100]}: it is no image to run")
        if len(content.layers) > limits.layers:
            raise ResourceExhausted(f"the image has {len(content.layers)} layers; at most {limits.layers} are allowed")
        total = 0
        for layer in (content.config, *content.layers):
            digest.parse(layer.digest)
            if layer.size < 0:
                raise InvalidArgument(f"the manifest gives {layer.digest} a size of {layer.size} bytes")
            total += layer.size
        for layer in content.layers:
            if layer.media_type not in LAYER_TYPES:
                raise InvalidArgument(f"unsupported media type {layer.media_type[:100]} of layer {layer.digest[:19]}")
        if content.config.size > limits.json_bytes:
            raise InvalidArgument(
                f"the image's configuration has {content.config.size} bytes; at most {limits.json_bytes} are allowed"
            )
        if total > limits.archive_bytes:
            raise ResourceExhausted(
                f"the image has {total >> 20} MiB, more than the {limits.archive_bytes >> 20} MiB set for images"
            )

    # Blobs.

    async def _fetch(
        self,
        repository: Repository,
        name: Reference,
        chosen: _Chosen,
        names: tuple[str, ...],
        tell: Tell,
        owner: str,
    ) -> Image:
        layers = chosen.content.layers
        # The same layer twice is one blob, and one line on the screen.
        blobs = list({layer.digest: layer for layer in layers}.values())
        _check_sizes(layers)
        async with AsyncExitStack() as held:
            held.enter_context(self._store.pinned_blobs([blob.digest for blob in blobs]))
            for blob in blobs:
                stored = self._store.stored_blob(blob.digest)
                tell(Progress("Already exists" if stored else "Pulling fs layer", id=_short(blob.digest), layer=True))
            config_task = asyncio.create_task(self._config(repository, chosen.content))
            tasks = [asyncio.create_task(self._layer(repository, blob, tell, held)) for blob in blobs]
            try:
                config = await config_task
                spooled = dict(zip((blob.digest for blob in blobs), await asyncio.gather(*tasks), strict=True))
            finally:
                for task in (config_task, *tasks):
                    task.cancel()
                await asyncio.gather(config_task, *tasks, return_exceptions=True)
            image = ArchiveImage(
                config,
                tuple(spooled[layer.digest] for layer in layers),
                names,
                chosen.fetched.raw,
                chosen.fetched.media_type,
            )
            progress = _Extracting(layers, tell)
            added = await self._store.add(image, building=progress, source=f"{name.domain}/{name.path}", owner=owner)
            for blob in blobs:
                tell(Progress("Pull complete", id=_short(blob.digest), layer=True))
            return added

    async def _config(self, repository: Repository, content: manifest.Manifest) -> ImageConfig:
        async with self._transfers.blob(repository, content.config, lambda state: None) as spooled:
            raw = spooled.data if spooled.data is not None else await asyncio.to_thread(spooled.path.read_bytes)
        config = image_config.decode(raw)
        if len(config.diff_ids) != len(content.layers):
            raise InvalidArgument(
                "layers from manifest don't match image configuration: "
                f"{len(content.layers)} layers, {len(config.diff_ids)} diff IDs"
            )
        return config

    async def _layer(self, repository: Repository, blob: Descriptor, tell: Tell, held: AsyncExitStack) -> Spooled:
        stored = self._store.stored_blob(blob.digest)
        if stored is not None:
            if stored.size != blob.size:
                raise DataLoss(f"blob {blob.digest} has {stored.size} bytes, and {blob.size} in the manifest")
            return stored
        identifier = _short(blob.digest)
        if not self._transfers.slots_free:
            tell(Progress("Waiting", id=identifier, layer=True))

        def watch(state: Downloading) -> None:
            if state.retry_s:
                seconds = max(1, round(state.retry_s))
                tell(Progress(f"Retrying in {seconds} second{'s' * (seconds != 1)}", id=identifier, layer=True))
            else:
                tell(Progress("Downloading", id=identifier, current=state.done_bytes, total=blob.size, layer=True))

        spooled = await held.enter_async_context(self._transfers.blob(repository, blob, watch))
        tell(Progress("Verifying Checksum", id=identifier, layer=True))
        tell(Progress("Download complete", id=identifier, layer=True))
        return spooled


class _Extracting:
    """Tells how far the store is in a layer, by the compressed bytes that it has read."""

    def __init__(self, layers: Sequence[Descriptor], tell: Tell) -> None:
        self._layers = layers
        self._tell = tell

    def __call__(self, number: int, read_bytes: int) -> None:
        layer = self._layers[number]
        current = min(read_bytes, layer.size)
        self._tell(Progress("Extracting", id=_short(layer.digest), current=current, total=layer.size, layer=True))


def _check_sizes(layers: Sequence[Descriptor]) -> None:
    sizes: dict[str, int] = {}
    for layer in layers:
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise InvalidArgument(f"the manifest gives the blob {layer.digest} two sizes")


def _checked_tag(name: Reference, tag: str) -> str:
    from hyper.oci import reference

    return reference.parse(f"{name}:{tag}").tag


def _platform_of(config: ImageConfig) -> Platform:
    return platform.normalised(Platform(config.architecture, config.os or "linux", config.variant))


def _short(blob: str) -> str:
    return digest.hex_of(blob)[:12]
