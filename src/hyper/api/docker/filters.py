"""``filters=`` of list calls and events: a JSON object of names to values, in the old form (lists) or the new one
(maps of true)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from hyper.errors import InvalidArgument

Filters = Mapping[str, tuple[str, ...]]

_TRUE = frozenset({"1", "true"})
_FALSE = frozenset({"0", "false"})


def parse(text: str, accepted: Collection[str]) -> Filters:
    """InvalidArgument for bad JSON and, in Docker's words, for a name that is not ``accepted``."""
    if not text:
        return {}
    try:
        raw = msgspec.json.decode(text, type=dict[str, list[str] | dict[str, bool] | None])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"invalid filter: {error}") from error
    filters: dict[str, tuple[str, ...]] = {}
    for name, values in raw.items():
        if name not in accepted:
            raise InvalidArgument(f"invalid filter '{name}'")
        chosen = [value for value, on in values.items() if on] if isinstance(values, dict) else values or []
        if chosen:
            filters[name] = tuple(chosen)
    return filters


def labels_match(wanted: tuple[str, ...], labels: Mapping[str, str]) -> bool:
    """All of "key" or "key=value"."""
    for item in wanted:
        key, equals, value = item.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def boolean(filters: Filters, name: str) -> bool | None:
    """One truth value, or None when the filter is not there."""
    values = filters.get(name)
    if not values:
        return None
    chosen = {value.lower() for value in values}
    if chosen <= _TRUE:
        return True
    if chosen <= _FALSE:
        return False
    raise InvalidArgument(f"invalid filter '{name}={list(values)}'")
