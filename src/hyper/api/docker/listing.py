"""``GET /containers/json``: which containers match, and one entry for each. Pure functions over snapshots."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hyper.api.docker import filters as filter_parsing
from hyper.api.docker import mounts, ports
from hyper.api.docker.filters import Filters
from hyper.api.docker.inspect import networks_json
from hyper.api.docker.times import human_duration
from hyper.engine.model import Container, Health, Status
from hyper.errors import InvalidArgument, NotFound

ACCEPTED = frozenset(
    {
        "ancestor",
        "before",
        "exited",
        "expose",
        "health",
        "id",
        "is-task",
        "isolation",
        "label",
        "name",
        "network",
        "publish",
        "since",
        "status",
        "volume",
    }
)

_HEALTH = frozenset({"none", "starting", "healthy", "unhealthy"})


@dataclass(frozen=True)
class Selection:
    """What the client asked for. ``image_ids_of``: the IDs of images that a name means (``ancestor``), empty for an
    unknown one."""

    filters: Filters
    all: bool
    limit: int
    image_ids_of: Callable[[str], frozenset[str]]


def select(containers: Sequence[Container], selection: Selection) -> list[Container]:
    """``containers`` are newest first, and so is the result."""
    filters = selection.filters
    accept = _predicate(selection, containers)
    everything = selection.all or selection.limit > 0 or "status" in filters
    chosen = [item for item in containers if (everything or item.state.up) and accept(item)]
    return chosen[: selection.limit] if selection.limit > 0 else chosen


def _predicate(selection: Selection, containers: Sequence[Container]) -> Callable[[Container], bool]:
    """Different filters must all match; of one filter's values any (of labels: all)."""
    filters = selection.filters
    tests: list[Callable[[Container], bool]] = []
    if ids := filters.get("id"):
        tests.append(lambda item: any(item.id.startswith(value) or _found(value, item.id) for value in ids))
    if names := filters.get("name"):
        tests.append(lambda item: any(_found(value, f"/{item.name}") or _found(value, item.name) for value in names))
    if labels := filters.get("label"):
        tests.append(lambda item: filter_parsing.labels_match(labels, item.config.labels))
    if statuses := filters.get("status"):
        _check_values("status", statuses, frozenset(status.value for status in Status))
        tests.append(lambda item: item.state.status.value in statuses)
    if codes := filters.get("exited"):
        wanted = {_number(value) for value in codes}
        tests.append(lambda item: item.state.exit_code in wanted and not item.state.up and item.state.finished_ns != 0)
    if ancestors := filters.get("ancestor"):
        images = frozenset().union(*(selection.image_ids_of(value) for value in ancestors))
        tests.append(lambda item: item.image_id in images)
    if before := filters.get("before"):
        limit_ns = min(_named(containers, value).created_ns for value in before)
        tests.append(lambda item: item.created_ns < limit_ns)
    if since := filters.get("since"):
        floor_ns = max(_named(containers, value).created_ns for value in since)
        tests.append(lambda item: item.created_ns > floor_ns)
    if networks := filters.get("network"):
        tests.append(
            lambda item: any(
                value == attached.network or (attached.network_id and attached.network_id.startswith(value))
                for value in networks
                for attached in item.networks
            )
        )
    if published := filters.get("publish"):
        wanted_ports = _port_set(published)
        tests.append(
            lambda item: any(
                (port.host_port, port.protocol) in wanted_ports for port in item.bindings if item.state.live
            )
        )
    if exposed := filters.get("expose"):
        wanted_exposed = _port_set(exposed)
        tests.append(lambda item: any(ports.parse_port(port) in wanted_exposed for port in item.config.exposed_ports))
    if health := filters.get("health"):
        _check_values("health", health, _HEALTH)
        tests.append(lambda item: (item.state.health.status if item.state.health else "none") in health)
    if volumes := filters.get("volume"):
        tests.append(
            lambda item: any(
                value in (mount.name, mount.source if mount.type == "bind" else "", mount.destination)
                for value in volumes
                for mount in item.mounts
                if value
            )
        )
    if filter_parsing.boolean(filters, "is-task"):
        tests.append(lambda item: False)  # there are no swarm tasks
    if isolation := filters.get("isolation"):
        tests.append(lambda item: bool({"", "default"} & set(isolation)))
    return lambda item: all(test(item) for test in tests)


def _found(pattern: str, text: str) -> bool:
    """Docker takes these values for regular expressions. Ours are limited to what cannot take long; anything else
    must match literally."""
    if re.fullmatch(r"\^?[\w./ -]*\$?", pattern):
        return re.search(pattern, text) is not None
    try:
        regex = re.compile(pattern) if len(pattern) <= 256 and not _risky(pattern) else None
    except (re.error, RecursionError, OverflowError):
        regex = None
    return pattern in text if regex is None else regex.search(text) is not None


def _risky(pattern: str) -> bool:
    """Nested repetition can take exponential time in Python's engine (Go's takes linear)."""
    return len(re.findall(r"[*+{]", pattern)) > 2 or re.search(r"\)[*+{]", pattern) is not None


def _check_values(name: str, values: tuple[str, ...], known: frozenset[str]) -> None:
    for value in values:
        if value not in known:
            raise InvalidArgument(f"invalid filter '{name}={value}'")


def _number(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise InvalidArgument(f"invalid filter 'exited={value[:64]}'") from None


def _named(containers: Sequence[Container], reference: str) -> Container:
    name = reference.removeprefix("/")
    for item in containers:
        if name in (item.id, item.name):
            return item
    found = [item for item in containers if name and item.id.startswith(name)]
    if len(found) != 1:
        raise NotFound(f"No such container: {reference}")
    return found[0]


def _port_set(values: tuple[str, ...]) -> frozenset[tuple[int, str]]:
    """ "80", "80/udp", "8000-8010/tcp"."""
    chosen: set[tuple[int, str]] = set()
    for value in values:
        numbers, _, protocol = value.partition("/")
        first, _, last = numbers.partition("-")
        low, name = ports.parse_port(f"{first}/{protocol or 'tcp'}")
        high, _ = ports.parse_port(f"{last or first}/{protocol or 'tcp'}")
        chosen.update((number, name) for number in range(low, high + 1))
    return frozenset(chosen)


def summary_json(container: Container, image_name: str, now_ns: int) -> dict[str, Any]:
    """``image_name``: as the user named it, or the image's ID when that name means another image by now."""
    return {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": image_name,
        "ImageID": container.image_id,
        "Command": command_text(container),
        "Created": container.created_ns // 1_000_000_000,
        "Ports": ports.summary(container),
        "Labels": container.config.labels,
        "State": container.state.status.value,
        "Status": status_text(container, now_ns),
        "HostConfig": {"NetworkMode": container.config.network_mode, "Annotations": container.config.annotations},
        "NetworkSettings": {"Networks": networks_json(container)},
        "Mounts": mounts.points_json(container),
    }


def command_text(container: Container) -> str:
    """Words with spaces are quoted, but the program's."""
    words = (f"'{word}'" if " " in word else word for word in container.args)
    return " ".join((container.path, *words))


def status_text(container: Container, now_ns: int) -> str:
    """What the STATUS column of ``docker ps`` shows."""
    state = container.state
    match state.status:
        case Status.RUNNING:
            return f"Up {_since(state.started_ns, now_ns)}{_health_text(state.health)}"
        case Status.PAUSED:
            return f"Up {_since(state.started_ns, now_ns)} (Paused)"
        case Status.RESTARTING:
            return f"Restarting ({state.exit_code}) {_since(state.finished_ns, now_ns)} ago"
        case Status.REMOVING:
            return "Removal In Progress"
        case Status.DEAD:
            return "Dead"
        case Status.CREATED:
            return "Created"
        case Status.EXITED:
            return f"Exited ({state.exit_code}) {_since(state.finished_ns, now_ns)} ago"


def _health_text(health: Health | None) -> str:
    if health is None:
        return ""
    return " (health: starting)" if health.status == "starting" else f" ({health.status})"


def _since(time_ns: int, now_ns: int) -> str:
    return human_duration(max(0, now_ns - time_ns) / 1e9)
