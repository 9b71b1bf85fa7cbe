"""The image store: load, import, add, find, tag, remove, lease. What the engine sees of ``hyper.images``.

Loading spools the archive, makes each image's disk in a worker thread, renames the files to their final names, and
only then records the image in one transaction: a crash before leaves files that the next ``open`` removes, a crash
after leaves an image.

Neighbours: ``archives.py``, ``layers/build.py``, ``content.py``, ``records.py``, ``catalog.py``; ``pull.py`` and
``push.py`` (registries); the engine above.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hyper.errors import InvalidArgument, NotFound
from hyper.images import changes as dockerfile_changes
from hyper.images.archives import Archive, ArchiveImage, host_architecture
from hyper.images.catalog import Catalog, HistoryItem, Image, ImageUser, Removal
from hyper.images.compression import is_compressed
from hyper.images.content import ContentStore, Spooled, disk_full, sync
from hyper.images.intake import consume, stoppable
from hyper.images.layers.build import BuiltDisk, Layer, build_disk, verify
from hyper.images.limits import Budget, ImageLimits
from hyper.images.records import ImageRecord, ImageRecords, LayerRecord, ManifestRecord
from hyper.images.save import Chosen, archive
from hyper.oci import digest, image_config, reference
from hyper.oci.image_config import ContainerConfig, History, ImageConfig, RootFs
from hyper.system import blocking
from hyper.system.database import Database

__all__ = ["HistoryItem", "Image", "ImageStore", "ImageUser", "LoadProgress", "LoadedImage", "Removal"]

_EMPTY_LAYER = digest.of(bytes(1024))
"""A tar without members: a commit of a container that has changed nothing."""
_NO_LAYERS = digest.of(b"")
"""Names the disk of an image without any layer (``FROM scratch`` with metadata only)."""


@dataclass(frozen=True)
class LoadProgress:
    """``step``: "receiving" or "building"; ``item``: what (a layer's short digest); bytes done so far, uncompressed."""

    step: str
    item: str
    done_bytes: int


@dataclass(frozen=True)
class LoadedImage:
    """One image of a load. ``message`` is the line that ``docker load`` prints for it."""

    image_id: str
    references: tuple[str, ...]

    @property
    def messages(self) -> tuple[str, ...]:
        if not self.references:
            return (f"Loaded image ID: {self.image_id}",)
        return tuple(f"Loaded image: {reference.familiar(name)}" for name in self.references)


class ImageStore:
    """All methods are for the event loop's thread. Errors are ``hyper.errors`` kinds."""

    def __init__(self, content: ContentStore, records: ImageRecords, limits: ImageLimits) -> None:
        self.content = self._content = content
        self.records = self._records = records
        self.limits = self._limits = limits
        self._catalog = Catalog(content.disk_path)
        self._pins: Counter[Path] = Counter()
        self._building: dict[str, asyncio.Lock] = {}
        self._syncing: set[asyncio.Task[None]] = set()
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    @classmethod
    async def open(cls, root: Path, database: Database, limits: ImageLimits | None = None) -> ImageStore:
        """Open the store under ``root`` (the data root), clearing what a crash left."""
        content = await blocking.run(ContentStore, root / "images")
        store = cls(content, ImageRecords(database), limits or ImageLimits())
        await store._recover()
        return store

    async def close(self) -> None:
        """Wait until everything acknowledged is on stable storage. To be called before the database is closed."""
        while self._syncing:
            await asyncio.wait(self._syncing)

    # Taking images in.

    async def load(
        self, stream: AsyncIterator[bytes], *, progress: Callable[[LoadProgress], None], owner: str = ""
    ) -> list[LoadedImage]:
        """Take in a ``docker save`` archive or an OCI layout, possibly compressed.

        InvalidArgument for what is malformed, DataLoss for what does not match its digest, ResourceExhausted when a
        limit or the disk is reached; then nothing of the failed image remains (those before it in the same archive
        do).
        """
        budget = Budget(self._limits, self._content.root)
        report = self._reporter(progress)

        def receive(chunks: Iterator[bytes]) -> list[ArchiveImage]:
            budget.check_free()
            archive = Archive(budget)
            archive.read(_counted(chunks, lambda count: report("receiving", "archive", count)), self._content, scratch)
            return archive.images()

        loaded = []
        async with self.scratch() as scratch:
            for image in await consume(stream, receive, budget):
                loaded.append(await self._add(image, scratch, budget, _building(image, report), owner))
        return loaded

    async def add(
        self, image: ArchiveImage, *, building: Callable[[int, int], None], source: str, owner: str = ""
    ) -> Image:
        """Make and record an image whose verified blobs are spooled or stored. ``building``: told the layer's number
        and how many bytes of its blob are read; ``source``: the repository that has the blobs."""
        budget = Budget(self._limits, self._content.root)
        report = self._reporter(lambda progress: building(int(progress.item), progress.done_bytes))
        async with self.scratch() as scratch:
            await self._add(
                image, scratch, budget, lambda number, expanded, read: report("building", str(number), read), owner
            )
        self._records.note_repository([layer.digest for layer in image.layers], source, time.time_ns())
        found = self._catalog.by_id(image.config.id)
        assert found is not None
        return found

    def add_names(self, image_id: str, names: Sequence[str], raw_manifest: bytes, media_type: str) -> Image:
        """More names for an image that is there, and a manifest that it also came with."""
        record = next(record for record in self._records.images() if record.id == image_id)
        self._records.add_names(record, names, _manifest(raw_manifest, media_type))
        self._reload()
        found = self._catalog.by_id(image_id)
        assert found is not None
        return found

    def stored_blob(self, blob: str) -> Spooled | None:
        """A layer blob of an image that is here; None when there is none of that digest."""
        path = self._content.blob_path(blob)
        if not any(blob == layer.blob for image in self._catalog.all() for layer in image.layers):
            return None
        try:
            with path.open("rb") as file:
                return Spooled(path, blob, os.fstat(file.fileno()).st_size, file.read(8), None)
        except FileNotFoundError:
            return None

    @contextmanager
    def pinned_blobs(self, blobs: Sequence[str]) -> Iterator[None]:
        """Let nobody remove these for as long as the block lasts; what nothing refers to afterwards goes then."""
        try:
            with self._pinned(*(self._content.blob_path(blob) for blob in blobs)):
                yield
        finally:
            self._sweep((), blobs)

    async def import_root(
        self,
        stream: AsyncIterator[bytes],
        *,
        reference: str | None,
        changes: Sequence[str],
        message: str,
        platform: str | None,
        owner: str = "",
        created_ns: int | None = None,
    ) -> Image:
        """Make an image of one layer from a root tar, possibly compressed (``docker import``)."""
        name = self._catalog.check_tag(reference) if reference else None
        container_config = dockerfile_changes.apply(ContainerConfig(), changes)
        architecture = _architecture(platform)
        budget = Budget(self._limits, self._content.root)

        def receive(chunks: Iterator[bytes]) -> Spooled:
            budget.check_free()
            return self._content.spool(chunks, scratch, budget)

        async with self.scratch() as scratch:
            spooled = await consume(stream, receive, budget)
            if not spooled.size:
                raise InvalidArgument("the archive to import is empty")
            verified = not is_compressed(spooled.head)
            layer = Layer(spooled.path, spooled.digest if verified else "", verified, "the archive to import")
            temporary = scratch / "disk"
            built = await stoppable(
                lambda: self._build((layer,), temporary, budget, lambda number, expanded, read: None), budget
            )
            created = image_config.format_time_ns(time.time_ns() if created_ns is None else created_ns)
            config = image_config.encode(
                ImageConfig(
                    architecture=architecture,
                    os="linux",
                    created=created,
                    comment=message or "Imported from -",
                    config=container_config,
                    rootfs=RootFs(diff_ids=list(built.diff_ids)),
                    history=[History(created=created, comment=message or "Imported from -")],
                )
            )
            disk_id = built.diff_ids[0]
            image = ArchiveImage(config, (spooled,), (str(name),) if name else ())
            with self._pinned(self._content.disk_path(disk_id), self._content.blob_path(spooled.digest)):
                self._content.keep_disk(temporary, disk_id)
                self._keep(image, built.layer_bytes, disk_id, owner)
        found = self._catalog.by_id(config.id)
        assert found is not None
        return found

    async def commit(
        self,
        parent: Image,
        layer: AsyncIterator[bytes],
        *,
        config: ContainerConfig,
        step: History,
        container: str,
        reference: str | None,
    ) -> Image:
        """An image of ``parent`` with one layer more (a tar; an empty one adds none). ``step``: its line of the
        history; ``config``: how containers of it run. Errors as :meth:`load`'s."""
        name = self._catalog.check_tag(reference) if reference else None
        budget = Budget(self._limits, self._content.root)

        def receive(chunks: Iterator[bytes]) -> Spooled:
            budget.check_free()
            return self._content.spool(chunks, scratch, budget)

        blobs = [self._content.blob_path(known.blob) for known in parent.layers]
        with self._pinned(*blobs):
            below = [
                Spooled(path, known.blob, path.stat().st_size, b"", None)
                for path, known in zip(blobs, parent.layers, strict=True)
            ]
            async with self.scratch() as scratch:
                spooled = await consume(layer, receive, budget)
                empty = spooled.digest == _EMPTY_LAYER
                diff_ids = [*parent.config.diff_ids, *(() if empty else (spooled.digest,))]
                line = msgspec.structs.replace(step, empty_layer=empty)
                made = image_config.encode(
                    ImageConfig(
                        architecture=parent.config.architecture,
                        os=parent.config.os or "linux",
                        variant=parent.config.variant,
                        created=step.created,
                        author=step.author,
                        comment=step.comment,
                        config=config,
                        rootfs=RootFs(diff_ids=diff_ids),
                        history=[*(parent.config.history or ()), line],
                        container=container,
                    )
                )
                layers = (*below, *(() if empty else (spooled,)))
                image = ArchiveImage(made, layers, (str(name),) if name else ())
                await self._add(image, scratch, budget, lambda step, item, count: None, parent.owner)
        found = self._catalog.by_id(made.id)
        assert found is not None
        return found

    def save(self, names: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """The images of these names or IDs as one archive (``docker save``); a repository's name without a tag
        stands for all of its tags. NotFound when this is called, DataLoss while it is read."""
        chosen = [
            Chosen(image, references, tuple(self._content.blob_path(layer.blob) for layer in image.layers))
            for image, references in self._catalog.choose(names)
        ]
        return self._saved(chosen)

    async def _saved(self, chosen: Sequence[Chosen]) -> AsyncGenerator[bytes, None]:
        with self._pinned(*(blob for one in chosen for blob in one.blobs)):
            pieces = archive(chosen, Budget(self._limits, self._content.root))
            while (piece := await blocking.run(next, pieces, None)) is not None:
                if piece:
                    yield piece

    def layers_bytes(self) -> int:
        """What all layers have together, each counted once, uncompressed."""
        return sum({layer.diff_id: layer.size_bytes for image in self.list() for layer in image.layers}.values())

    async def _add(
        self,
        image: ArchiveImage,
        scratch: Path,
        budget: Budget,
        building: Callable[[int, int, int], None],
        owner: str,
    ) -> LoadedImage:
        """Make the disk of one image unless there is one of the same layers, then record it."""
        diff_ids = image.config.diff_ids
        disk_id = digest.chain_id(diff_ids) or _NO_LAYERS
        known = self._records.blob_diff_ids()
        layers = tuple(
            Layer(
                self._layer_path(layer),
                diff_id,
                layer.digest == diff_id,
                _layer_name(at, diff_id),
            )
            for at, (layer, diff_id) in enumerate(zip(image.layers, diff_ids, strict=True))
        )
        paths = [self._content.disk_path(disk_id), *(self._content.blob_path(layer.digest) for layer in image.layers)]
        lock = self._building.setdefault(disk_id, asyncio.Lock())
        with self._pinned(*paths):
            try:
                async with lock:
                    existing = self._existing_sizes(disk_id)
                    if existing is not None:
                        await stoppable(lambda: self._verify_new(layers, image.layers, known, budget), budget)
                        sizes = existing
                    else:
                        temporary = scratch / f"disk-{digest.hex_of(disk_id)}"
                        built = await stoppable(lambda: self._build(layers, temporary, budget, building), budget)
                        sizes = built.layer_bytes
                        self._content.keep_disk(temporary, disk_id)
                    self._keep(image, sizes, disk_id, owner)
            finally:
                if not lock.locked():
                    self._building.pop(disk_id, None)
        return LoadedImage(image.config.id, image.references)

    def _build(
        self, layers: Sequence[Layer], temporary: Path, budget: Budget, progress: Callable[[int, int, int], None]
    ) -> BuiltDisk:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with disk_full(temporary, lambda: os.fstat(descriptor).st_size):
                return build_disk(layers, descriptor, temporary.parent, budget, progress)
        finally:
            os.close(descriptor)

    def _verify_new(
        self, layers: Sequence[Layer], spooled: Sequence[Spooled], known: dict[str, str], budget: Budget
    ) -> None:
        """The disk is there, but a blob that was not seen before may still be other than its diff ID says."""
        for layer, blob in zip(layers, spooled, strict=True):
            if not layer.verified and known.get(blob.digest) != layer.diff_id:
                verify(layer, budget)

    def _keep(self, image: ArchiveImage, sizes: Sequence[int], disk_id: str, owner: str) -> None:
        """Final names for the blobs, then the record: from here on the image is there."""
        for blob in image.layers:
            self._content.keep_blob(blob)
        config = image.config
        layers = tuple(
            LayerRecord(diff_id, blob.digest, size)
            for diff_id, blob, size in zip(config.diff_ids, image.layers, sizes, strict=True)
        )
        record = ImageRecord(
            config.id,
            owner,
            config.raw,
            sum(sizes),
            config.created_ns,
            time.time_ns(),
            layers,
            (disk_id,),
            image.references,
        )
        files = [("disk", disk_id), *(("blob", blob.digest) for blob in image.layers)]
        self._records.add(record, files, self._boot_id, _manifest(image.manifest, image.manifest_type))
        self._reload()
        for kind, name in files:
            self._sync_behind(kind, name)

    def _existing_sizes(self, disk_id: str) -> tuple[int, ...] | None:
        """The layer sizes of an image that has this disk, when the disk is there."""
        for image in self._catalog.all():
            if image.disk_ids == (disk_id,) and image.disks[0].exists():
                return tuple(layer.size_bytes for layer in image.layers)
        return None

    def _layer_path(self, layer: Spooled) -> Path:
        return layer.path if layer.path.exists() else self._content.blob_path(layer.digest)

    # Names.

    def find(self, image_id: str) -> Image | None:
        """The image of that full ID."""
        return self._catalog.by_id(image_id)

    def resolve(self, name_or_id: str) -> Image:
        """The image of that name, ID or unambiguous start of an ID. NotFound "No such image: …"."""
        return self._catalog.resolve(name_or_id)

    def list(self) -> Sequence[Image]:
        """All images, the newest first."""
        return self._catalog.all()

    def tag(self, source: str, target: str) -> None:
        """Let ``target`` name the image ``source``; a name that meant another image moves."""
        image = self.resolve(source)
        self._records.point(image.owner, str(self._catalog.check_tag(target)), image.id)
        self._reload()

    def history(self, name_or_id: str) -> Sequence[HistoryItem]:
        """``docker history``, newest first."""
        return self._catalog.history(self.resolve(name_or_id))

    def remove(
        self, name_or_id: str, *, force: bool, in_use: Callable[[str], Sequence[ImageUser]]
    ) -> Sequence[Removal]:
        """``docker rmi``: untag, and delete when nothing names the image any more. Conflict in Docker's words.

        Disks that are leased stay until they are released.
        """
        plan = self._catalog.plan_removal(name_or_id, force=force, in_use=in_use)
        self._records.forget(plan.references, plan.image.id if plan.deletes else None)
        self._reload()
        if plan.deletes:
            self._sweep(plan.image.disk_ids, [layer.blob for layer in plan.image.layers])
        return list(plan.lines)

    # Leases.

    def lease(self, image_id: str, holder: str) -> None:
        """Keep the image's disks for ``holder`` (a container) until it releases them, even when the " "image is
        removed.
        """
        image = self._catalog.by_id(image_id)
        if image is None:
            raise NotFound(f"No such image: {image_id}")
        self._records.lease(holder, image.owner, image.id, image.disk_ids)

    def leased_disks(self, holder: str) -> tuple[Path, ...]:
        """The disks that ``holder`` keeps, lowest first."""
        return tuple(self._content.disk_path(disk) for disk in self._records.leased(holder))

    def lease_holders(self) -> Sequence[str]:
        """Everybody who holds a lease; for the engine, to end those of holders that are gone."""
        return self._records.lease_holders()

    def release(self, holder: str) -> None:
        """End the lease; idempotent."""
        self._sweep(self._records.release(holder), ())

    # Keeping house.

    async def _recover(self) -> None:
        """After a crash: remove what no record names; after a power loss also what may not have " "reached the disk
        whole.
        """
        lost = {(kind, name) for kind, name, boot_id in self._records.unsynced() if boot_id != self._boot_id}
        for record in self._records.images():
            parts = {("disk", disk) for disk in record.disk_ids} | {("blob", layer.blob) for layer in record.layers}
            if parts & lost or not all(self._content.disk_path(disk).exists() for disk in record.disk_ids):
                self._records.forget(record.references, record.id)
        for kind, name in lost:
            self._records.synced(kind, name)
        self._reload()
        await blocking.run(self._content.remove_strays, self._records.blobs_in_use(), self._records.disks_in_use())
        for kind, name, _ in self._records.unsynced():
            self._sync_behind(kind, name)

    def _sweep(self, disk_ids: Sequence[str], blobs: Sequence[str]) -> None:
        """Remove those of the files that nothing refers to any more."""
        disks_in_use, blobs_in_use = self._records.disks_in_use(), self._records.blobs_in_use()
        gone = [self._content.disk_path(disk) for disk in disk_ids if disk not in disks_in_use]
        gone += [self._content.blob_path(blob) for blob in blobs if blob not in blobs_in_use]
        for path in gone:
            if not self._pins[path]:
                path.unlink(missing_ok=True)

    def _sync_behind(self, kind: str, name: str) -> None:
        path = self._content.disk_path(name) if kind == "disk" else self._content.blob_path(name)

        async def run() -> None:
            try:
                await blocking.run(sync, path)
            except FileNotFoundError:
                pass  # removed meanwhile
            except OSError:
                return  # stays on the list: the next open looks at it
            self._records.synced(kind, name)

        task = asyncio.get_running_loop().create_task(run(), name=f"sync {kind} {name[:19]}")
        self._syncing.add(task)
        task.add_done_callback(self._syncing.discard)

    def _reload(self) -> None:
        self._catalog.replace_all(self._records.images())

    @contextmanager
    def _pinned(self, *paths: Path) -> Iterator[None]:
        """Keep a concurrent removal from deleting files that a load is about to record."""
        for path in paths:
            self._pins[path] += 1
        try:
            yield
        finally:
            for path in paths:
                self._pins[path] -= 1
                if not self._pins[path]:
                    del self._pins[path]

    def scratch(self) -> _AsyncScratch:
        """A folder for work in progress, removed with all that is in it."""
        return _AsyncScratch(self._content)

    @staticmethod
    def _reporter(progress: Callable[[LoadProgress], None]) -> Callable[[str, str, int], None]:
        """Called in worker threads; the callback runs in the loop, and not more often than every 50 ms for one item."""
        loop = asyncio.get_running_loop()
        last: dict[str, float] = {}

        def report(step: str, item: str, done_bytes: int) -> None:
            now = time.monotonic()
            if now - last.get(item, 0.0) >= 0.05:
                last[item] = now
                loop.call_soon_threadsafe(progress, LoadProgress(step, item, done_bytes))

        return report


class _AsyncScratch:
    """``ContentStore.scratch`` with the removal of big files in a worker thread."""

    def __init__(self, content: ContentStore) -> None:
        self._context = content.scratch()

    async def __aenter__(self) -> Path:
        return self._context.__enter__()

    async def __aexit__(self, *details: object) -> None:
        await asyncio.shield(blocking.run(self._context.__exit__, None, None, None))


def _counted(chunks: Iterator[bytes], report: Callable[[int], None]) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        report(total)
        yield chunk


def _building(image: ArchiveImage, report: Callable[[str, str, int], None]) -> Callable[[int, int, int], None]:
    """Progress of a load, whose totals nobody knows: by uncompressed bytes."""
    diff_ids = image.config.diff_ids
    return lambda at, expanded, read: report("building", _layer_name(at, diff_ids[at]), expanded)


def _manifest(raw: bytes, media_type: str) -> ManifestRecord | None:
    return ManifestRecord(digest.of(raw), media_type, raw) if raw and media_type else None


def _layer_name(at: int, diff_id: str) -> str:
    return f"layer {at + 1} ({digest.hex_of(diff_id)[:12]})"


def _architecture(platform: str | None) -> str:
    if not platform:
        return host_architecture()
    os_name, _, rest = platform.lower().partition("/")
    if os_name != "linux":
        raise InvalidArgument(f"platform {platform!r} cannot run here: only linux can, for instance linux/amd64")
    return rest.partition("/")[0] or host_architecture()
