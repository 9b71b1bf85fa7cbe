"""``docker push``: an image's layers, configuration and manifest to a registry, and nothing that it has already.

An image that came with a manifest is pushed under just that manifest, so its digest stays. Otherwise one is written, in
the layout that dockerd writes, with layer blobs as they came; a layer that is not compressed is packed with gzip,
always to the same bytes.

Neighbours: ``registry/repository.py``, ``pull.py`` (the other way), ``store.py`` (what is kept of an image).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from isal import isal_zlib

from hyper.errors import DataLoss, InvalidArgument, NotFound
from hyper.images.catalog import Image
from hyper.images.compression import is_compressed, is_zstd
from hyper.images.intake import stoppable
from hyper.images.layers.build import read_file
from hyper.images.limits import Budget
from hyper.images.progress import Progress, Pushed, Tell
from hyper.images.records import LayerRecord
from hyper.images.registry.client import RegistryClient
from hyper.images.registry.failures import RegistryFailure
from hyper.images.registry.repository import Repository
from hyper.images.registry.retry import Retry
from hyper.images.store import ImageStore
from hyper.oci import digest, manifest
from hyper.oci.descriptor import MANIFEST_TYPES, Descriptor
from hyper.oci.distribution import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Credentials,
)
from hyper.oci.reference import Reference
from hyper.system import blocking

_PIECE_BYTES = 256 << 10
_PACKING_LEVEL = 2
_MOUNTS_TRIED = 3


@dataclass(frozen=True)
class _Upload:
    """A blob to be there in the end: in which file it lies, and how the screen calls it."""

    path: Path
    blob: Descriptor
    id: str


class Pusher:
    """Of one daemon."""

    def __init__(self, store: ImageStore, client: RegistryClient) -> None:
        self._store = store
        self._client = client
        self._slots = asyncio.Semaphore(max(1, client.settings.uploads))

    async def push(self, name: Reference, *, credentials: Credentials, tell: Tell) -> None:
        """The image of a tag, or those of all tags that the repository has here when ``name`` has none.

        InvalidArgument for a digest, NotFound when no image has that name, RegistryFailure in the registry's words."""
        if name.digest:
            raise InvalidArgument("cannot push a digest reference")
        tell(Progress(f"The push refers to repository [{name.name}]"))
        images = self._chosen(name)

        async def work(repository: Repository) -> None:
            for tagged, image in images:
                await self._one(repository, tagged, image, tell)

        await self._client.writing(name, credentials, work)

    def _chosen(self, name: Reference) -> list[tuple[Reference, Image]]:
        found = [(tag, image) for image in self._store.list() for tag in self._tags(image) if tag.name == name.name]
        if not found:
            raise NotFound(f"An image does not exist locally with the tag: {name.familiar_name}")
        if name.tag:
            found = [(tag, image) for tag, image in found if tag.tag == name.tag]
            if not found:
                raise NotFound(f"tag does not exist: {name.familiar}")
        return sorted(found, key=lambda one: one[0].tag)

    @staticmethod
    def _tags(image: Image) -> list[Reference]:
        from hyper.oci import reference

        return [reference.parse(text) for text in image.references]

    async def _one(self, repository: Repository, name: Reference, image: Image, tell: Tell) -> None:
        for layer in reversed(image.layers):
            tell(Progress("Preparing", id=_short(layer.diff_id), layer=True))
        async with AsyncExitStack() as held:
            held.enter_context(self._store.pinned_blobs([layer.blob for layer in image.layers]))
            scratch = await held.enter_async_context(self._store.scratch())
            raw, media_type, uploads = await self._plan(image, scratch)
            tasks = [
                asyncio.create_task(self._layer(repository, name, upload, tell))
                for upload in {upload.blob.digest: upload for upload in reversed(uploads)}.values()
            ]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            await self._config(repository, image, raw, scratch)
        found = await repository.put_manifest(name.tag, raw, media_type)
        if digest.is_digest(found) and found != digest.of(raw):
            raise DataLoss(f"the registry stored the manifest as {found}, and {digest.of(raw)} was sent")
        by_digest = Reference(name.domain, name.path, digest=digest.of(raw))
        self._store.add_names(image.id, (str(by_digest),), raw, media_type)
        self._store.records.note_repository([upload.blob.digest for upload in uploads], name.name, time.time_ns())
        pushed = Pushed(name.tag, digest.of(raw), len(raw))
        tell(Progress(f"{pushed.tag}: digest: {pushed.digest} size: {pushed.size_bytes}"))
        tell(Progress(pushed=pushed))

    # What to push.

    async def _plan(self, image: Image, scratch: Path) -> tuple[bytes, str, list[_Upload]]:
        """The manifest, its type, and the layers in the manifest's order."""
        blobs = [layer.blob for layer in image.layers]
        for kept in reversed(self._store.records.manifests(image.id)):
            content = manifest.decode(kept.raw, manifest.Manifest, "the image's manifest")
            if [layer.digest for layer in content.layers] == blobs and kept.media_type in MANIFEST_TYPES:
                layers = zip(image.layers, content.layers, strict=True)
                return kept.raw, kept.media_type, [self._stored(record, layer) for record, layer in layers]
        uploads = [await self._packed(layer, scratch) for layer in image.layers]
        raw, media_type = _written(image, [upload.blob for upload in uploads])
        return raw, media_type, uploads

    def _stored(self, record: LayerRecord, descriptor: Descriptor) -> _Upload:
        return _Upload(self._store.content.blob_path(record.blob), descriptor, _short(record.diff_id))

    async def _packed(self, layer: LayerRecord, scratch: Path) -> _Upload:
        """The layer's blob as it came; compressed when it came without."""
        stored = self._store.stored_blob(layer.blob)
        if stored is None:
            raise DataLoss(f"layer {layer.diff_id} is not in the store any more; load or pull the image again")
        identifier = _short(layer.diff_id)
        if is_compressed(stored.head):
            kind = f"{OCI_LAYER}+zstd" if is_zstd(stored.head) else DOCKER_LAYER
            return _Upload(stored.path, Descriptor(layer.blob, stored.size, kind), identifier)
        target = scratch / digest.hex_of(layer.blob)
        if not target.exists():
            budget = Budget(self._store.limits, scratch)
            packed, size = await stoppable(lambda: _pack(stored.path, target, budget), budget)
            self._store.records.note_packed(layer.blob, packed, size)
        packed_as = self._store.records.packed(layer.blob)
        assert packed_as is not None
        return _Upload(target, Descriptor(packed_as[0], packed_as[1], DOCKER_LAYER), identifier)

    # Blobs.

    async def _layer(self, repository: Repository, name: Reference, upload: _Upload, tell: Tell) -> None:
        if self._slots.locked():
            tell(Progress("Waiting", id=upload.id, layer=True))
        async with self._slots:
            if await repository.has_blob(upload.blob.digest) is not None:
                tell(Progress("Layer already exists", id=upload.id, layer=True))
                return
            location = ""
            for source in self._mountable(name, upload.blob.digest):
                location = await self._mount(repository, upload.blob.digest, source)
                if not location:
                    tell(Progress(f"Mounted from {source}", id=upload.id, layer=True))
                    return

            def report(done: int) -> None:
                tell(Progress("Pushing", id=upload.id, current=done, total=upload.blob.size, layer=True))

            await self._upload(repository, upload, location, report)
            tell(Progress("Pushed", id=upload.id, layer=True))

    def _mountable(self, name: Reference, blob: str) -> list[str]:
        """Repositories of the same registry that have the blob, without the registry."""
        known = self._store.records.repositories(blob)
        start = f"{name.domain}/"
        paths = [one.removeprefix(start) for one in known if one.startswith(start) and one != name.name]
        return paths[:_MOUNTS_TRIED]

    @staticmethod
    async def _mount(repository: Repository, blob: str, source: str) -> str:
        """ "" when it is mounted, else where it may be uploaded to; whoever may not read there uploads."""
        try:
            return await repository.begin_upload(mount=blob, source=source)
        except RegistryFailure as error:
            if error.transient or error.status == 0:
                raise
            return await repository.begin_upload()

    async def _upload(
        self, repository: Repository, upload: _Upload, location: str, report: Callable[[int], None]
    ) -> None:
        """From the start again when the line breaks: the registry throws half an upload away by itself."""
        retry = Retry(self._client.settings)
        while True:
            try:
                target = location or await repository.begin_upload()
                with await blocking.run(upload.path.open, "rb", 0) as file:
                    target = await repository.upload_chunk(target, _pieces(file, report), upload.blob.size)
                await repository.finish_upload(target, upload.blob.digest)
                return
            except RegistryFailure as error:
                delay_s = retry.delay_s(error)
                if delay_s is None:
                    raise
            location = ""
            await asyncio.sleep(delay_s)

    async def _config(self, repository: Repository, image: Image, raw: bytes, scratch: Path) -> None:
        described = manifest.decode(raw, manifest.Manifest, "the image's manifest").config
        if await repository.has_blob(described.digest) is not None:
            return
        path = scratch / "config"
        await blocking.run(path.write_bytes, image.config.raw)
        await self._upload(repository, _Upload(path, described, ""), "", lambda done: None)


def _written(image: Image, layers: list[Descriptor]) -> tuple[bytes, str]:
    """A new manifest: Docker's kind, byte for byte as dockerd writes it, unless only OCI's can name its layers."""
    oci = any(layer.media_type != DOCKER_LAYER for layer in layers)
    media_type = OCI_MANIFEST if oci else DOCKER_MANIFEST
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {
            "mediaType": OCI_CONFIG if oci else DOCKER_CONFIG,
            "size": len(image.config.raw),
            "digest": image.id,
        },
        "layers": [
            {
                "mediaType": f"{OCI_LAYER}+gzip" if oci and layer.media_type == DOCKER_LAYER else layer.media_type,
                "size": layer.size,
                "digest": layer.digest,
            }
            for layer in layers
        ],
    }
    return json.dumps(document, indent=3).encode(), media_type


def _pack(source: Path, target: Path, budget: Budget) -> tuple[str, int]:
    """Compress a layer with gzip, without a time in it; the result's digest and size. Blocking."""
    sha256 = hashlib.sha256()
    size = 0
    with target.open("wb") as file:
        for chunk in _compressed(source):
            budget.add_written(len(chunk))
            sha256.update(chunk)
            file.write(chunk)
            size += len(chunk)
    return f"sha256:{sha256.hexdigest()}", size


def _compressed(source: Path) -> Iterator[bytes]:
    packer = isal_zlib.compressobj(_PACKING_LEVEL, wbits=31)
    for chunk in read_file(source):
        yield packer.compress(chunk)
    yield packer.flush()


async def _pieces(file: BinaryIO, report: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    """Read here and not in a thread: a request may end, and the file be closed, while its last piece is being read."""
    done = 0
    while piece := file.read(_PIECE_BYTES):
        yield piece
        done += len(piece)
        report(done)


def _short(diff_id: str) -> str:
    return digest.hex_of(diff_id)[:12]
