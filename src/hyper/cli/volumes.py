"""``volume create``, ``ls``, ``inspect``, ``rm`` and ``prune``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hyper.cli import human, output
from hyper.cli.containers import filters
from hyper.cli.create_flags import pairs
from hyper.cli.flags import UsageError, many, parse, switch, value
from hyper.cli.run import for_each
from hyper.client.engine import path_part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hyper.cli.main import Session

HEADERS = {
    "Driver": "DRIVER",
    "Name": "VOLUME NAME",
    "Labels": "LABELS",
    "Mountpoint": "MOUNTPOINT",
    "Scope": "SCOPE",
}


def create(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "volume create",
        arguments,
        (
            value("-d --driver", "The volume's driver", default="local"),
            many("--label", "Set a label (key=value)"),
            value("--name", "The volume's name"),
            many("-o --opt", "Set an option of the driver (key=value)"),
        ),
        usage="[FLAGS] [VOLUME]",
        summary="Create a volume.",
        at_most=1,
    )
    name = parsed.value("name")
    if name and parsed.arguments:
        raise UsageError("the volume's name is given twice: with --name and as an argument")
    answer = session.engine.object(
        "POST",
        "/volumes/create",
        body={
            "Name": name or next(iter(parsed.arguments), ""),
            "Driver": parsed.value("driver"),
            "DriverOpts": pairs(parsed.list("opt"), "--opt"),
            "Labels": pairs(parsed.list("label"), "--label"),
        },
    )
    output.write(f"{answer['Name']}\n")
    return 0


def list_(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "volume ls",
        arguments,
        (
            many("-f --filter", "Only those that fit (dangling=true, driver=local, label=…, name=…)"),
            value("--format", "Show them by a template, 'table …' or json"),
            switch("-q --quiet", "Only names"),
        ),
        usage="[FLAGS]",
        summary="List volumes.",
        at_most=0,
    )
    answer = session.engine.object("GET", "/volumes", query={"filters": filters(parsed.list("filter"))})
    items = [row(item) for item in answer["Volumes"] or ()]
    if parsed.on("quiet") and not parsed.value("format"):
        output.write("".join(f"{item['Name']}\n" for item in items))
        return 0
    output.rows(items, template=parsed.value("format"), columns=["Driver", "Name"], headers=HEADERS)
    return 0


def row(item: dict[str, Any]) -> dict[str, object]:
    """A volume as ``volume ls`` shows it."""
    labels = ",".join(f"{key}={text}" for key, text in sorted((item.get("Labels") or {}).items()))
    return {
        "Driver": item["Driver"],
        "Name": item["Name"],
        "Labels": labels,
        "Mountpoint": item["Mountpoint"],
        "Scope": item["Scope"],
    }


def inspect(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "volume inspect",
        arguments,
        (value("-f --format", "Show it by a template, or json"),),
        usage="[FLAGS] VOLUME [VOLUME...]",
        summary="Show everything that is known of volumes.",
        at_least=1,
    )
    return output.objects(
        parsed.arguments,
        lambda name: session.engine.object("GET", f"/volumes/{path_part(name)}"),
        parsed.value("format"),
    )


def remove(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "volume rm",
        arguments,
        (switch("-f --force", "Say nothing of volumes that are not there"),),
        usage="[FLAGS] VOLUME [VOLUME...]",
        summary="Remove volumes that no container has.",
        at_least=1,
    )

    force = parsed.on("force") or None
    return for_each(
        parsed.arguments,
        lambda name: session.engine.json("DELETE", f"/volumes/{path_part(name)}", query={"force": force}),
    )


def prune(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "volume prune",
        arguments,
        (
            switch("-a --all", "Those with a name as well"),
            many("--filter", "Only those that fit (label=…, label!=…)"),
            switch("-f --force", "Do not ask"),
        ),
        usage="[FLAGS]",
        summary="Remove the volumes that no container has.",
        at_most=0,
    )
    wanted = [*parsed.list("filter"), *(["all=true"] if parsed.on("all") else [])]
    if not parsed.on("force"):
        what = "all volumes" if parsed.on("all") else "anonymous local volumes"
        output.write(
            f"WARNING! This will remove {what} not used by at least one container.\n"
            "Are you sure you want to continue? [y/N] "
        )
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 0
    answer = session.engine.object("POST", "/volumes/prune", query={"filters": filters(wanted)})
    names = answer["VolumesDeleted"] or ()
    if names:
        output.write("Deleted Volumes:\n" + "".join(f"{name}\n" for name in names) + "\n")
    output.write(f"Total reclaimed space: {human.size(answer['SpaceReclaimed'])}\n")
    return 0
