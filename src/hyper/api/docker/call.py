"""One API call as a route's handler sees it: the request, what the path named, the API version, the engine; and typed
query members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from hyper.api.docker.go_json import decode
from hyper.api.docker.versions import Version
from hyper.api.http.messages import Request, Response
from hyper.engine.api import Engine
from hyper.errors import InvalidArgument

T = TypeVar("T")

_FALSE = frozenset({"", "0", "no", "false", "none"})
_INT64 = 2**63


@dataclass(slots=True)
class Call:
    """``params`` are the path's named parts."""

    engine: Engine
    request: Request
    version: Version
    params: dict[str, str]

    def at_least(self, major: int, minor: int) -> bool:
        return self.version >= (major, minor)

    def text(self, name: str, default: str = "") -> str:
        """The first value of a query member."""
        values = self.request.query.get(name)
        return values[0] if values else default

    def texts(self, name: str) -> list[str]:
        return self.request.query.get(name, [])

    def has(self, name: str) -> bool:
        return name in self.request.query

    def flag(self, name: str, default: bool = False) -> bool:
        """Docker's truth: everything but "", 0, no, false and none."""
        values = self.request.query.get(name)
        return default if values is None else values[0].strip().lower() not in _FALSE

    def integer(self, name: str) -> int | None:
        """None when absent or empty. InvalidArgument when it is no 64-bit number."""
        value = self.text(name)
        if not value:
            return None
        try:
            number = int(value)
        except ValueError:
            raise InvalidArgument(
                f'strconv.Atoi: parsing "{value[:64]}": invalid syntax (query parameter "{name}")'
            ) from None
        if not -_INT64 <= number < _INT64:
            raise InvalidArgument(f'query parameter "{name}" is out of range: {value[:64]}')
        return number

    async def json(self, type_: type[T], *, required: bool = True) -> T:
        """The body as ``type_``. InvalidArgument in Docker's words when it is not JSON or does not fit."""
        data = await self.request.read()
        if not data.strip():
            if required:
                raise InvalidArgument("invalid JSON: got EOF while reading request body")
            return type_()
        content_type = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise InvalidArgument(
                f"unsupported Content-Type header ({content_type}): must be 'application/json'"
                if content_type
                else "malformed Content-Type header (): mime: no media type"
            )
        return decode(data, type_)


def json_response(value: Any, status: int = 200) -> Response:
    return Response(status, msgspec.json.encode(value) + b"\n", "application/json")


NO_CONTENT = Response(204)
