"""The route table, held against the API file."""

from __future__ import annotations

import re

import pytest
from tests.api import schema

from hyper.api.docker.router import Route, Router
from hyper.api.docker.routes import all_routes


@pytest.mark.parametrize(("method", "pattern"), schema.operations(), ids=lambda value: value)
def test_every_operation_of_the_api_file_has_a_route(method: str, pattern: str) -> None:
    path = re.sub(r"\{[a-z]+\}", "x", pattern)
    match = Router(all_routes()).match(method, path)
    assert match is not None
    assert match.handler is not None


@pytest.mark.parametrize(
    ("method", "path", "params"),
    [
        ("GET", "/images/a/b:5000/c/json", {"name": "a/b:5000/c"}),
        ("DELETE", "/images/registry:5000/a/json", {"name": "registry:5000/a/json"}),
        ("GET", "/containers/abc/json", {"id": "abc"}),
        ("GET", "/containers/json", {}),
    ],
)
def test_parts_of_paths_are_named(method: str, path: str, params: dict[str, str]) -> None:
    match = Router(all_routes()).match(method, path)
    assert match is not None
    assert match.params == params


def test_a_wrong_method_names_the_right_ones_and_an_unknown_path_nothing() -> None:
    async def handler(call: object) -> object:
        return call

    router = Router([Route("GET", "/a/{id}", handler), Route("DELETE", "/a/{id}", handler)])  # type: ignore[arg-type]
    match = router.match("PUT", "/a/1")
    assert match is not None
    assert (match.handler, match.allowed) == (None, ("GET", "DELETE"))
    assert router.match("GET", "/a/1/2") is None
    assert router.match("GET", "/a/") is None
    assert router.match("GET", "") is None
