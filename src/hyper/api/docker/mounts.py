"""Volumes and binds of a create body: ``-v`` texts and ``--mount`` objects to the engine's requests and back, checked
with dockerd's words. Tmpfs mounts are ``create.py``'s. Pure."""

from __future__ import annotations

import posixpath
from typing import Any, Literal

from hyper.api.docker.create_body import BindOptions, HostConfig, Mount, VolumeOptions
from hyper.engine.model import Container, MountPoint, MountRequest, VolumesFrom
from hyper.errors import InvalidArgument, Unsupported

_ACCESS = frozenset({"ro", "rw"})
_LABELS = frozenset({"z", "Z"})
_PROPAGATION = frozenset({"private", "rprivate", "slave", "rslave", "shared", "rshared"})
_CONSISTENCY = frozenset({"consistent", "cached", "delegated"})
_COPY = frozenset({"nocopy"})
_SORTS = (_ACCESS, _LABELS, _PROPAGATION, _CONSISTENCY, _COPY)


def requests(host: HostConfig) -> tuple[MountRequest, ...]:
    """InvalidArgument for what makes no sense, Unsupported for what a VM cannot have."""
    found = [_bind(text, host.volume_driver) for text in host.binds]
    found += [_mount(mount) for mount in host.mounts if mount.type != "tmpfs"]
    return tuple(found)


def volumes_from(texts: list[str]) -> tuple[VolumesFrom, ...]:
    """``container[:mode]``"""
    found = []
    for text in texts:
        name, _, mode = text.partition(":")
        if not name:
            raise InvalidArgument(f"invalid volumes-from specification: '{text}'")
        if not _mode_is_valid(mode) or set(mode.split(",")) & (_COPY | _PROPAGATION):
            raise InvalidArgument(f"invalid mode for volumes-from: {mode}")
        found.append(VolumesFrom(container=name, readonly="ro" in mode.split(","), text=text))
    return tuple(found)


def anonymous(paths: dict[str, Any]) -> tuple[str, ...]:
    """``Volumes`` of the container's configuration."""
    for path in paths:
        _check_target("volume", path)
    return tuple(posixpath.normpath(path) for path in paths)


def _mode_is_valid(mode: str) -> bool:
    """At most one word of each sort."""
    if not mode:
        return True
    words = mode.split(",")
    return all(any(word in sort for sort in _SORTS) for word in words) and all(
        sum(word in sort for word in words) <= 1 for sort in _SORTS
    )


def _bind(text: str, driver: str) -> MountRequest:
    """``[source:]target[:mode]``"""
    bad = InvalidArgument(f"invalid volume specification: '{text}'")
    parts = text.split(":", 3)
    if not parts[0] or len(parts) > 3 or "\0" in text:
        raise bad
    source, target, mode = ("", parts[0], "") if len(parts) == 1 else (parts[0], parts[1], ":".join(parts[2:]))
    if len(parts) == 2 and _mode_is_valid(target):
        raise bad  # a target and a mode, which anonymous volumes cannot have
    if len(parts) == 3 and not mode:
        raise bad
    if not _mode_is_valid(mode):
        raise InvalidArgument(f"invalid mode: {mode}")
    words = mode.split(",") if mode else []
    kind: Literal["bind", "volume"] = "bind" if source.startswith("/") else "volume"
    propagation = next((word for word in words if word in _PROPAGATION), "")
    try:
        _check_target(kind, target)
        if kind == "bind" and "nocopy" in words:
            raise InvalidArgument(f"invalid mode: {mode}")
        if kind == "volume" and propagation:
            raise InvalidArgument(f"invalid mode: {mode}")
        _check_propagation(propagation)
    except InvalidArgument as error:
        raise InvalidArgument(f"{bad.message}: {error.message}") from error
    return MountRequest(
        type=kind,
        source=posixpath.normpath(source) if kind == "bind" else source,
        target=posixpath.normpath(target),
        readonly="ro" in words,
        mode=mode,
        propagation=propagation,
        no_copy="nocopy" in words,
        driver=driver,
        make_source=True,
        text=text,
    )


def _mount(mount: Mount) -> MountRequest:
    def bad(words: str) -> InvalidArgument:
        return InvalidArgument(f'invalid mount config for type "{mount.type}": {words}')

    if mount.type in ("npipe", "cluster", "image"):
        raise Unsupported(f'HostConfig.Mounts cannot be honoured: a mount of type "{mount.type}" is not there yet')
    if mount.type not in ("bind", "volume"):
        raise bad("mount type unknown")
    if not mount.target:
        raise bad("field Target must not be empty")
    try:
        _check_target(mount.type, mount.target)
    except InvalidArgument as error:
        raise bad(error.message) from error
    bind, volume = mount.bind_options or BindOptions(), mount.volume_options or VolumeOptions()
    if mount.tmpfs_options is not None:
        raise bad("field TmpfsOptions must not be specified")
    if mount.type == "bind":
        if not mount.source:
            raise bad("field Source must not be empty")
        if mount.volume_options is not None:
            raise bad("field VolumeOptions must not be specified")
        if not mount.source.startswith("/"):
            raise bad(f"invalid mount path: '{mount.source}' mount path must be absolute")
        if bind.read_only_non_recursive and bind.read_only_force_recursive:
            raise bad("ReadOnlyNonRecursive and ReadOnlyForceRecursive are mutually exclusive")
        if not mount.read_only and (bind.read_only_non_recursive or bind.read_only_force_recursive):
            raise bad("mount must be read-only for ReadOnlyNonRecursive and ReadOnlyForceRecursive")
        if bind.propagation and bind.propagation not in _PROPAGATION:
            raise bad(f"invalid propagation mode: {bind.propagation}")
        _check_propagation(bind.propagation)
    else:
        if mount.bind_options is not None:
            raise bad("field BindOptions must not be specified")
        if not mount.source and mount.read_only:
            raise bad("must not set ReadOnly mode when using anonymous volumes")
        if volume.subpath and (volume.subpath.startswith("/") or ".." in volume.subpath.split("/")):
            raise bad("subpath must be a relative path within the volume")
    return MountRequest(
        type="bind" if mount.type == "bind" else "volume",
        source=posixpath.normpath(mount.source) if mount.type == "bind" else mount.source,
        target=posixpath.normpath(mount.target),
        readonly=mount.read_only,
        propagation=bind.propagation,
        no_copy=volume.no_copy,
        subpath=volume.subpath,
        labels=volume.labels,
        driver=volume.driver_config.name if volume.driver_config else "",
        driver_options=volume.driver_config.options if volume.driver_config else {},
        make_source=bind.create_mountpoint,
        non_recursive=bind.non_recursive,
        readonly_non_recursive=bind.read_only_non_recursive,
        readonly_force_recursive=bind.read_only_force_recursive,
        consistency=mount.consistency,
    )


def _check_target(kind: str, target: str) -> None:
    if not target.startswith("/"):
        raise InvalidArgument(f"invalid mount path: '{target}' mount path must be absolute")
    normal = posixpath.normpath(target).replace("//", "/")
    if normal == "/":
        raise InvalidArgument("invalid specification: destination can't be '/'")
    if "\0" in target or (normal + "/").startswith("/proc/"):
        raise InvalidArgument(f"invalid mount path: {target!a}: nothing can be mounted inside /proc")


def _check_propagation(word: str) -> None:
    if word in ("shared", "rshared"):
        raise Unsupported(
            f"the propagation {word} cannot be honoured: what a VM mounts can never appear on the host; "
            "rslave shows the container what the host mounts"
        )


# -- how they are shown


def request_json(request: MountRequest) -> dict[str, Any]:
    """As ``HostConfig.Mounts`` has it."""
    shown: dict[str, Any] = {"Type": request.type, "Source": request.source, "Target": request.target}
    if request.readonly:
        shown["ReadOnly"] = True
    if request.consistency:
        shown["Consistency"] = request.consistency
    if request.type == "bind":
        options = {
            "Propagation": request.propagation,
            "NonRecursive": request.non_recursive,
            "CreateMountpoint": request.make_source,
            "ReadOnlyNonRecursive": request.readonly_non_recursive,
            "ReadOnlyForceRecursive": request.readonly_force_recursive,
        }
        if given := {name: value for name, value in options.items() if value}:
            shown["BindOptions"] = given
    else:
        driver = {"Name": request.driver, "Options": request.driver_options}
        volume = {
            "NoCopy": request.no_copy,
            "Labels": request.labels,
            "DriverConfig": driver if request.driver or request.driver_options else None,
            "Subpath": request.subpath,
        }
        if given := {name: value for name, value in volume.items() if value}:
            shown["VolumeOptions"] = given
    return shown


def points_json(container: Container) -> list[dict[str, Any]]:
    """``Mounts`` of an inspected container, and of a listed one."""
    return [_point_json(mount) for mount in container.mounts]


def _point_json(mount: MountPoint) -> dict[str, Any]:
    shown: dict[str, Any] = {"Type": mount.type}
    if mount.type == "volume":
        shown["Name"] = mount.name
    shown |= {"Source": mount.source, "Destination": mount.destination}
    if mount.type == "volume":
        shown["Driver"] = "local"
    return shown | {"Mode": mount.mode, "RW": mount.writable, "Propagation": mount.propagation}
