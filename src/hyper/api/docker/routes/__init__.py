"""Routes of the Docker Engine API, one module per resource. What is not there yet is in ``not_yet``, by name."""

from __future__ import annotations

from hyper.api.docker.router import Route
from hyper.api.docker.routes import (
    commit,
    container_files,
    container_streams,
    containers,
    disk_usage,
    events,
    execs,
    images,
    networks,
    not_yet,
    registries,
    system,
    volumes,
)


def all_routes() -> tuple[Route, ...]:
    return (
        *system.routes(),
        *events.routes(),
        *containers.routes(),
        *container_streams.routes(),
        *container_files.routes(),
        *commit.routes(),
        *disk_usage.routes(),
        *execs.routes(),
        *registries.routes(),  # before the images: /images/search is no image's name
        *images.routes(),
        *networks.routes(),
        *volumes.routes(),
        *not_yet.routes(),
    )
