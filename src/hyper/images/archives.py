"""Archives of images: what ``docker save`` writes (old, and the hybrid of Docker 25 on) and OCI image layouts in a tar.

The entries come in any order, and layers are merged from the top down, so every file is spooled first, hashed on the
way. Then the index files say which spooled file is what. Nothing is taken on trust: digests and sizes are compared,
links followed a few steps at most.

Sources: moby's image/spec (manifest.json), OCI image-spec image-layout.md; annotations as containerd writes them.
Neighbours: ``content.py`` (spool), ``tar.py``, ``store.py`` (makes images of the result).
"""

from __future__ import annotations

import platform
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hyper.errors import DataLoss, InvalidArgument, ResourceExhausted
from hyper.images.compression import decompressed
from hyper.images.content import ContentStore, Spooled
from hyper.images.limits import Budget
from hyper.images.tar import TarReader
from hyper.oci import digest, image_config, manifest, reference
from hyper.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from hyper.oci.image_config import ImageConfig

_LINK_HOPS_MAX = 8
_INDEX_DEPTH_MAX = 4
_MANIFESTS_MAX = 1000
_REF_NAME = "org.opencontainers.image.ref.name"
_IMAGE_NAME = "io.containerd.image.name"
_DOCKER_REFERENCE_TYPE = "vnd.docker.reference.type"


@dataclass(frozen=True)
class ArchiveImage:
    """One image as it came: layers lowest first, references canonical. ``manifest``: its bytes and type, when it came
    with one that names just these blobs."""

    config: ImageConfig
    layers: tuple[Spooled, ...]
    references: tuple[str, ...]
    manifest: bytes = b""
    manifest_type: str = ""


class Archive:
    """The spooled files of an archive by their cleaned path, and links among them."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._files: dict[str, Spooled] = {}
        self._links: dict[str, str] = {}

    def read(self, chunks: Iterator[bytes], content: ContentStore, scratch: Path) -> None:
        """Spool the whole archive. InvalidArgument when it is no tar archive, ResourceExhausted when too big."""
        limits = self._budget.limits
        archive_budget = self._budget.for_archive()
        reader = TarReader(decompressed(chunks, archive_budget, "the archive"), "the archive")
        for entry in reader:
            if entry.number >= limits.archive_entries:
                raise ResourceExhausted(
                    f"the archive has more than {limits.archive_entries} entries, which is the limit set for archives"
                )
            path = _clean(entry.name.decode("utf-8", "surrogateescape"))
            if entry.kind == ord("0"):
                if entry.sparse is not None:
                    raise InvalidArgument(f"{path!r} in the archive is a sparse file; save the image without --sparse")
                self._files[path] = content.spool(reader.body(), scratch, self._budget)
                self._links.pop(path, None)
            elif entry.kind in b"12":
                target = entry.linkname.decode("utf-8", "surrogateescape")
                base = posixpath.dirname(path) if entry.kind == ord("2") and not target.startswith("/") else ""
                self._links[path] = _clean(posixpath.join(base, target))
                self._files.pop(path, None)

    def images(self) -> list[ArchiveImage]:
        """The images in it. InvalidArgument when it is neither kind of archive, or something in it is missing."""
        if "manifest.json" in self._files:
            return self._docker_images()
        if "index.json" in self._files:
            return self._layout_images()
        raise InvalidArgument(
            "the archive has neither a manifest.json (docker save) nor an index.json (OCI layout); "
            "a root file system without them is taken in by `docker import`"
        )

    def _file(self, path: str, what: str) -> Spooled:
        cleaned = _clean(path)
        for _ in range(_LINK_HOPS_MAX):
            if cleaned not in self._links:
                break
            cleaned = self._links[cleaned]
        found = self._files.get(cleaned)
        if found is None:
            raise InvalidArgument(
                f"{what} is missing from the archive ({path[:200]!r}); it is incomplete, save the image again"
            )
        parts = cleaned.split("/")
        if parts[:2] == ["blobs", "sha256"] and f"sha256:{parts[-1]}" != found.digest:
            raise DataLoss(
                f"{what} does not match its digest {parts[-1][:100]}: the archive is damaged, save the image again"
            )
        return found

    def _json(self, spooled: Spooled, what: str) -> bytes:
        limit = self._budget.limits.json_bytes
        if spooled.size > limit:
            raise InvalidArgument(f"{what} has {spooled.size} bytes; at most {limit} are allowed")
        return spooled.data if spooled.data is not None else spooled.path.read_bytes()

    def _image(
        self, config: Spooled, layers: list[Spooled], references: list[str], made_from: tuple[bytes, str] = (b"", "")
    ) -> ArchiveImage:
        parsed = image_config.decode(self._json(config, "the image's configuration"))
        limit = self._budget.limits.layers
        if len(layers) > limit:
            raise ResourceExhausted(f"the image has {len(layers)} layers; at most {limit} are allowed")
        if len(parsed.diff_ids) != len(layers):
            raise InvalidArgument(
                f"invalid manifest, layers length mismatch: expected {len(parsed.diff_ids)}, got {len(layers)}"
            )
        return ArchiveImage(parsed, tuple(layers), tuple(references), *made_from)

    def _docker_images(self) -> list[ArchiveImage]:
        items = manifest.decode(
            self._json(self._files["manifest.json"], "manifest.json"),
            list[manifest.DockerArchiveItem],
            "the archive's manifest.json",
        )
        images = []
        for item in items:
            layers = [self._file(path, f"layer {number}") for number, path in enumerate(item.layers or (), start=1)]
            names = []
            for tag in item.repo_tags or ():
                parsed = reference.parse(tag)
                if not parsed.tag:
                    raise InvalidArgument(f"invalid tag {tag!r} in the archive's manifest.json")
                names.append(str(parsed))
            images.append(self._image(self._file(item.config, "the image's configuration"), layers, names))
        return images

    # OCI layouts.

    def _layout_images(self) -> list[ArchiveImage]:
        index = manifest.decode(
            self._json(self._files["index.json"], "index.json"), manifest.Index, "the archive's index.json"
        )
        if len(index.manifests) > _MANIFESTS_MAX:
            raise InvalidArgument(f"the archive's index.json names more than {_MANIFESTS_MAX} manifests")
        images = []
        for descriptor in index.manifests:
            if is_attestation(descriptor):
                continue
            chosen = self._manifest_for_us(descriptor, 0)
            if chosen is None:
                raise InvalidArgument(
                    f"no image for linux/{host_architecture()} is in the archive for {descriptor.digest[:100]}"
                )
            raw = self._blob_json(chosen)
            found = manifest.decode(raw, manifest.Manifest, f"the manifest {chosen.digest[:19]}")
            layers = [self._blob(layer, f"layer {number}") for number, layer in enumerate(found.layers, start=1)]
            config = self._blob(found.config, "the image's configuration")
            kind = found.media_type or chosen.media_type
            images.append(self._image(config, layers, _names(descriptor), (raw, kind)))
        if not images:
            raise InvalidArgument("the archive's index.json names no image")
        return images

    def _manifest_for_us(self, descriptor: Descriptor, depth: int) -> Descriptor | None:
        if is_attestation(descriptor):
            return None
        if descriptor.media_type in INDEX_TYPES:
            if depth == _INDEX_DEPTH_MAX:
                raise InvalidArgument("the archive's indexes are nested too deep")
            index = manifest.decode(self._blob_json(descriptor), manifest.Index, f"the index {descriptor.digest[:19]}")
            candidates = [item for item in index.manifests[:_MANIFESTS_MAX] if _fits(item)]
            for item in sorted(candidates, key=lambda item: item.platform is None):
                found = self._manifest_for_us(item, depth + 1) if self._has(item) else None
                if found is not None:
                    return found
            return None
        if descriptor.media_type and descriptor.media_type not in MANIFEST_TYPES:
            raise InvalidArgument(
                f"the archive's index.json names something of type {descriptor.media_type[:100]!r}, which is no image"
            )
        return descriptor

    def _has(self, descriptor: Descriptor) -> bool:
        # Docker 25 saves multi-platform indexes with only the blobs of the platform that it has.
        path = f"blobs/sha256/{digest.hex_of(descriptor.digest)}"
        return path in self._files or path in self._links

    def _blob(self, descriptor: Descriptor, what: str) -> Spooled:
        found = self._file(f"blobs/sha256/{digest.hex_of(digest.parse(descriptor.digest))}", what)
        if found.digest != descriptor.digest or found.size != descriptor.size:
            raise DataLoss(
                f"{what} does not match its descriptor (digest or size): the archive is damaged, save the image again"
            )
        return found

    def _blob_json(self, descriptor: Descriptor) -> bytes:
        return self._json(self._blob(descriptor, f"the manifest {descriptor.digest[:19]}"), "a manifest")


def host_architecture() -> str:
    """The host's architecture as OCI names it."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _fits(descriptor: Descriptor) -> bool:
    wanted = descriptor.platform
    return wanted is None or (wanted.os == "linux" and wanted.architecture == host_architecture())


def is_attestation(descriptor: Descriptor) -> bool:
    """Whether an index's entry is what BuildKit says *about* an image."""
    made_for = descriptor.platform
    return bool(descriptor.annotation(_DOCKER_REFERENCE_TYPE)) or (
        made_for is not None and made_for.os == "unknown" and made_for.architecture == "unknown"
    )


def _names(descriptor: Descriptor) -> list[str]:
    full = descriptor.annotation(_IMAGE_NAME)
    short = descriptor.annotation(_REF_NAME)
    # ref.name is a whole reference from some tools and only a tag from others; a tag alone names nothing.
    if full:
        return [str(reference.parse(full).with_default_tag())]
    if "/" in short or ":" in short:
        return [str(reference.parse(short).with_default_tag())]
    return []


def _clean(path: str) -> str:
    cleaned = posixpath.normpath("/" + path).lstrip("/")
    if path.startswith("../") or ("/../" in path and posixpath.normpath(path).startswith("../")):
        raise InvalidArgument(f"{path[:200]!r} in the archive points outside of it; the archive is refused")
    return cleaned
