"""A container's first record: what the user asked for, merged with what the image says, as Docker merges them. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from hyper.engine.model import Container, ContainerConfig, NetworkAttachment
from hyper.engine.signals import parse_signal
from hyper.errors import InvalidArgument, Unsupported
from hyper.images.store import Image

MINIMUM_MEMORY_BYTES = 6 * 1024 * 1024
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def container_from(
    config: ContainerConfig, image: Image, *, container_id: str, name: str, log_path: str
) -> tuple[Container, tuple[str, ...]]:
    """The record of a new container, and warnings for its user."""
    _check(config)
    merged = _merge(config, image, container_id)
    words = (*_words(merged.entrypoint), *(merged.command or ()))
    if not words:
        raise InvalidArgument("no command specified")
    network = "bridge" if config.network_mode == "default" else config.network_mode
    container = Container(
        id=container_id,
        name=name,
        created_ns=time.time_ns(),
        image_id=image.id,
        config=merged,
        path=words[0],
        args=tuple(words[1:]),
        networks=(NetworkAttachment(network=network),),
        log_path=log_path,
    )
    return container, ()


def _words(entrypoint: Sequence[str] | None) -> tuple[str, ...]:
    """An entrypoint of one empty word is Docker's way of saying "none"."""
    return () if not entrypoint or tuple(entrypoint) == ("",) else tuple(entrypoint)


def _merge(config: ContainerConfig, image: Image, container_id: str) -> ContainerConfig:
    defaults = image.config.container_config
    entrypoint, command = config.entrypoint, config.command
    if entrypoint is None:
        # Docker: a new entrypoint makes the image's command meaningless, so only the image's own entrypoint keeps it.
        entrypoint = tuple(defaults.entrypoint_words) if defaults.entrypoint_words else None
        if not command:
            command = tuple(defaults.cmd_words) if defaults.cmd_words else command
    exposed = dict.fromkeys((*config.exposed_ports, *(defaults.exposed_ports or {})))
    return msgspec.structs.replace(
        config,
        entrypoint=entrypoint,
        command=command,
        env=merge_env((DEFAULT_PATH,), defaults.env or [], config.env),
        working_dir=config.working_dir or defaults.working_dir or "",
        user=config.user or defaults.user or "",
        hostname=config.hostname or container_id[:12],
        labels={**(defaults.labels or {}), **config.labels},
        stop_signal=config.stop_signal or defaults.stop_signal or "",
        exposed_ports=tuple(exposed),
    )


def merge_env(*sets: Sequence[str]) -> tuple[str, ...]:
    """Later sets win; "NAME" without a value in a later set removes the variable. The order is that of first
    mention, the user's own first."""
    merged: dict[str, str | None] = {}
    for variable in sets[-1]:
        merged.setdefault(variable.partition("=")[0], None)
    for variables in sets:
        for variable in variables:
            name, equals, _ = variable.partition("=")
            merged[name] = variable if equals else None
    return tuple(value for value in merged.values() if value is not None)


def _check(config: ContainerConfig) -> None:
    """What the engine cannot do, said in Docker's words where it has some."""
    if 0 < config.memory_bytes < MINIMUM_MEMORY_BYTES:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if config.nano_cpus < 0:
        raise InvalidArgument("NanoCPUs must not be negative")
    if config.network_mode not in ("default", "bridge", "none"):
        raise Unsupported(
            f'network mode "{config.network_mode}" is not there yet: use the default network or --network none'
        )
    if config.restart_policy.name != "no":
        raise Unsupported(
            f'restart policy "{config.restart_policy.name}" is not there yet: only "no" works, '
            "start the container yourself"
        )
    if config.log_driver not in ("json-file", ""):
        raise Unsupported(f'logging driver "{config.log_driver}" is not there yet: only json-file works')
    if config.log_options:
        raise Unsupported("options of the logging driver are not there yet: json-file keeps everything")
    if config.stop_signal:
        parse_signal(config.stop_signal)
