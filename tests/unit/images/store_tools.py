"""Archives of images made in tests, and a store to put them in."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Made:
    """An image: its configuration's bytes and its uncompressed layers."""

    config: bytes
    layers: tuple[bytes, ...]

    @property
    def id(self) -> str:
        return "sha256:" + hashlib.sha256(self.config).hexdigest()


def layer(files: Mapping[str, bytes]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return output.getvalue()


def image(*layers: bytes, created: str = "2024-01-01T00:00:00Z", **config: object) -> Made:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(item).hexdigest() for item in layers]},
        "history": [{"created": created, "created_by": f"layer {number}"} for number in range(len(layers))]
        + [{"created": created, "created_by": "CMD", "empty_layer": True}],
    }
    return Made(json.dumps(document).encode(), layers)


def tar(files: Sequence[tuple[str, bytes]], links: Mapping[str, str] | None = None) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return output.getvalue()


def docker_archive(images: Mapping[str, Made], *, manifest_first: bool = False) -> bytes:
    """``docker save`` of named images ("" for an unnamed one), several names separated by commas."""
    files: dict[str, bytes] = {}
    items = []
    for names, made in images.items():
        paths = []
        for content in made.layers:
            path = hashlib.sha256(content).hexdigest() + "/layer.tar"
            files[path] = content
            paths.append(path)
        config = made.id.removeprefix("sha256:") + ".json"
        files[config] = made.config
        items.append({"Config": config, "RepoTags": names.split(",") if names else None, "Layers": paths})
    members = list(files.items())
    manifest = ("manifest.json", json.dumps(items).encode())
    return tar([manifest, *members] if manifest_first else [*members, manifest])


def blob(content: bytes, media_type: str, **members: object) -> tuple[dict[str, object], tuple[str, bytes]]:
    """A descriptor, and the file in an OCI layout."""
    name = hashlib.sha256(content).hexdigest()
    descriptor = {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(content), **members}
    return descriptor, (f"blobs/sha256/{name}", content)


def oci_manifest(
    made: Made, stored: Sequence[bytes] | None = None, **members: object
) -> tuple[dict[str, object], list[tuple[str, bytes]]]:
    """A manifest descriptor and all files that it needs; ``stored``: the layers as they are in the archive."""
    files = []
    config, file = blob(made.config, "application/vnd.oci.image.config.v1+json")
    files.append(file)
    layers = []
    for content in stored or made.layers:
        descriptor, file = blob(content, "application/vnd.oci.image.layer.v1.tar")
        layers.append(descriptor)
        files.append(file)
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": layers,
    }
    descriptor, file = blob(json.dumps(document).encode(), "application/vnd.oci.image.manifest.v1+json", **members)
    return descriptor, [*files, file]


def index_of(descriptors: Sequence[object]) -> bytes:
    return json.dumps(
        {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": descriptors}
    ).encode()


async def stream(content: bytes, chunk_bytes: int = 65_536) -> AsyncIterator[bytes]:
    for position in range(0, len(content), chunk_bytes):
        yield content[position : position + chunk_bytes]


def files_below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
