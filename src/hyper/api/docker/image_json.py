"""Images as the API shows them: inspect, list entries, list filters, progress lines. Pure functions over the engine's
views."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from hyper.api.docker import filters as filter_parsing
from hyper.api.docker.filters import Filters
from hyper.api.docker.inspect import STORAGE_DRIVER
from hyper.api.docker.times import parse_timestamp_ns, rfc3339_nano
from hyper.api.docker.versions import Version
from hyper.engine.api import ImageView
from hyper.errors import InvalidArgument
from hyper.oci import reference as references

PRUNE_FILTERS = frozenset({"dangling", "label", "label!", "until"})
LIST_FILTERS = frozenset({"before", "dangling", "label", "label!", "reference", "since", "until"})


def image_json(image: ImageView, version: Version) -> dict[str, Any]:
    config = image.config
    result: dict[str, Any] = {
        "Id": image.id,
        "RepoTags": names(image),
        "RepoDigests": list(image.digests),
        "Parent": "",
        "Comment": config.comment,
        "Created": rfc3339_nano(image.created_ns),
        "DockerVersion": config.docker_version,
        "Author": config.author,
        "Config": _config(image),
        "Architecture": config.architecture,
        "Os": config.os or "linux",
        "Size": image.size_bytes,
        "GraphDriver": {"Name": STORAGE_DRIVER, "Data": {}},
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids)},
        "Metadata": {"LastTagTime": None},
    }
    if config.variant:
        result["Variant"] = config.variant
    if version < (1, 44):
        result["VirtualSize"] = image.size_bytes
    return result


def _config(image: ImageView) -> dict[str, Any]:
    """As the image's author wrote it, so that members that we do not know are kept too; defaults for those that
    clients expect."""
    raw = msgspec.json.decode(image.config.raw) if image.config.raw else {}
    written = raw.get("config") or {}
    result: dict[str, Any] = {
        "User": "",
        "Env": [],
        "Cmd": [],
        "Volumes": {},
        "WorkingDir": "",
        "Entrypoint": [],
        "OnBuild": None,
        "Labels": {},
    }
    result.update({name: value for name, value in written.items() if value is not None})
    for name in ("Cmd", "Entrypoint"):
        if isinstance(result[name], str):
            result[name] = [result[name]]
    return result


def names(image: ImageView) -> list[str]:
    """Tags in the short form that users type."""
    return [references.familiar(name) for name in image.references]


def summary_json(image: ImageView, version: Version, containers: int, patterns: Sequence[str] = ()) -> dict[str, Any]:
    """``containers``: how many stand on it, -1 when nobody counted. ``patterns``: of a ``reference`` filter."""
    config = image.config.config
    result: dict[str, Any] = {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": matching_names(image, patterns),
        "RepoDigests": list(image.digests),
        "Created": image.created_ns // 1_000_000_000,
        "Size": image.size_bytes,
        "SharedSize": -1,
        "Labels": (config.labels if config else None) or {},
        "Containers": containers,
    }
    if version < (1, 44):
        result["VirtualSize"] = image.size_bytes
    if version < (1, 43) and not image.references:
        result["RepoTags"] = ["<none>:<none>"]
        result["RepoDigests"] = list(image.digests) or ["<none>@<none>"]
    return result


def select(images: Sequence[ImageView], filters: Filters, resolve: Callable[[str], ImageView]) -> list[ImageView]:
    """Newest first. ``resolve`` raises for an unknown name in ``before`` and ``since``."""
    chosen = sorted(images, key=lambda item: item.created_ns, reverse=True)
    dangling = filter_parsing.boolean(filters, "dangling")
    if dangling is not None:
        chosen = [item for item in chosen if (not item.references) == dangling]
    if labels := filters.get("label"):
        chosen = [item for item in chosen if filter_parsing.labels_match(labels, _labels(item))]
    if unwanted := filters.get("label!"):
        chosen = [item for item in chosen if not filter_parsing.labels_match(unwanted, _labels(item))]
    for name in filters.get("before", ()):
        limit_ns = resolve(name).created_ns
        chosen = [item for item in chosen if item.created_ns < limit_ns]
    for name in filters.get("since", ()):
        floor_ns = resolve(name).created_ns
        chosen = [item for item in chosen if item.created_ns > floor_ns]
    for text in filters.get("until", ()):
        until_ns = parse_timestamp_ns(text, time.time_ns())
        chosen = [item for item in chosen if item.created_ns < until_ns]
    if patterns := filters.get("reference"):
        chosen = [item for item in chosen if matching_names(item, patterns)]
    return chosen


def prunable(filters: Filters) -> Callable[[ImageView], bool]:
    """Which images ``prune`` may take: those without a name, unless ``dangling`` is false."""
    if len(filters.get("until", ())) > 1:
        raise InvalidArgument("more than one until filter specified")
    dangling = filter_parsing.boolean(filters, "dangling")
    until_ns = max((parse_timestamp_ns(text, time.time_ns()) for text in filters.get("until", ())), default=0)

    def accept(image: ImageView) -> bool:
        labels = _labels(image)
        if dangling is not False and image.references:
            return False
        if until_ns and image.created_ns >= until_ns:
            return False
        if not filter_parsing.labels_match(filters.get("label", ()), labels):
            return False
        return not (filters.get("label!") and filter_parsing.labels_match(filters["label!"], labels))

    return accept


def matching_names(image: ImageView, patterns: Sequence[str]) -> list[str]:
    """Those of its names that a ``reference`` filter lets through; all without one."""
    return [name for name in names(image) if not patterns or any(_matches(name, pattern) for pattern in patterns)]


def _labels(image: ImageView) -> dict[str, str]:
    config = image.config.config
    return (config.labels if config else None) or {}


def _matches(name: str, pattern: str) -> bool:
    """Shell patterns in which ``*`` does not cross a slash, on the name with or without its tag."""
    repository = name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name
    return any(_glob(candidate, pattern) for candidate in (name, repository))


def _glob(text: str, pattern: str) -> bool:
    parts, patterns = text.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(
        fnmatch.fnmatchcase(part, wanted) for part, wanted in zip(parts, patterns, strict=True)
    )


_STEPS = {"receiving": "Loading layer", "building": "Building disk"}


def progress_json(step: str, item: str, done_bytes: int) -> dict[str, Any]:
    """One progress line of ``docker load``. How much there will be is not known: archives are streams."""
    return {"status": _STEPS.get(step, step), "progressDetail": {"current": done_bytes}, "id": item}


def error_json(message: str) -> dict[str, Any]:
    """How a stream that has begun says that it failed."""
    return {"errorDetail": {"message": message}, "error": message}
