"""The grammar of docker's command lines: ``-it``, ``-e A=1``, ``-eA=1``, ``--name x``, ``--name=x``, ``--rm=false``,
and for ``run`` and
``exec`` flags only before the first argument.

Not argparse, which cannot say ``--sig-proxy=false``, nor stop at the first argument without taking flags of the
container's command
for its own, and costs 7 ms to import.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class UsageError(Exception):
    """A command line that does not fit the verb; shown with a hint at the verb's help. Exit code 125 as docker's."""


class HelpRequested(Exception):
    """``--help`` was given; ``str()`` is the text."""


SWITCH, VALUE, LIST = "switch", "value", "list"


class Flag:
    """One flag. ``names`` as typed ("-t --tty"); the last one without its dashes is its key."""

    __slots__ = ("default", "help", "key", "kind", "metavar", "names")

    def __init__(
        self, names: str, help: str, kind: str = SWITCH, *, metavar: str = "string", default: str = ""
    ) -> None:
        self.names = names.split()
        self.key = self.names[-1].lstrip("-")
        self.kind = kind
        self.help = help
        self.metavar = metavar if kind == VALUE else ("list" if metavar == "string" else metavar)
        self.default = default


def switch(names: str, help: str, *, default: bool = False) -> Flag:
    return Flag(names, help, SWITCH, default="true" if default else "")


def value(names: str, help: str, *, metavar: str = "string", default: str = "") -> Flag:
    return Flag(names, help, VALUE, metavar=metavar, default=default)


def many(names: str, help: str, *, metavar: str = "list") -> Flag:
    return Flag(names, help, LIST, metavar=metavar)


class Parsed:
    """What was typed. Asking for a flag that the verb does not have is a KeyError: a mistake of ours, found by the
    tests."""

    def __init__(self, flags: dict[str, Flag], given: dict[str, list[str]], arguments: list[str]) -> None:
        self._flags = flags
        self._given = given
        self.arguments = arguments

    def given(self, key: str) -> bool:
        return self._flags[key].key in self._given

    def on(self, key: str) -> bool:
        flag = self._flags[key]
        values = self._given.get(key)
        return (values[-1] if values else flag.default) == "true"

    def value(self, key: str) -> str:
        flag = self._flags[key]
        values = self._given.get(key)
        return values[-1] if values else flag.default

    def list(self, key: str) -> list[str]:
        return list(self._given.get(self._flags[key].key, ()))

    def integer(self, key: str) -> int | None:
        """None when it was not given and has no default."""
        text = self.value(key)
        if not text:
            return None
        try:
            return int(text)
        except ValueError:
            raise UsageError(f"--{key} wants a whole number, not {text!r}") from None

    def seconds(self, key: str) -> int | None:
        return self.integer(key)


def parse(
    verb: str,
    arguments: Sequence[str],
    flags: Iterable[Flag],
    *,
    usage: str,
    summary: str,
    at_least: int = 0,
    at_most: int | None = None,
    leading: bool = False,
) -> Parsed:
    """Sort ``arguments`` into flags and the rest. ``leading``: flags end at the first argument. ``at_most`` None: no
    limit."""
    by_key = {flag.key: flag for flag in flags}
    by_name = {name: flag for flag in by_key.values() for name in flag.names}
    given: dict[str, list[str]] = {}
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest.extend(words)
        elif word == "-" or not word.startswith("-"):
            rest.append(word)
            if leading:
                rest.extend(words)
        elif word in ("--help", "-h") and word not in by_name:
            raise HelpRequested(help_text(verb, by_key.values(), usage, summary))
        elif word.startswith("--"):
            name, equals, text = word.partition("=")
            flag = by_name.get(name)
            if flag is None:
                raise UsageError(f"unknown flag {name}{_nearest(name, by_name)}")
            _take(flag, name, text if equals else None, words, given)
        else:
            _cluster(word, by_name, words, given)
    if len(rest) < at_least or (at_most is not None and len(rest) > at_most):
        raise UsageError(f"{verb} wants {_count(at_least, at_most)}: hyper {verb} {usage}")
    return Parsed(by_key, given, rest)


def _cluster(word: str, by_name: dict[str, Flag], words: Iterable[str], given: dict[str, list[str]]) -> None:
    """``-it``, ``-p80:80``, ``-w=/src``: letters are switches up to the first that takes a value, whose value is the
    rest."""
    for position in range(1, len(word)):
        name = f"-{word[position]}"
        flag = by_name.get(name)
        if flag is None:
            raise UsageError(f"unknown flag {name}" + (f" in {word}" if len(word) > 2 else ""))
        rest = word[position + 1 :]
        if flag.kind != SWITCH:
            return _take(flag, name, rest.removeprefix("=") if rest else None, words, given)
        if rest.startswith("="):
            return _take(flag, name, rest[1:], words, given)
        _take(flag, name, None, words, given)
    return None


def _take(flag: Flag, name: str, text: str | None, words: Iterable[str], given: dict[str, list[str]]) -> None:
    if flag.kind == SWITCH:
        truth = {"1": "true", "t": "true", "true": "true", "0": "false", "f": "false", "false": "false"}
        text = truth.get((text or "true").lower())
        if text is None:
            raise UsageError(f"{name} is either true or false")
    elif text is None:
        text = next(iter(words), None)
        if text is None:
            raise UsageError(f"flag {name} wants a value")
    given.setdefault(flag.key, []).append(text)


def help_text(verb: str, flags: Iterable[Flag], usage: str, summary: str) -> str:
    rows = []
    for flag in sorted(flags, key=lambda flag: flag.key):
        short = "    " if flag.names[0].startswith("--") else f"{flag.names[0]}, "
        metavar = "" if flag.kind == SWITCH else f" {flag.metavar}"
        default = f" (default {flag.default})" if flag.default else ""
        rows.append((f"  {short}--{flag.key}{metavar}", flag.help + default))
    width = max((len(left) for left, _ in rows), default=0) + 3
    body = "".join(f"{left:<{width}}{right}\n" for left, right in rows)
    return f"Usage:  hyper {verb} {usage}\n\n{summary}\n" + (f"\nOptions:\n{body}" if rows else "")


def _nearest(name: str, names: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, [known for known in names if known.startswith("--")], 1)
    return f"; did you mean {close[0]}?" if close else ""


def _count(at_least: int, at_most: int | None) -> str:
    if at_most is None:
        return f"at least {at_least} argument" + ("s" if at_least != 1 else "")
    if at_least == at_most:
        return "no arguments" if at_most == 0 else f"exactly {at_most} argument" + ("s" if at_most != 1 else "")
    return f"{at_least} to {at_most} arguments"
