"""``ps`` and ``port``: containers in docker's columns."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from hyper.cli import human, output
from hyper.cli.flags import UsageError, many, parse, switch, value
from hyper.client.engine import path_part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hyper.cli.main import Session

HEADERS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "State": "STATE",
    "Ports": "PORTS",
    "Names": "NAMES",
    "Labels": "LABELS",
    "Networks": "NETWORKS",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Size": "SIZE",
    "Platform": "PLATFORM",
}
COLUMNS = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")


def ps(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "ps",
        arguments,
        (
            switch("-a --all", "Show all containers, not only the running ones"),
            many("-f --filter", "Only those that fit (status=exited, name=web, label=a=b, …)"),
            value("--format", "Show them by a template, 'table …' or json"),
            value("-n --last", "Show the newest ones, whatever their state", metavar="int"),
            switch("-l --latest", "Show the newest one"),
            switch("--no-trunc", "Do not shorten"),
            switch("-q --quiet", "Only IDs"),
            switch("-s --size", "Show sizes as well"),
        ),
        usage="[FLAGS]",
        summary="List containers.",
        at_most=0,
    )
    template = parsed.value("format")
    last = 1 if parsed.on("latest") else parsed.integer("last")
    query: dict[str, str | int | bool | None] = {
        "all": parsed.on("all") or None,
        "limit": last if last is not None and last >= 0 else None,
        "filters": filters(parsed.list("filter")),
        "size": (parsed.on("size") or ".Size" in template) or None,
    }
    full = parsed.on("no-trunc")
    now = time.time()
    items = [row(item, now_s=now, full=full) for item in session.engine.list("GET", "/containers/json", query=query)]
    if parsed.on("quiet") and not template:
        output.write("".join(f"{item['ID']}\n" for item in items))
        return 0
    columns = (*COLUMNS, "Size") if parsed.on("size") else COLUMNS
    output.rows(items, template=template, columns=columns, headers=HEADERS)
    return 0


def filters(texts: Sequence[str]) -> str | None:
    """``--filter key=value``… as the API's JSON; None without any."""
    result: dict[str, list[str]] = {}
    for text in texts:
        key, equals, setting = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--filter {text!r} is no filter: write key=value")
        result.setdefault(key.strip().lower(), []).append(setting.strip())
    return json.dumps(result) if result else None


def row(item: dict[str, Any], *, now_s: float, full: bool) -> dict[str, object]:
    """An item of ``GET /containers/json`` as ps shows it."""
    created_s = float(item.get("Created", 0))
    labels: dict[str, str] = item.get("Labels") or {}
    command = str(item.get("Command", ""))
    image = str(item.get("Image", ""))
    if not full and image.startswith("sha256:"):
        image = image[7:19]
    networks = (item.get("NetworkSettings") or {}).get("Networks") or {}
    mounts = [str(mount.get("Name") or mount.get("Source", "")) for mount in item.get("Mounts") or ()]
    size = human.size(item.get("SizeRw") or 0)
    if virtual := item.get("SizeRootFs"):
        size += f" (virtual {human.size(virtual)})"
    return {
        "ID": str(item["Id"]) if full else str(item["Id"])[:12],
        "Image": image or "<no image>",
        "Command": f'"{command if full else human.shorten(command, 20)}"',
        "CreatedAt": human.local_time(created_s),
        "RunningFor": f"{human.ago(now_s - created_s)} ago",
        "Status": str(item.get("Status", "")),
        "State": str(item.get("State", "")),
        "Ports": ports(item.get("Ports") or ()),
        "Names": ",".join(str(name).lstrip("/") for name in item.get("Names") or ()),
        "Labels": ",".join(f"{key}={setting}" for key, setting in sorted(labels.items())),
        "Label": lambda name: labels.get(name, ""),
        "Networks": ",".join(sorted(networks)),
        "Mounts": ",".join(mounts),
        "LocalVolumes": str(sum(mount.get("Driver") == "local" for mount in item.get("Mounts") or ())),
        "Size": size,
        "Platform": "",
    }


def ports(published: Sequence[dict[str, Any]]) -> str:
    """ "0.0.0.0:8080->80/tcp, 443/tcp", neighbouring ports of one address as a range."""
    ordered = sorted(
        {
            (
                str(port.get("Type", "tcp")),
                str(port.get("IP") or ""),
                int(port["PrivatePort"]),
                int(port.get("PublicPort") or 0),
            )
            for port in published
        }
    )
    runs: list[list[tuple[str, str, int, int]]] = []
    for port in ordered:
        last = runs[-1][-1] if runs else None
        follows = last is not None and port[:2] == last[:2] and port[2] == last[2] + 1
        if follows and last is not None and port[3] == (last[3] + 1 if last[3] else 0):
            runs[-1].append(port)
        else:
            runs.append([port])
    texts = []
    for run in sorted(runs, key=lambda run: (run[0][2], run[0][0], run[0][1])):
        protocol, address, first, public = run[0]
        inside, outside = str(first), str(public)
        if len(run) > 1:
            inside, outside = f"{first}-{run[-1][2]}", f"{public}-{run[-1][3]}"
        address = f"[{address}]" if ":" in address else address
        texts.append(f"{address}:{outside}->{inside}/{protocol}" if public else f"{inside}/{protocol}")
    return ", ".join(texts)


def port(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "port",
        arguments,
        (),
        usage="CONTAINER [PORT[/PROTOCOL]]",
        summary="List a container's published ports.",
        at_least=1,
        at_most=2,
    )
    found = session.engine.object("GET", f"/containers/{path_part(parsed.arguments[0])}/json")
    published: dict[str, Any] = (found.get("NetworkSettings") or {}).get("Ports") or {}
    if len(parsed.arguments) == 1:
        for name in sorted(published, key=lambda name: (int(name.partition("/")[0]), name)):
            for binding in published[name] or ():
                print(f"{name} -> {_address(binding)}")
        return 0
    wanted = parsed.arguments[1]
    name = wanted if "/" in wanted else f"{wanted}/tcp"
    if not published.get(name):
        raise UsageError(f"{parsed.arguments[0]} publishes no port {name}")
    for binding in published[name]:
        print(_address(binding))
    return 0


def _address(binding: dict[str, Any]) -> str:
    address = str(binding.get("HostIp") or "0.0.0.0")
    return f"[{address}]:{binding['HostPort']}" if ":" in address else f"{address}:{binding['HostPort']}"
