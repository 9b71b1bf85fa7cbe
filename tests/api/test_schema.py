"""The validator itself: it must be able to fail."""

from __future__ import annotations

import json

import pytest
from tests.api.schema import SchemaMismatch, check_response

GOOD = [{"Id": "x", "Created": 1, "CreatedBy": "", "Tags": [], "Size": 1, "Comment": ""}]


def body(value: object) -> bytes:
    return json.dumps(value).encode()


def test_what_fits_passes() -> None:
    check_response("GET", "/v1.50/images/a/b:c/history", 200, body(GOOD))
    check_response("GET", "/images/a/json", 404, body({"message": "No such image"}))
    check_response("POST", "/containers/x/start", 304, b"")


@pytest.mark.parametrize(
    ("method", "path", "status", "content"),
    [
        ("GET", "/images/a/history", 200, body([{"Id": "x"}])),  # required members missing
        ("GET", "/images/a/history", 200, body([{**GOOD[0], "Size": "1"}])),  # wrong type
        ("GET", "/images/a/history", 200, body(None)),  # null where none is allowed
        ("GET", "/images/a/history", 200, b"nonsense"),
        ("GET", "/images/a/history", 201, body(GOOD)),  # a status that is not listed
        ("GET", "/images/a/json", 404, body({"error": "no"})),  # an error without a message
        ("POST", "/containers/x/start", 204, b"x"),  # a body where there must be none
        ("GET", "/containers/x/json", 200, body({"Id": "x"})),  # members that clients rely on
        ("GET", "/nowhere", 200, b""),  # not in the description
    ],
)
def test_what_does_not_fit_is_told(method: str, path: str, status: int, content: bytes) -> None:
    with pytest.raises(SchemaMismatch):
        check_response(method, path, status, content)
