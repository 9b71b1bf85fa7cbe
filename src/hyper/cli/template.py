"""``--format``: the part of Go's text/template that people write for docker's commands.

Fields (``{{.State.Status}}``), ``if``/``else``/``range``/``with``/``end``, variables, pipelines, ``{{-`` and
``-}}``, string literals, and the
functions below. Anything else is an error that names it. Values are what JSON decodes to; a field that is a function
(``.Label``) is
called with the words behind it. Source: the documentation of Go's text/template and of docker's formatting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from hyper.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Scope = dict[str, Any]

_ACTION = re.compile(r"(?s)\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}")
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<field>(?:\$\w*)?(?:\.\w+)+|\.)"""
    r"""|(?P<variable>\$\w*)|(?P<word>\w+)|(?P<mark>:=|[|(),=]))"""
)


class _Node:
    """A piece of the template: text, an action, or a block with its branches."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        self.text = text
        self.body: list[_Node] = []
        self.otherwise: list[_Node] = []


class Template:
    """A parsed template. Raises InvalidArgument when it cannot be parsed, and from :meth:`render` when a value does
    not fit."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._nodes = self._parse(source)

    def render(self, value: Any) -> str:
        return "".join(self._render(self._nodes, {".": value, "$": value}))

    # -------------------------------------------------------------------------------------------------------- parsing

    def _parse(self, source: str) -> list[_Node]:
        root = _Node("root", "")
        stack: list[tuple[_Node, list[_Node]]] = [(root, root.body)]
        position, trim_next = 0, False
        for match in _ACTION.finditer(source):
            text = source[position : match.start()]
            text = text.lstrip() if trim_next else text
            text = text.rstrip() if match[1] else text
            if text:
                stack[-1][1].append(_Node("text", text))
            position, trim_next = match.end(), match[3] is not None
            self._action(match[2], stack)
        text = source[position:].lstrip() if trim_next else source[position:]
        if text:
            stack[-1][1].append(_Node("text", text))
        if "{{" in text:
            raise self._error("an opening {{ has no }}")
        if len(stack) > 1:
            raise self._error(f"{{{{{stack[-1][0].kind}}}}} has no {{{{end}}}}")
        return root.body

    def _action(self, action: str, stack: list[tuple[_Node, list[_Node]]]) -> None:
        word, _, rest = action.partition(" ")
        node, body = stack[-1]
        if action.startswith("/*"):
            return
        if word in ("if", "range", "with"):
            block = _Node(word, rest)
            body.append(block)
            stack.append((block, block.body))
        elif word == "else" and node.kind != "root":
            stack[-1] = (node, node.otherwise)
            if rest.startswith("if "):  # {{else if}}: a block in the other branch, closed by the same end
                nested = _Node("if", rest[3:])
                node.otherwise.append(nested)
                stack[-1] = (nested, nested.body)
        elif word == "end":
            if node.kind == "root":
                raise self._error("there is an {{end}} too many")
            stack.pop()
        elif not action:
            raise self._error("{{}} is empty")
        else:
            body.append(_Node("action", action))

    # ------------------------------------------------------------------------------------------------------ rendering

    def _render(self, nodes: list[_Node], scope: Scope) -> Iterator[str]:
        for node in nodes:
            if node.kind == "text":
                yield node.text
            elif node.kind == "action":
                names, value = self._evaluate(node.text, scope)
                if names:
                    scope[names[0]] = value
                else:
                    yield show(value)
            elif node.kind == "range":
                yield from self._range(node, scope)
            else:
                names, value = self._evaluate(node.text, scope)
                inner = dict(scope)
                inner.update(dict.fromkeys(names, value))
                if not _true(value):
                    yield from self._render(node.otherwise, scope)
                else:
                    if node.kind == "with":
                        inner["."] = value
                    yield from self._render(node.body, inner)

    def _range(self, node: _Node, scope: Scope) -> Iterator[str]:
        names, value = self._evaluate(node.text, scope)
        pairs: list[tuple[Any, Any]]
        if isinstance(value, dict):
            pairs = sorted(value.items())
        elif isinstance(value, list | tuple):
            pairs = list(enumerate(value))
        elif value is None:
            pairs = []
        else:
            raise self._error(f"{{{{range {node.text}}}}} wants a list")
        for key, item in pairs:
            inner = {**scope, ".": item}
            if len(names) == 2:
                inner[names[0]], inner[names[1]] = key, item
            elif names:
                inner[names[0]] = item
            yield from self._render(node.body, inner)
        if not pairs:
            yield from self._render(node.otherwise, scope)

    def _evaluate(self, text: str, scope: Scope) -> tuple[list[str], Any]:
        """The names before ``:=`` and the pipeline's value."""
        tokens = self._tokens(text)
        names = []
        marks = [token for kind, token in tokens if kind == "mark"]
        if ":=" in marks or "=" in marks:
            while tokens and tokens[0][1] not in (":=", "="):
                kind, token = tokens.pop(0)
                if kind == "variable":
                    names.append(token)
            tokens = tokens[1:]
        value = self._pipeline(tokens, scope)
        if tokens:
            raise self._error(f"cannot read {{{{{text}}}}}")
        return names, value

    def _tokens(self, text: str) -> list[tuple[str, str]]:
        tokens: list[tuple[str, str]] = []
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._error(f"cannot read {text[position:].strip()!r}")
            kind = str(match.lastgroup)
            # (index .X 0).Name: a field of what the parentheses give
            chained = kind == "field" and tokens[-1:] == [("mark", ")")] and match.start(kind) == position
            tokens.append(("chain" if chained else kind, match[kind]))
            position = match.end()
        return tokens

    def _pipeline(self, tokens: list[tuple[str, str]], scope: Scope) -> Any:
        last: list[Any] = []
        while True:
            value = self._command(tokens, scope, last)
            if not tokens or tokens[0] != ("mark", "|"):
                return value
            tokens.pop(0)
            last = [value]

    def _command(self, tokens: list[tuple[str, str]], scope: Scope, piped: list[Any]) -> Any:
        """One command of a pipeline: a function or field with arguments, the piped value last."""
        if not tokens:
            raise self._error("an action has no value")
        kind, token = tokens[0]
        function: Callable[..., Any] | None = None
        if kind == "word" and token not in _CONSTANTS:
            function = _FUNCTIONS.get(token)
            if function is None:
                raise self._error(f"there is no function {token!r}; there are {', '.join(sorted(_FUNCTIONS))}")
            tokens.pop(0)
        else:
            value = self._operand(tokens, scope)
            if not callable(value):
                if piped or (tokens and tokens[0][1] not in ("|", ")")):
                    raise self._error(f"{token} takes no arguments")
                return value
            function = value
        arguments = []
        while tokens and tokens[0] not in (("mark", "|"), ("mark", ")")):
            arguments.append(self._operand(tokens, scope))
        try:
            return function(*arguments, *piped)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise self._error(f"{token}: {error}") from error

    def _operand(self, tokens: list[tuple[str, str]], scope: Scope) -> Any:
        kind, token = tokens.pop(0)
        if kind == "string":
            return token[1:-1] if token[0] == "`" else json.loads(token)
        if kind == "number":
            return float(token) if "." in token else int(token)
        if kind == "word" and token in _CONSTANTS:
            return _CONSTANTS[token]
        if kind == "variable":
            return self._variable(token, scope)
        if (kind, token) == ("mark", "("):
            value = self._pipeline(tokens, scope)
            if not tokens or tokens.pop(0) != ("mark", ")"):
                raise self._error("an opening parenthesis has no closing one")
            return self._fields(value, tokens.pop(0)[1]) if tokens and tokens[0][0] == "chain" else value
        if kind == "field":
            base, dot, names = token.partition(".")
            return self._fields(self._variable(base, scope) if base else scope["."], dot + names)
        raise self._error(f"cannot use {token!r} here")

    def _variable(self, name: str, scope: Scope) -> Any:
        if name not in scope:
            raise self._error(f"there is no variable {name}")
        return scope[name]

    def _fields(self, value: Any, path: str) -> Any:
        for name in path.split("."):
            if name:
                value = self._field(value, name)
        return value

    def _field(self, value: Any, name: str) -> Any:
        if isinstance(value, dict):
            if name in value:
                return value[name]
            if isinstance(value, Fields):
                raise self._error(f"there is no field .{name}; there are {', '.join(sorted(value))}")
            return None
        if value is None:
            return None
        raise self._error(f"cannot take .{name} of something that has no fields")

    def _error(self, what: str) -> InvalidArgument:
        return InvalidArgument(f"cannot use the format {self._source!r}: {what}")


class Fields(dict[str, object]):
    """A row of a list: a closed set of fields, so that a typing mistake in a field's name is an error."""


def show(value: Any) -> str:
    """A value as Go prints it."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{show(item)}" for key, item in sorted(value.items())) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(show(item) for item in value) + "]"
    return str(value)


def to_json(value: Any) -> str:
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if not callable(item)}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _true(value: Any) -> bool:
    return bool(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(str(key))
        elif isinstance(value, list | tuple | str):
            value = value[int(key)]
        elif value is not None:
            raise TypeError("cannot be indexed")
    return value


def _and(*values: Any) -> Any:
    return next((value for value in values if not _true(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if _true(value)), values[-1])


def _printf(pattern: str, *values: Any) -> str:
    arguments = iter(values)

    def one(match: re.Match[str]) -> str:
        verb = match[2]
        if verb == "%":
            return "%"
        value = next(arguments, None)
        if verb == "q":
            return f"%{match[1]}s" % json.dumps(show(value), ensure_ascii=False)
        if verb in "dfxXeg":
            return f"%{match[1]}{verb}" % value
        return f"%{match[1]}s" % show(value)

    return re.sub(r"%([-+ 0#]*\d*(?:\.\d+)?)([a-zA-Z%])", one, pattern)


_CONSTANTS: Scope = {"true": True, "false": False, "nil": None}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "join": lambda values, separator="": separator.join(show(value) for value in values or ()),
    "split": lambda text, separator: text.split(separator),
    "upper": lambda text: show(text).upper(),
    "lower": lambda text: show(text).lower(),
    "title": lambda text: show(text).title(),
    "pad": lambda text, before, after: " " * before + show(text) + " " * after,
    "truncate": lambda text, length: show(text)[:length],
    "len": lambda value: len(value or ()),
    "index": _index,
    "print": lambda *values: " ".join(show(value) for value in values),
    "println": lambda *values: " ".join(show(value) for value in values) + "\n",
    "printf": _printf,
    "and": _and,
    "or": _or,
    "not": lambda value: not _true(value),
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, second: first != second,
    "lt": lambda first, second: first < second,
    "le": lambda first, second: first <= second,
    "gt": lambda first, second: first > second,
    "ge": lambda first, second: first >= second,
}
