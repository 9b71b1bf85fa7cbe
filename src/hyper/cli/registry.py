"""``pull``, ``push``, ``search``, ``login`` and ``logout``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

from hyper.cli import human, output, terminal, transfer
from hyper.cli.credentials import HUB, CredentialFile, server_of
from hyper.cli.flags import UsageError, many, parse, switch, value
from hyper.client.engine import path_part
from hyper.errors import InvalidArgument
from hyper.oci import reference as references

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hyper.cli.main import Session
    from hyper.client.engine import Engine

SEARCH_HEADERS = {"Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL"}


def pull(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "pull",
        arguments,
        (
            switch("-a --all-tags", "All tags of the repository"),
            value("--platform", "For this platform (linux/arm64)"),
            switch("-q --quiet", "Only the image's name"),
        ),
        usage="[FLAGS] NAME[:TAG|@DIGEST]",
        summary="Download an image from a registry.",
        at_least=1,
        at_most=1,
    )
    name, every = parsed.arguments[0], parsed.on("all-tags")
    parsed_name = references.parse(name)
    if every and (parsed_name.tag or parsed_name.digest):
        raise InvalidArgument("tag can't be used with --all-tags/-a")
    quiet = parsed.on("quiet")
    if not every and not quiet and parsed_name != parsed_name.with_default_tag():
        print("Using default tag: latest", flush=True)
    wanted = parsed_name if every else parsed_name.with_default_tag()
    fetch(session.engine, wanted, platform=parsed.value("platform"), stream=None if quiet else sys.stdout)
    print(wanted)
    return 0


def fetch(engine: Engine, name: references.Reference, *, platform: str, stream: TextIO | None) -> None:
    """Let the engine pull, and show it on ``stream``."""
    messages = engine.messages(
        "POST",
        "/images/create",
        query={
            "fromImage": name.name,
            "tag": name.digest or name.tag or None,
            "platform": platform or None,
        },
        headers=CredentialFile(dict(os.environ)).header(server_of(name.domain)),
    )
    if stream is None:
        for _ in messages:
            pass
        return
    descriptor = 2 if stream is sys.stderr else 1
    columns = terminal.size(descriptor)[1] or 80
    transfer.show(messages, stream, terminal=terminal.is_terminal(descriptor), columns=columns)


def push(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "push",
        arguments,
        (
            switch("-a --all-tags", "All tags that the repository has here"),
            switch("-q --quiet", "Only the image's name"),
        ),
        usage="[FLAGS] NAME[:TAG]",
        summary="Upload an image to a registry.",
        at_least=1,
        at_most=1,
    )
    name, every = references.parse(parsed.arguments[0]), parsed.on("all-tags")
    if every and name.tag:
        raise InvalidArgument("tag can't be used with --all-tags/-a")
    quiet = parsed.on("quiet")
    if not every and name != name.with_default_tag():
        name = name.with_default_tag()
        if not quiet:
            print(f"Using default tag: {name.tag}", flush=True)
    if name.digest:
        raise InvalidArgument("cannot push a digest reference")
    messages = session.engine.messages(
        "POST",
        f"/images/{path_part(name.name)}/push",
        query={"tag": name.tag or None},
        headers=CredentialFile(dict(os.environ)).header(server_of(name.domain)),
    )
    if quiet:
        for _ in messages:
            pass
        print(name)
    else:
        columns = terminal.size(1)[1] or 80
        transfer.show(messages, sys.stdout, terminal=terminal.is_terminal(1), columns=columns)
    return 0


def search(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "search",
        arguments,
        (
            many("-f --filter", "Only those that fit (is-official=true, stars=3)"),
            value("--format", "Show them by a template, 'table …' or json"),
            value("--limit", "At most so many", default="25"),
            switch("--no-trunc", "Do not shorten"),
        ),
        usage="[FLAGS] TERM",
        summary="Search a registry for images; few but Docker Hub can.",
        at_least=1,
        at_most=1,
    )
    from hyper.cli.containers import filters

    term = parsed.arguments[0]
    answer = session.engine.list(
        "GET",
        "/images/search",
        query={"term": term, "limit": parsed.integer("limit"), "filters": filters(parsed.list("filter"))},
    )
    full = parsed.on("no-trunc")
    items: list[dict[str, object]] = [
        {
            "Name": str(item.get("name", "")),
            "Description": text if full else human.shorten(text, 45),
            "StarCount": str(item.get("star_count", 0)),
            "IsOfficial": "[OK]" if item.get("is_official") else "",
        }
        for item in answer
        for text in [" ".join(str(item.get("description") or "").split())]
    ]
    output.rows(items, template=parsed.value("format"), columns=tuple(SEARCH_HEADERS), headers=SEARCH_HEADERS)
    return 0


def login(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "login",
        arguments,
        (
            value("-u --username", "Name"),
            value("-p --password", "Password; other users of this machine can see it"),
            switch("--password-stdin", "Read the password from stdin"),
        ),
        usage="[FLAGS] [SERVER]",
        summary="Log in to a registry (default: Docker Hub).",
        at_most=1,
    )
    server = _server(parsed.arguments)
    username, password = parsed.value("username"), parsed.value("password")
    if parsed.on("password-stdin"):
        if password:
            raise UsageError("--password and --password-stdin are mutually exclusive")
        if not username:
            raise UsageError("must provide --username with --password-stdin")
        password = sys.stdin.read().rstrip("\r\n")
    elif not username or not password:
        if not terminal.is_terminal(0):
            raise UsageError("cannot ask for name and password: stdin is no terminal; use -u and --password-stdin")
        import getpass

        username = username or input("Username: ")
        password = password or getpass.getpass("Password: ")
    if not username or not password:
        raise UsageError("username and password must not be empty")
    answer = session.engine.object(
        "POST", "/auth", body={"username": username, "password": password, "serveraddress": server}
    )
    file = CredentialFile(dict(os.environ))
    if file.put(server, username, password, str(answer.get("IdentityToken") or "")):
        print(f"WARNING! The password is stored unencrypted in '{file.path}'.", file=sys.stderr)
    print(answer.get("Status") or "Login Succeeded")
    return 0


def logout(session: Session, arguments: Sequence[str]) -> int:
    parsed = parse(
        "logout",
        arguments,
        (),
        usage="[SERVER]",
        summary="Forget a registry's password (default: Docker Hub).",
        at_most=1,
    )
    server = _server(parsed.arguments)
    if CredentialFile(dict(os.environ)).remove(server):
        print(f"Removing login credentials for {server}")
    else:
        print(f"Not logged in to {server}")
    return 0


def _server(arguments: Sequence[str]) -> str:
    if not arguments:
        return HUB
    host = arguments[0].rpartition("://")[2].partition("/")[0]
    return server_of(host)
