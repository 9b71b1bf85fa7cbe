"""Which volumes and directories of the host a container has: decided when it is created, opened when it starts.

Order of precedence as in dockerd: those of other containers (``--volumes-from``), then the user's own, then what the
image and the user want anonymous volumes for. Neighbours: ``volumes.py`` (makes and holds volumes), ``starter.py``
(opens them), ``runtime.py`` (tells the guest).
"""

from __future__ import annotations

import os
import posixpath
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from hyper.engine.model import Container, ContainerConfig, MountPoint, MountRequest
from hyper.engine.volumes import VolumeUseCases
from hyper.errors import InvalidArgument, NotFound
from hyper.sandboxes.source import SharedTree


class Mounts:
    """``find``: a container by a user's reference, NotFound for an unknown one."""

    def __init__(self, volumes: VolumeUseCases, find: Callable[[str], Container]) -> None:
        self._volumes = volumes
        self._find = find

    async def resolve(self, config: ContainerConfig) -> tuple[MountPoint, ...]:
        """What a new container of this (merged) configuration has. Makes the volumes that are not there; call
        :meth:`undo` when the container cannot be made after all."""
        points: dict[str, MountPoint] = {}
        own: set[str] = set()
        for origin in config.volumes_from:
            try:
                other = self._find(origin.container)
            except NotFound as error:  # the image is there: no client should pull it for this
                raise InvalidArgument(error.message) from error
            for mount in other.mounts:
                writable = mount.writable and not origin.readonly
                points[mount.destination] = _replaced(mount, writable=writable, populate=False)
        for request in config.mount_requests:
            if request.target in own or request.target in _normal(config.tmpfs):
                raise InvalidArgument(f"Duplicate mount point: {request.target}")
            own.add(request.target)
            if request.type == "bind" and not request.make_source and not os.path.exists(request.source):  # noqa: ASYNC240 - one look
                raise InvalidArgument(
                    f'invalid mount config for type "bind": bind source path does not exist: {request.source}'
                )
        made: list[MountPoint] = []
        try:
            for request in config.mount_requests:
                points[request.target] = self._point(request, made)
            for path in config.volumes:
                if path not in points and path not in _normal(config.tmpfs):
                    request = MountRequest(type="volume", source="", target=path, driver=config.volume_driver)
                    points[path] = _replaced(self._point(request, made), mode="")
        except BaseException:
            await self.undo(made)
            raise
        return tuple(points[path] for path in sorted(points, key=lambda path: (path.count("/"), path)))

    async def undo(self, points: Iterable[MountPoint]) -> None:
        """Forget the anonymous volumes that were made for a container that is not there."""
        for point in points:
            if point.anonymous and not self._volumes.users(point.name):
                await self._volumes.remove(point.name, force=True)

    def _point(self, request: MountRequest, made: list[MountPoint]) -> MountPoint:
        if request.type == "bind":
            return MountPoint(
                type="bind",
                destination=request.target,
                source=request.source,
                mode=request.mode,
                writable=not request.readonly,
                propagation=request.propagation or "rprivate",
                make_source=request.make_source,
                recursive=not request.non_recursive,
                readonly_below=not request.readonly_non_recursive,
            )
        name = request.source or secrets.token_hex(32)
        volume = self._volumes.create(
            name,
            driver=request.driver,
            labels=request.labels,
            options=request.driver_options,
            anonymous=not request.source,
        )
        point = MountPoint(
            type="volume",
            destination=request.target,
            name=name,
            source=volume.mountpoint,
            subpath=request.subpath,
            mode=request.mode or "z",
            writable=not request.readonly,
            anonymous=not request.source,
            populate=not request.no_copy and not request.subpath,
        )
        made.append(point)
        return point

    def trees(self, container: Container) -> list[SharedTree]:
        """What its sandbox is to be shown, in the order of its mounts."""
        return [self._tree(mount) for mount in container.mounts]

    def _tree(self, mount: MountPoint) -> SharedTree:
        readonly = not mount.writable
        if mount.type == "volume":
            store = self._volumes.store
            return SharedTree(
                store.source(mount.name), mount.subpath, readonly=readonly or store.is_readonly(mount.name)
            )
        return SharedTree(
            Path(mount.source),
            readonly=readonly,
            make=mount.make_source,
            recursive=mount.recursive,
            readonly_below=mount.readonly_below,
            follow_host=mount.propagation in ("slave", "rslave"),
        )


def _normal(paths: Iterable[str]) -> set[str]:
    return {posixpath.normpath(path) for path in paths}


def _replaced(mount: MountPoint, **changes: object) -> MountPoint:
    return msgspec.structs.replace(mount, **changes)
