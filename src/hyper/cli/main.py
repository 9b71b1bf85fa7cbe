"""The entry point: global flags, the verb, and how every kind of end looks (errors, ctrl-C, a closed pipe)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from hyper.cli.flags import HelpRequested, UsageError
from hyper.cli.verbs import GROUP_VERBS, GROUPS, NOT_YET, VERBS
from hyper.errors import HyperError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hyper.client.engine import Engine

USAGE_EXIT = 125
"""Docker's exit code for "the command itself could not be carried out"."""


class Session:
    """What a verb works with: the engine, connected when it is first asked for."""

    def __init__(self, host: str | None) -> None:
        self.host = host
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            from hyper.client.address import find_address
            from hyper.client.engine import Engine

            address = find_address(self.host, os.environ)
            self._engine = Engine(address, start=None if address.chosen else _start)
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


def _start(address: object) -> None:
    from hyper.client.address import Address
    from hyper.client.autostart import start_daemon

    assert isinstance(address, Address)
    start_daemon(address, say=complain)


def complain(message: str) -> None:
    print(f"hyper: {message}", file=sys.stderr)


def main() -> None:
    """The console script."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more at its own end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = code or 141
    raise SystemExit(code)


def run(arguments: Sequence[str]) -> int:
    """The exit code of that command line."""
    try:
        return _dispatch(list(arguments))
    except HelpRequested as text:
        sys.stdout.write(str(text))
        return 0
    except UsageError as error:
        complain(f"{error}\nhyper: `hyper --help` lists the verbs, `hyper VERB --help` a verb's flags")
        return USAGE_EXIT
    except HyperError as error:
        complain(error.message)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except KeyboardInterrupt:
        return 130


def _dispatch(arguments: list[str]) -> int:
    host, rest = _global_flags(arguments)
    if not rest:
        raise HelpRequested(_help())
    verb = rest.pop(0)
    if verb in GROUPS:
        verb = _group(verb, rest)
    target = VERBS.get(verb) or GROUP_VERBS.get(verb)
    if target is None:
        if verb in NOT_YET:
            raise UsageError(f"{verb} is not there yet")
        raise UsageError(f"there is no verb {verb!r}{_nearest(verb, VERBS | dict.fromkeys(GROUPS, ('', '', '')))}")
    module, function, _ = target
    session = Session(host)
    try:
        code: int = getattr(__import__(f"hyper.cli.{module}", fromlist=[function]), function)(session, rest)
        return code
    finally:
        session.close()


def _global_flags(arguments: list[str]) -> tuple[str | None, list[str]]:
    """``-H`` and ``--host`` before the verb; ``--version`` and ``--help``."""
    host = None
    while arguments and arguments[0].startswith("-"):
        word = arguments.pop(0)
        name, equals, text = word.partition("=")
        if name in ("-H", "--host"):
            if not equals:
                if not arguments:
                    raise UsageError(f"flag {name} wants a value")
                text = arguments.pop(0)
            host = text
        elif word.startswith("-H"):
            host = word[2:]
        elif word in ("-h", "--help"):
            raise HelpRequested(_help())
        elif word in ("-v", "--version"):
            from hyper import __version__

            raise HelpRequested(f"Hyper version {__version__}\n")
        else:
            raise UsageError(f"unknown flag {word} before the verb")
    if arguments and arguments[0] == "help":
        if len(arguments) == 1:
            raise HelpRequested(_help())
        arguments = [*arguments[1:], "--help"]
    return host, arguments


def _group(group: str, rest: list[str]) -> str:
    verbs = GROUPS[group]
    if not rest or rest[0] in ("--help", "-h"):
        lines = "".join(
            f"  {name:<10}{(VERBS.get(verb) or GROUP_VERBS[verb])[2]}\n" for name, verb in sorted(verbs.items())
        )
        raise HelpRequested(f"Usage:  hyper {group} VERB\n\nVerbs:\n{lines}")
    word = rest.pop(0)
    if word not in verbs:
        raise UsageError(f"there is no verb {group} {word!r}{_nearest(word, verbs)}")
    return verbs[word]


def _nearest(word: str, known: dict[str, str] | dict[str, tuple[str, str, str]]) -> str:
    import difflib

    close = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _help() -> str:
    width = max(map(len, VERBS)) + 3
    lines = "".join(f"  {verb:<{width}}{summary}\n" for verb, (_, _, summary) in VERBS.items())
    return (
        "Usage:  hyper [-H ADDRESS] VERB [FLAGS] [ARGUMENTS]\n\n"
        "Runs Docker images, each container behind a VM's wall.\n\n"
        f"Verbs:\n{lines}\n"
        f"Groups as docker has them: {', '.join(GROUPS)}.\n\n"
        "  -H, --host ADDRESS   the engine's address: unix:///path or tcp://host:port\n"
        "                       (else HYPER_HOST, DOCKER_HOST, unix:///run/hyper/hyper.sock)\n"
        "  -v, --version        the client's version\n\n"
        "`hyper VERB --help` tells a verb's flags.\n"
    )
