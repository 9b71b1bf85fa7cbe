"""Names and options of local volumes, checked with Docker's words. Pure.

The local driver's options are mount(8)'s: a volume is a directory of ours (no options), or a directory of the host's
that has a name (``type=none``, ``o=bind``, ``device=/path``). Neighbour: ``store.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from hyper.errors import InvalidArgument, Unsupported

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_LONGEST_NAME = 255
_KNOWN = frozenset({"device", "o", "size", "type"})
_NEEDS = {"device": ("type",), "o": ("device", "type"), "type": ("device",)}
_BIND_WORDS = frozenset({"bind", "rbind", "ro", "rw", "private", "rprivate", "slave", "rslave", "defaults"})


def check_name(name: str) -> None:
    """InvalidArgument for a name that Docker would refuse."""
    if len(name) == 1:
        raise InvalidArgument("volume name is too short, names should be at least two alphanumeric characters")
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )
    if len(name) > _LONGEST_NAME:
        raise InvalidArgument(f"create {name[:32]}…: the name is too long: at most {_LONGEST_NAME} characters")


def check_options(name: str, options: Mapping[str, str]) -> None:
    """InvalidArgument for what Docker's local driver would refuse, Unsupported for what only it can do."""
    for option in options:
        if option not in _KNOWN:
            raise InvalidArgument(f'create {name}: invalid option: "{option}"')
    if "size" in options:
        raise InvalidArgument(f"create {name}: quota size requested but no quota support")
    for option, others in _NEEDS.items():
        for other in others:
            if option in options and other not in options:
                raise InvalidArgument(f'create {name}: missing required option: "{other}"')
    if not options:
        return
    words = _words(options)
    if options["type"] not in ("none", "bind", "") or not words & {"bind", "rbind"}:
        raise Unsupported(
            f"create {name}: volumes of type {options['type']!r} are not there yet: a local volume is a directory of "
            "its own (no options) or one of the host's (type=none, o=bind, device=/path)"
        )
    if not options["device"].startswith("/"):
        raise InvalidArgument(f'create {name}: device "{options["device"]}" must be an absolute path')
    if unknown := sorted(words - _BIND_WORDS):
        raise Unsupported(f"create {name}: mount option {unknown[0]!r} of a bind is not there yet")


def device(options: Mapping[str, str]) -> Path | None:
    """The host's directory that this volume is a name of; None: it is one of ours."""
    return Path(options["device"]) if "device" in options else None


def is_readonly(options: Mapping[str, str]) -> bool:
    return "ro" in _words(options)


def _words(options: Mapping[str, str]) -> set[str]:
    return {word for word in options.get("o", "").split(",") if word}
