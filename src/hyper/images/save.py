"""Images as an archive, as ``docker save`` writes it since Docker 25: an OCI image layout and, in the same tar, the
``manifest.json`` and ``repositories`` of older archives. Layers are written uncompressed, under their diff IDs.

Blocking generators; ``store.py`` runs them in a worker thread. ``archives.py`` reads what this writes. Sources: the OCI
image-layout and manifest specifications, moby's image/spec.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hyper.errors import DataLoss
from hyper.images.catalog import Image
from hyper.images.compression import decompressed
from hyper.images.layers.build import read_file
from hyper.images.limits import Budget
from hyper.oci import digest, reference

_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_RECORD_BYTES = 512


@dataclass(frozen=True)
class Chosen:
    """An image to save, and by which of its names."""

    image: Image
    names: tuple[str, ...]
    blobs: tuple[Path, ...]
    """Of its layers, as they are stored."""


def archive(images: Sequence[Chosen], budget: Budget) -> Iterator[bytes]:
    """The tar, in pieces. DataLoss when a stored layer is not what it was."""
    written: set[str] = set()
    index: list[dict[str, Any]] = []
    docker: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    yield _header("blobs/", 0) + _header("blobs/sha256/", 0)
    for chosen in images:
        image = chosen.image
        for layer, blob in zip(image.layers, chosen.blobs, strict=True):
            if layer.diff_id not in written:
                written.add(layer.diff_id)
                yield from _layer(layer.diff_id, layer.size_bytes, blob, budget)
        manifest = msgspec.json.encode(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _descriptor(_CONFIG, image.id, len(image.config.raw)),
                "layers": [_descriptor(_LAYER, layer.diff_id, layer.size_bytes) for layer in image.layers],
            }
        )
        for blob_id, content in ((image.id, image.config.raw), (digest.of(manifest), manifest)):
            if blob_id not in written:
                written.add(blob_id)
                yield _file(_path(blob_id), content)
        described = _descriptor(_MANIFEST, digest.of(manifest), len(manifest))
        if image.config.architecture:
            described["platform"] = {"architecture": image.config.architecture, "os": image.config.os or "linux"}
        index += [{**described, "annotations": _annotations(name)} for name in chosen.names] or [described]
        docker.append(
            {
                "Config": _path(image.id),
                "RepoTags": [reference.familiar(name) for name in chosen.names] or None,
                "Layers": [_path(layer.diff_id) for layer in image.layers],
            }
        )
        for name in chosen.names:
            parsed = reference.parse(name)
            top = digest.hex_of(image.layers[-1].diff_id if image.layers else image.id)
            repositories.setdefault(parsed.familiar_name, {})[parsed.tag] = top
    documents = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": index}
    yield _file("index.json", msgspec.json.encode(documents))
    yield _file("manifest.json", msgspec.json.encode(docker))
    yield _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    if repositories:
        yield _file("repositories", msgspec.json.encode(repositories))
    yield bytes(2 * _RECORD_BYTES)


def _annotations(name: str) -> dict[str, str]:
    return {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": reference.parse(name).tag}


def _descriptor(media_type: str, blob_id: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": blob_id, "size": size}


def _path(blob_id: str) -> str:
    return f"blobs/sha256/{digest.hex_of(blob_id)}"


def _layer(diff_id: str, size: int, blob: Path, budget: Budget) -> Iterator[bytes]:
    yield _header(_path(diff_id), size)
    left = size
    for chunk in decompressed(read_file(blob), budget, f"layer {digest.hex_of(diff_id)[:12]}"):
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left:
        raise DataLoss(
            f"the stored layer {digest.hex_of(diff_id)[:12]} has another size than it had: load its image again"
        )
    yield bytes(-size % _RECORD_BYTES)


def _file(name: str, content: bytes) -> bytes:
    return _header(name, len(content)) + content + bytes(-len(content) % _RECORD_BYTES)


def _header(name: str, size: int) -> bytes:
    """The same images, the same bytes: no time and no owner of this machine's."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    if name.endswith("/"):
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info.tobuf(tarfile.PAX_FORMAT)
