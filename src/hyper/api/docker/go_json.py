"""JSON bodies as Go's decoder takes them, because that is what every Docker client was tested against: member names
match in any case,
``null`` leaves a member at its default, unknown members are skipped. Decoding and checking is msgspec's; this
straightens names and
nulls out before. Without that a member written in another case would be taken for an unknown one and silently ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import msgspec
import msgspec.inspect

from hyper.errors import InvalidArgument

T = TypeVar("T")


@dataclass
class _Shape:
    """What matters of a type: a struct's members by lower-case name, or the type of a map's values or a list's
    items."""

    members: dict[str, tuple[str, _Shape | None]] | None = None
    values: _Shape | None = None
    items: _Shape | None = None
    zero: Any = None


def decode(data: bytes, type_: type[T]) -> T:
    """``data`` as ``type_``; InvalidArgument naming the member that does not fit."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error
    try:
        return msgspec.convert(_straighten(value, _shape_of(type_)), type_)  # type: ignore[arg-type]  # classes are hashable; typeshed's cache wants it said
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error


def _straighten(value: Any, shape: _Shape | None) -> Any:
    if shape is None:
        return value
    if isinstance(value, dict):
        if shape.members is not None:
            straight = {}
            for name, member in value.items():
                known = shape.members.get(name.lower())
                if known is not None and member is not None:
                    straight[known[0]] = _straighten(member, known[1])
            return straight
        values = shape.values
        if values is not None:
            return {
                name: values.zero if member is None else _straighten(member, values) for name, member in value.items()
            }
        return value
    if isinstance(value, list) and shape.items is not None:
        items = shape.items
        return [items.zero if item is None else _straighten(item, items) for item in value]
    return value


@cache
def _shape_of(type_: Any) -> _Shape:
    return _shape(msgspec.inspect.type_info(type_))


def _shape(info: msgspec.inspect.Type) -> _Shape:
    match info:
        case msgspec.inspect.StructType():
            members: dict[str, tuple[str, _Shape | None]] = {}
            for member in info.fields:
                members[member.encode_name.lower()] = (member.encode_name, _shape(member.type))
            return _Shape(members=members, zero={})
        case msgspec.inspect.DictType():
            return _Shape(values=_shape(info.value_type), zero={})
        case msgspec.inspect.ListType():
            return _Shape(items=_shape(info.item_type), zero=[])
        case msgspec.inspect.UnionType():
            shapes = [_shape(member) for member in info.types if not isinstance(member, msgspec.inspect.NoneType)]
            for shape in shapes:
                if shape.members is not None or shape.values is not None or shape.items is not None:
                    return shape
            return shapes[0]
        case msgspec.inspect.StrType():
            return _Shape(zero="")
        case msgspec.inspect.IntType():
            return _Shape(zero=0)
        case msgspec.inspect.BoolType():
            return _Shape(zero=False)
        case _:
            return _Shape()
