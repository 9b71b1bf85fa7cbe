"""``--change`` of ``docker import`` and ``docker commit``: Dockerfile instructions that alter an image's configuration.

The words and forms are those of the Dockerfile reference; what is not allowed there is refused with Docker's words.
Variables are not expanded: nothing defines any here but the instructions themselves. Neighbours: ``store.py``,
``hyper.oci.image_config``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from hyper.errors import InvalidArgument
from hyper.oci.image_config import ContainerConfig, Healthcheck

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")
_UNITS_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_SHELL = ["/bin/sh", "-c"]


def apply(config: ContainerConfig, changes: Sequence[str]) -> ContainerConfig:
    """The configuration with all changes applied, in order. InvalidArgument names the bad one."""
    for change in changes:
        for line in _lines(change):
            word, _, rest = line.partition(" ")
            instruction = _INSTRUCTIONS.get(word.upper())
            if instruction is None:
                raise InvalidArgument(f"{word.lower()[:50]} is not a valid change command")
            rest = rest.strip()
            if not rest:
                raise InvalidArgument(f"{word.upper()} requires at least one argument")
            config = instruction(config, rest)
    return config


def _lines(change: str) -> list[str]:
    joined = re.sub(r"\\[ \t]*\n", " ", change)
    return [line.strip() for line in joined.split("\n") if line.strip() and not line.lstrip().startswith("#")]


def _exec_form(text: str) -> list[str] | None:
    """A JSON array of strings; None when it is none (then it is the shell form, as Docker decides)."""
    if not text.startswith("["):
        return None
    try:
        return msgspec.json.decode(text.encode(), type=list[str])
    except (msgspec.DecodeError, RecursionError):
        return None


def _command(config: ContainerConfig, text: str) -> list[str]:
    words = _exec_form(text)
    return words if words is not None else [*(_shell(config)), text]


def _shell(config: ContainerConfig) -> list[str]:
    return config.shell if isinstance(config.shell, list) else _SHELL


def _cmd(config: ContainerConfig, text: str) -> ContainerConfig:
    return msgspec.structs.replace(config, cmd=_command(config, text))


def _entrypoint(config: ContainerConfig, text: str) -> ContainerConfig:
    # A new entry point without its own arguments must not get those meant for the old one.
    return msgspec.structs.replace(
        config, entrypoint=_command(config, text), cmd=config.cmd if config.entrypoint is None else None
    )


def _env(config: ContainerConfig, text: str) -> ContainerConfig:
    variables = dict(item.partition("=")[::2] for item in config.env or ())
    variables.update(_pairs(text, "ENV"))
    return msgspec.structs.replace(config, env=[f"{name}={value}" for name, value in variables.items()])


def _label(config: ContainerConfig, text: str) -> ContainerConfig:
    return msgspec.structs.replace(config, labels={**(config.labels or {}), **_pairs(text, "LABEL")})


def _expose(config: ContainerConfig, text: str) -> ContainerConfig:
    ports = dict(config.exposed_ports or {})
    for word in _words(text, "EXPOSE"):
        match = _PORT.fullmatch(word.lower())
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else 0
        if match is None or not 0 < first <= last < 65536:
            raise InvalidArgument(f"invalid containerPort: {word[:50]}")
        for port in range(first, last + 1):
            ports[f"{port}/{match[3] or 'tcp'}"] = {}
    return msgspec.structs.replace(config, exposed_ports=ports)


def _volume(config: ContainerConfig, text: str) -> ContainerConfig:
    paths = _exec_form(text)
    volumes = dict(config.volumes or {})
    for path in paths if paths is not None else _words(text, "VOLUME"):
        if not path.strip():
            raise InvalidArgument("VOLUME specified can not be an empty string")
        volumes[path.strip()] = {}
    return msgspec.structs.replace(config, volumes=volumes)


def _user(config: ContainerConfig, text: str) -> ContainerConfig:
    return msgspec.structs.replace(config, user=_one(text, "USER"))


def _workdir(config: ContainerConfig, text: str) -> ContainerConfig:
    path = _one(text, "WORKDIR")
    if not path.startswith("/"):
        path = f"{config.working_dir or ''}/{path}"
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return msgspec.structs.replace(config, working_dir="/" + "/".join(parts))


def _stop_signal(config: ContainerConfig, text: str) -> ContainerConfig:
    signal = _one(text, "STOPSIGNAL")
    if not re.fullmatch(r"(SIG)?[A-Z][A-Z0-9+-]{0,10}|[1-9]\d?", signal.upper()):
        raise InvalidArgument(f"Invalid signal: {signal[:50]}")
    return msgspec.structs.replace(config, stop_signal=signal)


def _on_build(config: ContainerConfig, text: str) -> ContainerConfig:
    trigger = text.partition(" ")[0].upper()
    if trigger == "ONBUILD":
        raise InvalidArgument("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise InvalidArgument(f"{trigger} isn't allowed as an ONBUILD trigger")
    return msgspec.structs.replace(config, on_build=[*(config.on_build or ()), text])


def _healthcheck(config: ContainerConfig, text: str) -> ContainerConfig:
    if text.upper() == "NONE":
        return msgspec.structs.replace(config, healthcheck=Healthcheck(test=["NONE"]))
    options: dict[str, int] = {}
    while text.startswith("--"):
        option, _, text = text.partition(" ")
        name, _, value = option[2:].partition("=")
        text = text.strip()
        if name == "retries" and value.isdigit():
            options["retries"] = int(value)
        elif name in ("interval", "timeout", "start-period", "start-interval"):
            options[name.replace("-", "_")] = _duration_ns(value)
        else:
            raise InvalidArgument(f"Unknown flag or value: {option[:50]}")
    word, _, command = text.partition(" ")
    if word.upper() != "CMD" or not command.strip():
        raise InvalidArgument(f"Unknown type {word[:50]!r} in HEALTHCHECK (try CMD)")
    words = _exec_form(command.strip())
    test = ["CMD", *words] if words is not None else ["CMD-SHELL", command.strip()]
    return msgspec.structs.replace(config, healthcheck=Healthcheck(test=test, **options))


def _duration_ns(text: str) -> int:
    parts = list(_DURATION.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        raise InvalidArgument(f"invalid duration {text[:50]!r}; write for instance 30s or 1m30s")
    return int(sum(float(part[1]) * _UNITS_NS[part[2]] for part in parts))


def _one(text: str, instruction: str) -> str:
    words = _words(text, instruction)
    if len(words) != 1:
        raise InvalidArgument(f"{instruction} requires exactly one argument")
    return words[0]


def _pairs(text: str, instruction: str) -> dict[str, str]:
    words = _words(text, instruction)
    if "=" not in words[0]:  # the old form: the name, then all the rest is the value
        name, _, value = text.partition(" ")
        if not value.strip():
            raise InvalidArgument(f"{instruction} must have two arguments")
        return {name: value.strip()}
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InvalidArgument(f"Syntax error - can't find = in {word[:50]!r}. Must be of the form: name=value")
        if not name:
            raise InvalidArgument(f"{instruction} names can not be blank")
        pairs[name] = value
    return pairs


def _words(text: str, instruction: str) -> list[str]:
    """Words separated by blanks, quotes and backslashes as in a Dockerfile."""
    words: list[str] = []
    word: list[str] = []
    inside = False
    quote = ""
    characters = iter(text)
    for character in characters:
        if not quote and character in " \t":
            if inside:
                words.append("".join(word))
            word, inside = [], False
            continue
        inside = True
        if character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        elif character == "\\" and quote != "'":
            following = next(characters, "")
            word.append(following if not quote or following in '"\\$' else "\\" + following)
        else:
            word.append(character)
    if quote:
        raise InvalidArgument(f"{instruction}: a quote is not closed in {text[:100]!r}")
    if inside:
        words.append("".join(word))
    return words


_INSTRUCTIONS: dict[str, Callable[[ContainerConfig, str], ContainerConfig]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
