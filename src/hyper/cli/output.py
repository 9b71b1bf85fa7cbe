"""How lists and objects are shown: ``--format`` (a template, "table …", "json"), ``--quiet``, docker's tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence

from hyper.cli.table import align
from hyper.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def write(text: str) -> None:
    """To stdout, whatever its encoding cannot write replaced."""
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode(sys.stdout.encoding or "ascii", "replace"))


def rows(
    items: Iterable[dict[str, object]],
    *,
    template: str,
    columns: Sequence[str],
    headers: dict[str, str],
) -> None:
    """Show each item's fields. ``template`` is the user's format or empty for the table of ``columns``; ``headers``
    names fields."""
    if template in ("", "table"):
        lines = [[headers[column] for column in columns]]
        lines += [[str(item[column]) for column in columns] for item in items]
        write(align(lines))
        return
    from hyper.cli.template import Fields, Template, to_json

    if template == "json":
        for item in items:
            write(to_json(item) + "\n")
        return
    as_table = template.startswith("table ")
    source = template.removeprefix("table ").replace("\\t", "\t").replace("\\n", "\n")
    compiled = Template(source)
    texts = [compiled.render(Fields(item)) for item in items]
    if as_table:
        header = Fields(
            {**{name: name.upper() for name in headers}, **headers, "Label": lambda name: str(name).upper()}
        )
        write(align([text.split("\t") for text in [compiled.render(header), *texts]]))
    else:
        write("".join(text + "\n" for text in texts))


def objects(names: Sequence[str], fetch: Callable[[str], Any], template: str) -> int:
    """``inspect``: what is known of each name; unknown ones are complained about at the end. Returns the exit code."""
    found, missing = [], []
    for name in names:
        try:
            found.append(fetch(name))
        except NotFound as error:
            missing.append(error.message)
    if not template:
        write(json.dumps(found, indent=4, ensure_ascii=False) + "\n")
    else:
        from hyper.cli.template import Template, to_json

        compiled = Template("{{json .}}" if template == "json" else template.replace("\\t", "\t").replace("\\n", "\n"))
        if template == "json":
            write("".join(to_json(item) + "\n" for item in found))
        else:
            write("".join(compiled.render(item) + "\n" for item in found))
    for message in missing:
        print(f"hyper: {message}", file=sys.stderr)
    return 1 if missing else 0
