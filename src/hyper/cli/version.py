"""``version``: of this client and of the engine, and how long that took to find out is what is watched (40 ms)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import hyper
from hyper.cli.flags import parse, value
from hyper.errors import HyperError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hyper.cli.main import Session


def version(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "version",
        arguments,
        (value("-f --format", "Show it by a template, or json"),),
        usage="[FLAGS]",
        summary="Show the versions of client and engine.",
        at_most=0,
    )
    client = {"Version": hyper.__version__, "Python": sys.version.split()[0]}
    server: dict[str, Any] | None = None
    failure: HyperError | None = None
    try:
        server = session.engine.object("GET", "/version")
    except HyperError as error:
        failure = error
    template = parsed.value("format")
    if template:
        from hyper.cli.template import Template

        source = "{{json .}}" if template == "json" else template
        print(Template(source).render({"Client": client, "Server": server}))
    else:
        print(f"Client: Hyper\n Version:        {client['Version']}\n Python:         {client['Python']}")
        if server is not None:
            print(_describe(server))
    if failure is not None:
        sys.stdout.flush()
        raise failure
    return 0


def _describe(server: dict[str, Any]) -> str:
    lines = ["", f"Server: {(server.get('Platform') or {}).get('Name') or 'engine'}"]
    lines.append(f" Version:        {server.get('Version', '')}")
    lines.append(f" API version:    {server.get('ApiVersion', '')} (minimum {server.get('MinAPIVersion', '')})")
    lines.append(f" OS/Arch:        {server.get('Os', '')}/{server.get('Arch', '')}")
    lines.append(f" Host kernel:    {server.get('KernelVersion', '')}")
    for component in server.get("Components") or ():
        if component.get("Name") != "Engine":
            lines.append(f" {component.get('Name', '') + ':':<15} {component.get('Version', '')}")
    return "\n".join(lines)
