"""Paths to handlers. A pattern is a path whose ``{name}`` parts match one segment and ``{name:path}`` ones any number
(image names)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from hyper.api.docker.call import Call
from hyper.api.http.messages import AnyResponse

Handler = Callable[[Call], Awaitable[AnyResponse]]


@dataclass(frozen=True)
class Route:
    method: str
    pattern: str
    handler: Handler


@dataclass
class _Pattern:
    regex: re.Pattern[str]
    handlers: dict[str, Handler]


@dataclass(frozen=True)
class Match:
    """``handler`` is None when the path exists but not with this method; ``allowed`` are those it has."""

    handler: Handler | None
    params: dict[str, str]
    allowed: tuple[str, ...]


class Router:
    """Fixed paths are looked up at once; patterns are tried in the order given, among those with the same first
    segment."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[str, dict[str, Handler]] = {}
        self._patterns: dict[str, list[_Pattern]] = {}
        known: dict[str, _Pattern] = {}
        for route in routes:
            if "{" not in route.pattern:
                self._fixed.setdefault(route.pattern, {})[route.method] = route.handler
                continue
            pattern = known.get(route.pattern)
            if pattern is None:
                pattern = known[route.pattern] = _Pattern(_compile(route.pattern), {})
                self._patterns.setdefault(_first_segment(route.pattern), []).append(pattern)
            pattern.handlers[route.method] = route.handler

    def match(self, method: str, path: str) -> Match | None:
        """None when there is no such path."""
        allowed: list[str] = []
        handlers = self._fixed.get(path)
        if handlers is not None:
            if (handler := handlers.get(method)) is not None:
                return Match(handler, {}, ())
            allowed.extend(handlers)
        for pattern in self._patterns.get(_first_segment(path), ()):
            if (found := pattern.regex.fullmatch(path)) is None:
                continue
            if (handler := pattern.handlers.get(method)) is not None:
                return Match(handler, found.groupdict(), ())
            allowed.extend(pattern.handlers)
        return Match(None, {}, tuple(dict.fromkeys(allowed))) if allowed else None


def _first_segment(path: str) -> str:
    return path[1:].partition("/")[0]


def _compile(pattern: str) -> re.Pattern[str]:
    regex = ""
    for part in re.split(r"(\{[a-z]+(?::path)?\})", pattern):
        if part.startswith("{"):
            name, _, kind = part[1:-1].partition(":")
            regex += f"(?P<{name}>.+)" if kind else f"(?P<{name}>[^/]+)"
        else:
            regex += re.escape(part)
    return re.compile(regex, re.DOTALL)
