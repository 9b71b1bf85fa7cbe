"""What the guest is told of a container's volumes and binds: mounts of the runtime spec. Pure.

Neighbours: ``mounts.py`` (what they are on the host, in the same order), ``runtime.py`` (the spec).
"""

from __future__ import annotations

from hyper.engine.model import Container, MountPoint


def fills(container: Container, mount: MountPoint) -> bool:
    """Whether the image's content goes into it if it is empty: before the container's first start only, and never
    through a mount that the host keeps from being written."""
    return mount.populate and mount.writable and container.state.started_ns == 0


def guest_mounts(container: Container, folder: str) -> list[dict[str, object]]:
    """The mounts of the runtime spec, whose sources the guest has below ``folder``."""
    result: list[dict[str, object]] = []
    for number, mount in enumerate(container.mounts):
        options = ["rbind" if mount.recursive else "bind", "rprivate"]
        if not mount.writable:
            options.append("ro")
        if fills(container, mount):
            options.append("hyper.copy-up")
        source = f"{folder}/{number}"
        result.append({"destination": mount.destination, "type": "bind", "source": source, "options": options})
    return result
