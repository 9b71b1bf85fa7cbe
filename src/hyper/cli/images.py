"""``images``, ``tag``, ``rmi`` and ``history``."""

from __future__ import annotations

import time
from collections.abc import Sequence

from hyper.cli import human, output
from hyper.cli.containers import filters
from hyper.cli.flags import UsageError, many, parse, switch, value
from hyper.cli.run import for_each
from hyper.client.engine import path_part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hyper.cli.main import Session

HEADERS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Containers": "CONTAINERS",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "VirtualSize": "VIRTUAL SIZE",
}
HISTORY_HEADERS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}


def images(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "images",
        arguments,
        (
            switch("-a --all", "Show intermediate images as well"),
            switch("--digests", "Show digests"),
            many("-f --filter", "Only those that fit (dangling=true, reference=debian, …)"),
            value("--format", "Show them by a template, 'table …' or json"),
            switch("--no-trunc", "Do not shorten"),
            switch("-q --quiet", "Only IDs"),
        ),
        usage="[FLAGS] [REPOSITORY[:TAG]]",
        summary="List images.",
        at_most=1,
    )
    wanted = [*parsed.list("filter"), *(f"reference={name}" for name in parsed.arguments)]
    digests = parsed.on("digests")
    answer = session.engine.list(
        "GET",
        "/images/json",
        query={"all": parsed.on("all") or None, "digests": digests or None, "filters": filters(wanted)},
    )
    now = time.time()
    items = [row for item in answer for row in rows(item, now_s=now, full=parsed.on("no-trunc"))]
    template = parsed.value("format")
    if parsed.on("quiet") and not template:
        output.write("".join(f"{image_id}\n" for image_id in dict.fromkeys(item["ID"] for item in items)))
        return 0
    columns = ["Repository", "Tag", "ID", "CreatedSince", "Size"]
    if digests:
        columns.insert(2, "Digest")
    output.rows(items, template=template, columns=columns, headers=HEADERS)
    return 0


def rows(item: dict[str, Any], *, now_s: float, full: bool) -> list[dict[str, object]]:
    """One row for each name of an image of ``GET /images/json``; "<none>" for one without a name."""
    digests = {}
    for text in item.get("RepoDigests") or ():
        repository, _, digest = str(text).partition("@")
        digests[repository] = digest
    names = [str(name) for name in item.get("RepoTags") or () if name != "<none>:<none>"]
    created_s = float(item.get("Created", 0))
    image_id = str(item["Id"])
    size = human.size(item.get("Size") or 0)
    common: dict[str, object] = {
        "ID": image_id if full else image_id.removeprefix("sha256:")[:12],
        "CreatedSince": f"{human.ago(now_s - created_s)} ago" if created_s else "N/A",
        "CreatedAt": human.local_time(created_s),
        "Size": size,
        "VirtualSize": size,
        "Containers": "N/A" if item.get("Containers", -1) < 0 else str(item["Containers"]),
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
    }
    if not names:
        repository, digest = next(iter(digests.items()), ("<none>", "<none>"))
        return [{"Repository": repository, "Tag": "<none>", "Digest": digest, **common}]
    result = []
    for name in names:
        repository, _, tag_name = name.rpartition(":")
        digest = digests.get(repository, "<none>")
        result.append({"Repository": repository, "Tag": tag_name, "Digest": digest, **common})
    return result


def tag(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "tag",
        arguments,
        (),
        usage="SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        summary="Give an image another name.",
        at_least=2,
        at_most=2,
    )
    source, target = parsed.arguments
    if "@" in target:
        raise UsageError(f"{target!r} names a digest: a new name is repository:tag")
    head, slash, last = target.rpartition("/")
    repository, _, tag_name = last.partition(":")
    session.engine.json(
        "POST",
        f"/images/{path_part(source)}/tag",
        query={"repo": head + slash + repository, "tag": tag_name or "latest"},
    )
    return 0


def remove(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "rmi",
        arguments,
        (
            switch("-f --force", "Remove it although stopped containers use it, or all of its names"),
            switch("--no-prune", "Keep untagged parents"),
        ),
        usage="[FLAGS] IMAGE [IMAGE...]",
        summary="Remove one or more images.",
        at_least=1,
    )

    def remove_one(name: str) -> None:
        query = {"force": parsed.on("force"), "noprune": parsed.on("no-prune")}
        answer = session.engine.json("DELETE", f"/images/{path_part(name)}", query=query)
        for removal in answer if isinstance(answer, list) else ():
            for key in ("Untagged", "Deleted"):
                if removal.get(key):
                    print(f"{key}: {removal[key]}")

    return for_each(parsed.arguments, remove_one, show=False)


def history(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "history",
        arguments,
        (
            value("--format", "Show it by a template, 'table …' or json"),
            switch("-H --human", "Sizes and times in words", default=True),
            switch("--no-trunc", "Do not shorten"),
            switch("-q --quiet", "Only IDs"),
        ),
        usage="[FLAGS] IMAGE",
        summary="Show the layers of an image.",
        at_least=1,
        at_most=1,
    )
    full, words, now = parsed.on("no-trunc"), parsed.on("human"), time.time()
    items: list[dict[str, object]] = []
    for item in session.engine.list("GET", f"/images/{path_part(parsed.arguments[0])}/history"):
        created_s, created_by = float(item.get("Created") or 0), str(item.get("CreatedBy") or "")
        image_id = str(item.get("Id") or "<missing>")
        moment = human.local_time(created_s)
        items.append(
            {
                "ID": image_id if full else image_id.removeprefix("sha256:")[:12],
                "CreatedAt": moment,
                "CreatedSince": f"{human.ago(now - created_s)} ago" if words else moment,
                "CreatedBy": created_by if full else human.shorten(created_by, 45),
                "Size": human.size(item.get("Size") or 0) if words else str(item.get("Size") or 0),
                "Comment": str(item.get("Comment") or ""),
            }
        )
    if parsed.on("quiet"):
        output.write("".join(f"{item['ID']}\n" for item in items))
        return 0
    columns = ("ID", "CreatedSince", "CreatedBy", "Size", "Comment")
    output.rows(items, template=parsed.value("format"), columns=columns, headers=HISTORY_HEADERS)
    return 0
