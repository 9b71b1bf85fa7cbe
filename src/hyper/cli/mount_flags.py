"""``--volume`` and ``--mount`` of ``run`` and ``create``, as the API's create body has them. Pure: the working
directory is given."""

from __future__ import annotations

import csv
import posixpath
from collections.abc import Sequence

from hyper.cli.human import parse_size
from hyper.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PLAIN = {
    "type": "Type",
    "source": "Source",
    "src": "Source",
    "target": "Target",
    "destination": "Target",
    "dst": "Target",
    "consistency": "Consistency",
}
_TRUE, _FALSE = ("1", "true"), ("0", "false")


def volumes(texts: Sequence[str], folder: str) -> tuple[dict[str, Any], list[str]]:
    """``Volumes`` (a path alone: an anonymous volume) and ``Binds``, whose relative sources are made absolute."""
    anonymous: dict[str, Any] = {}
    binds = []
    for text in texts:
        source, colon, rest = text.partition(":")
        if not colon:
            anonymous[text] = {}
        elif source.startswith(("./", "../")) or source in (".", ".."):
            binds.append(f"{posixpath.normpath(posixpath.join(folder, source))}:{rest}")
        else:
            binds.append(text)
    return anonymous, binds


def mount(text: str, folder: str) -> dict[str, Any]:
    """``type=volume,source=data,target=/data,readonly``, fields quoted as in CSV."""
    fields: dict[str, Any] = {"Type": "volume"}
    options: dict[str, dict[str, Any]] = {"BindOptions": {}, "VolumeOptions": {}, "TmpfsOptions": {}}
    for part in next(csv.reader([text]), []):
        key, equals, setting = part.partition("=")
        key = key.strip().lower()
        if (name := _PLAIN.get(key)) is not None:
            fields[name] = setting.lower() if name == "Type" else setting
        elif key in ("readonly", "ro"):
            fields["ReadOnly"] = _truth(text, key, equals, setting)
        elif not _option(options, text, key, equals, setting):
            raise InvalidArgument(f"--mount {text!r}: {key!r} is not known (see docker run --mount)")
    if not fields.get("Target"):
        raise InvalidArgument(f"--mount {text!r} has no target: write target=/path/in/the/container")
    if fields["Type"] == "bind" and fields.get("Source", "").startswith("."):
        fields["Source"] = posixpath.normpath(posixpath.join(folder, fields["Source"]))
    return fields | {name: given for name, given in options.items() if given}


def _option(options: dict[str, dict[str, Any]], text: str, key: str, equals: str, setting: str) -> bool:
    bind, volume, tmpfs = options["BindOptions"], options["VolumeOptions"], options["TmpfsOptions"]
    driver = volume.get("DriverConfig", {})
    match key:
        case "bind-propagation":
            bind["Propagation"] = setting.lower()
        case "bind-nonrecursive":
            bind["NonRecursive"] = _truth(text, key, equals, setting)
        case "bind-recursive" if setting in ("enabled", "disabled", "writable", "readonly"):
            if setting == "disabled":
                bind["NonRecursive"] = True
            elif setting == "writable":
                bind["ReadOnlyNonRecursive"] = True
            elif setting == "readonly":
                bind["ReadOnlyForceRecursive"] = True
        case "volume-nocopy":
            volume["NoCopy"] = _truth(text, key, equals, setting)
        case "volume-subpath":
            volume["Subpath"] = setting
        case "volume-label":
            name, _, label = setting.partition("=")
            volume.setdefault("Labels", {})[name] = label
        case "volume-driver":
            volume["DriverConfig"] = driver | {"Name": setting}
        case "volume-opt":
            name, _, value = setting.partition("=")
            volume["DriverConfig"] = driver | {"Options": driver.get("Options", {}) | {name: value}}
        case "tmpfs-size":
            tmpfs["SizeBytes"] = parse_size(setting, "tmpfs-size")
        case "tmpfs-mode" if setting and all(digit in "01234567" for digit in setting):
            tmpfs["Mode"] = int(setting, 8)
        case _:
            return False
    return True


def _truth(text: str, key: str, equals: str, setting: str) -> bool:
    if equals and setting.lower() not in (*_TRUE, *_FALSE):
        raise InvalidArgument(f"--mount {text!r}: {key} is true or false, not {setting!r}")
    return not equals or setting.lower() in _TRUE
