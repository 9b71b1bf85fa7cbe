"""A container's first record: what the user asked for, merged with what the image says, as Docker merges them. Pure."""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from hyper.engine import health
from hyper.engine.model import Container, ContainerConfig, HealthCheck, NetworkAttachment
from hyper.engine.pods import joins
from hyper.engine.runtime import runtime_spec
from hyper.engine.signals import parse_signal
from hyper.errors import InvalidArgument, Unsupported
from hyper.images.store import Image
from hyper.oci.image_config import Healthcheck

MINIMUM_MEMORY_BYTES = 6 * 1024 * 1024
MINIMUM_WRITABLE_BYTES, MAXIMUM_WRITABLE_BYTES = 16 << 20, 16 << 40

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,3})?) ?([kKmMgGtTpP]?)(?:i?[bB])?")


def container_from(
    config: ContainerConfig,
    image: Image,
    *,
    container_id: str,
    name: str,
    log_path: str,
    network_ids: Mapping[str, str],
) -> tuple[Container, tuple[str, ...]]:
    """The record of a new container, and warnings for its user. ``network_ids``: by name."""
    _check(config)
    config, warnings = _possible(config)
    merged = _merge(config, image, container_id)
    health.check(merged.health_check)
    words = (*_words(merged.entrypoint), *(merged.command or ()))
    if not words:
        raise InvalidArgument("No command specified")
    network = "bridge" if config.network_mode == "default" else config.network_mode
    container = Container(
        id=container_id,
        name=name,
        created_ns=time.time_ns(),
        image_id=image.id,
        config=merged,
        path=words[0],
        args=tuple(words[1:]),
        networks=()
        if joins(config) and network != "none"
        else (NetworkAttachment(network=network, network_id=network_ids.get(network, "")),),
        log_path=log_path,
    )
    runtime_spec(container, default_memory_bytes=MINIMUM_MEMORY_BYTES)  # says now what would stop the start
    return container, warnings


def _words(entrypoint: Sequence[str] | None) -> tuple[str, ...]:
    """An entrypoint of one empty word is Docker's way of saying "none"."""
    return () if not entrypoint or tuple(entrypoint) == ("",) else tuple(entrypoint)


def _merge(config: ContainerConfig, image: Image, container_id: str) -> ContainerConfig:
    defaults = image.config.container_config
    entrypoint, command = config.entrypoint, config.command
    if not entrypoint:
        # Docker: a new entrypoint makes the image's command meaningless, an empty list is no new one.
        if not command:
            command = tuple(defaults.cmd_words) if defaults.cmd_words else command
        if entrypoint is None:
            entrypoint = tuple(defaults.entrypoint_words) if defaults.entrypoint_words else None
    exposed = dict.fromkeys((*config.exposed_ports, *(defaults.exposed_ports or {})))
    return msgspec.structs.replace(
        config,
        entrypoint=entrypoint,
        command=command,
        env=_merge_env(defaults.env or (), config.env),
        working_dir=config.working_dir or defaults.working_dir or "",
        user=config.user or defaults.user or "",
        hostname=config.hostname or container_id[:12],
        labels={**(defaults.labels or {}), **config.labels},
        stop_signal=config.stop_signal or defaults.stop_signal or "",
        health_check=health.merged(config.health_check, _image_check(defaults.healthcheck)),
        shell=config.shell or ((defaults.shell,) if isinstance(defaults.shell, str) else tuple(defaults.shell or ())),
        exposed_ports=tuple(exposed),
        volumes=tuple(dict.fromkeys((*map(posixpath.normpath, defaults.volumes or ()), *config.volumes))),
    )


def _image_check(image: Healthcheck | None) -> HealthCheck | None:
    if image is None:
        return None
    return HealthCheck(
        test=tuple(image.test or ()),
        interval_ns=image.interval,
        timeout_ns=image.timeout,
        start_period_ns=image.start_period,
        start_interval_ns=image.start_interval,
        retries=image.retries,
    )


def _merge_env(image: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """The user's variables, then those of the image that the user does not set. A bare NAME stays: inspect shows it,
    and no process gets the variable."""
    names = {variable.partition("=")[0] for variable in own}
    kept = (variable for variable in image if variable.partition("=")[0] not in names)
    return (*own, *kept)


_NOT_MOUNTED = "or the cgroup is not mounted."
_DISCARDED: tuple[tuple[str, Any, str], ...] = (
    ("memory_swappiness", None, f"memory swappiness capabilities {_NOT_MOUNTED} Memory swappiness discarded."),
    ("kernel_memory_bytes", 0, f"kernel memory limit capabilities {_NOT_MOUNTED} Limitation discarded."),
    ("oom_kill_disable", False, "OomKillDisable. OomKillDisable discarded."),
    ("blkio_weight", 0, f"Block I/O weight {_NOT_MOUNTED} Weight discarded."),
    ("blkio_device_weights", (), f"Block I/O weight_device {_NOT_MOUNTED} Weight-device discarded."),
)
"""What dockerd, too, discards with a warning where the kernel, here the guest's, has no such thing."""


def _possible(config: ContainerConfig) -> tuple[ContainerConfig, tuple[str, ...]]:
    """Without what the guest's kernel cannot do and Docker's users are warned of."""
    warnings = []
    for member, nothing, text in _DISCARDED:
        if getattr(config, member) != nothing:
            warnings.append(f"Your kernel does not support {text}")
            config = msgspec.structs.replace(config, **{member: nothing})
    if config.cpu_percent:
        warnings.append("linux does not support CPU percent. Percent discarded.")
        config = msgspec.structs.replace(config, cpu_percent=0)
    return config, tuple(warnings)


def writable_bytes(config: ContainerConfig, default_bytes: int) -> int:
    """The size of its writable layer: ``--storage-opt size=``, in bytes, or as "10G"."""
    size_bytes = default_bytes
    for name, value in config.storage_opt.items():
        if name.lower() != "size":
            raise InvalidArgument(f"Unknown option {name[:64]}: the one storage option is size")
        size_bytes = _size(value)
    return size_bytes


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"invalid size: '{ascii(text[:64])[1:-1]}'")
    number, unit = match.groups()
    size_bytes = int(float(number) * 1024 ** "bkmgtp".index((unit or "b").lower()))
    if not MINIMUM_WRITABLE_BYTES <= size_bytes <= MAXIMUM_WRITABLE_BYTES:
        raise InvalidArgument(f"storage option size={text.strip()[:64]}: a writable layer has 16 MiB to 16 TiB")
    return size_bytes


def _check(config: ContainerConfig) -> None:
    """What the engine cannot do, said in Docker's words where it has some."""
    if 0 < config.memory_bytes < MINIMUM_MEMORY_BYTES:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if config.nano_cpus < 0:
        raise InvalidArgument("NanoCPUs must not be negative")
    _check_joining(config)
    writable_bytes(config, MINIMUM_WRITABLE_BYTES)
    if config.network_mode not in ("default", "bridge", "none") and not joins(config):
        raise Unsupported(
            f'network mode "{config.network_mode}" is not there yet: use the default network or --network none'
        )
    if config.mac_address:
        raise Unsupported("a MAC address of your own is not there yet: it is derived from the address")
    if config.log_driver not in ("json-file", ""):
        raise Unsupported(f'logging driver "{config.log_driver}" is not there yet: only json-file works')
    if config.log_options:
        raise Unsupported("options of the logging driver are not there yet: json-file keeps everything")
    if config.stop_signal:
        parse_signal(config.stop_signal)


def _check_joining(config: ContainerConfig) -> None:
    """A container that goes into another's VM has no card of its own there: the other's network, or none."""
    joined = joins(config)
    if not joined:
        return
    if "network" not in joined and config.network_mode not in ("default", "none"):
        raise Unsupported(
            f'network mode "{config.network_mode}" cannot be had together with a namespace of another container, whose '
            "VM has the one network card: leave the network out (it is the other's), or use --network none"
        )
    if "network" not in joined and (config.ports or config.publish_all_ports):
        raise Unsupported(
            "ports cannot be published by a container that joins another one, whose network it has: publish them there"
        )
    if config.ipc_mode == "shareable":
        raise Unsupported(
            "a container that joins another one cannot have a shareable IPC namespace: the first container of a VM can"
        )
