"""Checks responses against the Docker Engine API's own description (``docker-engine-api-v1.50.yaml``, Swagger 2.0).

Swagger 2.0 is almost JSON Schema: ``x-nullable`` becomes a type union, references are resolved, and the rest is for
jsonschema. Checked
are: the path and method exist in the description, the status is one that it lists (or an error with an error body),
and the body fits the
schema. Beyond the description's own ``required`` lists, :data:`EXPECTED` names the members that clients rely on.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

_FILE = Path(__file__).with_name("docker-engine-api-v1.50.yaml")

# Answers that the description leaves out, though Docker gives them.
_UNLISTED_OK = {
    ("POST", "/containers/{id}/exec", 201),
    ("POST", "/exec/{id}/start", 101),
    ("POST", "/exec/{id}/resize", 200),
}

EXPECTED: dict[str, str] = {
    "ContainerInspectResponse": (
        "Id Created Path Args State Image ResolvConfPath HostnamePath HostsPath LogPath Name RestartCount Driver "
        "Platform MountLabel ProcessLabel AppArmorProfile ExecIDs HostConfig GraphDriver Mounts Config NetworkSettings"
    ),
    "ContainerState": "Status Running Paused Restarting OOMKilled Dead Pid ExitCode Error StartedAt FinishedAt",
    "ContainerSummary": (
        "Id Names Image ImageID Command Created Ports Labels State Status HostConfig NetworkSettings Mounts"
    ),
    "NetworkSettings": "SandboxID Ports IPAddress Gateway MacAddress Networks",
    "ImageInspect": "Id RepoTags RepoDigests Created Config Architecture Os Size GraphDriver RootFS Metadata",
    "EventMessage": "Type Action Actor scope time timeNano",
    "Network": ("Name Id Created Scope Driver EnableIPv6 IPAM Internal Attachable Ingress Containers Options Labels"),
}


# Members that Docker leaves null when nobody set them, though the description gives them a type only.
_NULL_AS_WELL = {"MemorySwappiness"}


class SchemaMismatch(AssertionError):
    """A response that does not fit the description."""


@cache
def _description() -> dict[str, Any]:
    with _FILE.open() as file:
        loaded = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    assert isinstance(loaded, dict)
    return loaded


def definitions() -> dict[str, Any]:
    """The description's named types, as they are in the file."""
    result = _description()["definitions"]
    assert isinstance(result, dict)
    return result


def operations() -> list[tuple[str, str]]:
    """Every (method, path pattern) of the description."""
    return [
        (method.upper(), path)
        for path, methods in _description()["paths"].items()
        for method in methods
        if method != "parameters"
    ]


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    found = []
    for path in _description()["paths"]:
        regex = "".join(
            ("(?:.+)" if part == "{name}" else "[^/]+") if part.startswith("{") else re.escape(part)
            for part in re.split(r"(\{[a-z]+\})", path)
        )
        found.append((re.compile(regex), path))
    # Literal paths win over patterns: /containers/json is not a container named "json".
    return sorted(found, key=lambda item: ("{" in item[1], item[1].count("{")))


def operation_of(method: str, path: str) -> tuple[str, dict[str, Any]]:
    """The pattern and the description of a request's operation; SchemaMismatch when there is none."""
    plain = re.sub(r"^/v\d+\.\d+(?=/)", "", path.partition("?")[0])
    for regex, pattern in _patterns():
        if regex.fullmatch(plain):
            operation = _description()["paths"][pattern].get(method.lower())
            if operation is not None:
                return pattern, operation
    raise SchemaMismatch(f"{method} {plain} is not in the API description")


@cache
def _components() -> dict[str, Any]:
    return {name: _translated(schema, name) for name, schema in definitions().items()}


def _translated(schema: Any, name: str = "") -> Any:
    """Swagger 2.0 to JSON Schema."""
    if isinstance(schema, list):
        return [_translated(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        reference = {"$ref": schema["$ref"]}
        return {"anyOf": [{"type": "null"}, reference]} if schema.get("x-nullable") else reference
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "definitions"):
            result[key] = {member: _member(member, inner) for member, inner in value.items()}
        elif key in ("items", "additionalProperties", "allOf"):
            result[key] = _translated(value)
        elif key in ("type", "required", "enum", "minimum", "maximum", "pattern"):
            result[key] = value
    if name in EXPECTED:
        result["required"] = sorted({*result.get("required", ()), *EXPECTED[name].split()})
    # An enum of one empty object is how the file writes "an object without members" for sets.
    if schema.get("x-nullable"):
        return {"anyOf": [{"type": "null"}, result]}
    return result


def _member(name: str, schema: Any) -> Any:
    translated = _translated(schema)
    return {"anyOf": [{"type": "null"}, translated]} if name in _NULL_AS_WELL else translated


def _check(schema: Any, value: Any, where: str) -> None:
    whole = {**_translated(schema), "definitions": _components()}
    validator = jsonschema.Draft4Validator(whole)
    errors = sorted(validator.iter_errors(value), key=lambda error: list(map(str, error.path)))
    if errors:
        lines = [f"{'/'.join(map(str, error.path)) or '(top)'}: {error.message[:300]}" for error in errors[:10]]
        raise SchemaMismatch(f"{where} does not fit the API description:\n  " + "\n  ".join(lines))


def check_response(method: str, path: str, status: int, body: bytes, content_type: str = "application/json") -> None:
    """SchemaMismatch when this is no answer that the description allows. Raw streams are checked for status only."""
    where = f"{method} {path} -> {status}"
    if status in (404, 405) and not _known(method, path):
        _check({"$ref": "#/definitions/ErrorResponse"}, _json(body, where), where)
        return
    pattern, operation = operation_of(method, path)
    if status >= 400:
        if method != "HEAD":
            _check({"$ref": "#/definitions/ErrorResponse"}, _json(body, where), where)
        return
    responses = {str(code): response for code, response in operation["responses"].items()}
    listed = responses.get(str(status))
    if listed is None:
        if (method, pattern, status) in _UNLISTED_OK:
            return
        raise SchemaMismatch(f"{where}: the API description lists {sorted(responses)}")
    if status in (204, 304):
        if body:
            raise SchemaMismatch(f"{where} must have no body, it has {body[:100]!r}")
        return
    schema = listed.get("schema")
    if schema is None or "json" not in content_type or method == "HEAD":
        return
    if pattern == "/events":
        for line in body.splitlines():
            _check(schema, json.loads(line), where)
        return
    _check(schema, _json(body, where), where)


def _known(method: str, path: str) -> bool:
    try:
        operation_of(method, path)
    except SchemaMismatch:
        return False
    return True


def _json(body: bytes, where: str) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise SchemaMismatch(f"{where}: the body is not JSON: {body[:200]!r}") from error
