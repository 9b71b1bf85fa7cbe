"""Every setting of the daemon, declared once: name, type, default, help, and where it may come from.

A setting comes from, in this order: a flag of ``hyperd``, an environment variable (``HYPER_…``), ``daemon.json``, its
default. Flags and keys have dockerd's names where dockerd has them; keys of ours stand in the file's ``"hyper"``
object. As with dockerd, a setting that is given both as a flag and in the file is refused, and so is a key that nobody
knows. Only the standard library's light modules are imported here: this runs before anything else.

Neighbours: ``hyper.daemon.main`` calls :func:`load`; parts get the values they need, never the whole.
"""

# ruff: noqa: RUF009 - the calls in the dataclass body make its fields
from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from hyper.errors import InvalidArgument

DEFAULT_DATA_ROOT = Path("/var/lib/hyper")
DEFAULT_EXEC_ROOT = Path("/run/hyper")
DEFAULT_CONFIG_FILE = Path("/etc/hyper/daemon.json")
OUR_OBJECT = "hyper"
"""Keys of daemon.json that Docker does not have stand in this object."""

_MAX_FILE_BYTES = 1 << 20
_LEAST_MEMORY_BYTES = 6 << 20
"""Docker's own minimum of a container's memory."""
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True)
class Source:
    """Where one setting may come from and how it is read. ``key`` is dotted for keys of ours: ``hyper.kernel``."""

    parse: Callable[[object], object]
    help: str
    key: str
    flags: tuple[str, ...]
    env: str
    metavar: str
    many: bool

    @property
    def is_switch(self) -> bool:
        return self.parse is _boolean


# -- values: each takes what JSON or a command line gives and returns the value, or raises ValueError saying what it
# should be


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be a text that is not empty")
    return value


def _path(value: object) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("1", "true", "yes", "on"):
        return True
    if isinstance(value, str) and value.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("must be true or false")


def size_bytes(value: object) -> int:
    """``512m`` as Docker writes sizes (b, k, m, g, t; powers of 1,024), or a whole number of bytes. ValueError
    otherwise."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        text = _text(value).lower().removesuffix("ib") if isinstance(value, str) else ""
        number = text.rstrip("bkmgt")
        unit = text[len(number) :]
        unit = unit.removesuffix("b") if len(unit) == 2 else unit
        if not number.isascii() or not number.replace(".", "", 1).isdigit() or unit not in _UNITS:
            raise ValueError("must be a size such as 512m or 2g")
        size = int(float(number) * _UNITS[unit])
    if not 0 < size < 1 << 62:
        raise ValueError("must be a size above zero")
    return size


def _memory(value: object) -> int:
    size = size_bytes(value)
    if size < _LEAST_MEMORY_BYTES:
        raise ValueError("must be 6m or more")
    return size


def _url(value: object) -> str:
    text = _text(value)
    if not text.startswith(("http://", "https://")) or len(text.partition("://")[2]) < 1:
        raise ValueError("must be a URL such as https://mirror.example")
    return text


def _cpus(value: object) -> float:
    try:
        cpus = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else 0.0
    except ValueError:
        cpus = 0.0
    if not 0.01 <= cpus <= 1024:
        raise ValueError("must be a number of processors, from 0.01 to 1024")
    return cpus


def _seconds(value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else 0.0
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise ValueError("must be a number of seconds, from 1 to 3600")
    return seconds


def _count(value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()) or int(text) > 4096:
        raise ValueError("must be a whole number from 0 to 4096")
    return int(text)


def _at_least_one(value: object) -> int:
    number = _count(value)
    if not number:
        raise ValueError("must be a whole number from 1 to 4096")
    return number


def _registry(value: object) -> str:
    """A host with or without a port, or a subnet."""
    text = _text(value)
    if "://" in text:
        raise ValueError("must be host, host:port or a subnet, without http:// or https://")
    if not text.isascii() or any(character.isspace() for character in text) or text.endswith("/"):
        raise ValueError("must be host, host:port or a subnet such as 10.0.0.0/8")
    return text


def _mtu(value: object) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, str))
        or not str(value).isascii()
        or not str(value).isdigit()
    ):
        raise ValueError("must be a whole number of bytes")
    if not 576 <= int(value) <= 65535:
        raise ValueError("must be from 576 to 65535 bytes")
    return int(value)


def _uid_range(value: object) -> tuple[int, int]:
    first, dash, last = _text(value).partition("-")
    if not dash or not all(part.isascii() and part.isdigit() for part in (first, last)):
        raise ValueError("must be a range of user ids such as 2000000-2009999")
    low, high = int(first), int(last)
    if not 1000 <= low < high < 1 << 31 or high - low < 99:
        raise ValueError("must go from 1000 or above to below 2147483648 and have 100 user ids or more")
    return low, high


def _choice(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError("must be one of " + ", ".join(choices))
        return str(value)

    return parse


def _interface_name(value: object) -> str:
    name = _text(value)
    if len(name) > 15 or not name[0].isalnum() or not all(c.isascii() and (c.isalnum() or c in "_.-") for c in name):
        raise ValueError("must be 1 to 15 letters, digits, '_', '.' and '-', a letter or digit first")
    return name


def _setting(
    default: object,
    parse: Callable[[object], object],
    help: str,
    *,
    key: str = "",
    flags: tuple[str, ...] = (),
    env: str = "",
    metavar: str = "VALUE",
    many: bool = False,
) -> Any:
    return field(default=default, metadata={"source": Source(parse, help, key, flags, env, metavar, many)})


@dataclass(frozen=True)
class Settings:
    """The daemon's settings, all checked. Docker's names for Docker's things."""

    hosts: tuple[str, ...] = _setting(
        (), _text, "socket to serve the API on, such as unix:///run/hyper/hyper.sock; may be repeated",
        key="hosts", flags=("-H", "--host"), env="HYPER_HOSTS", metavar="ADDRESS", many=True,
    )  # fmt: skip
    data_root: Path = _setting(
        DEFAULT_DATA_ROOT, _path, "folder of images, containers and records",
        key="data-root", flags=("--data-root",), env="HYPER_DATA_ROOT", metavar="FOLDER",
    )  # fmt: skip
    exec_root: Path = _setting(
        DEFAULT_EXEC_ROOT, _path, "folder of what lives until the next boot: sockets, pid files",
        key="exec-root", flags=("--exec-root",), env="HYPER_EXEC_ROOT", metavar="FOLDER",
    )  # fmt: skip
    pidfile: Path | None = _setting(
        None, _path, "file with hyperd's process id (default: hyperd.pid in the exec root)",
        key="pidfile", flags=("-p", "--pidfile"), env="HYPER_PIDFILE", metavar="FILE",
    )  # fmt: skip
    config_file: Path = _setting(
        DEFAULT_CONFIG_FILE, _path, "configuration file with Docker's keys, Hyper's own in its \"hyper\" object",
        flags=("--config-file",), env="HYPER_CONFIG_FILE", metavar="FILE",
    )  # fmt: skip
    debug: bool = _setting(
        False, _boolean, "log everything; the same as --log-level debug",
        key="debug", flags=("-D", "--debug"), env="HYPER_DEBUG",
    )  # fmt: skip
    log_level: str = _setting(
        "info", _choice("debug", "info", "warn", "error", "fatal"),
        "least level to log: debug, info, warn, error or fatal",
        key="log-level", flags=("-l", "--log-level"), env="HYPER_LOG_LEVEL", metavar="LEVEL",
    )  # fmt: skip
    log_format: str = _setting(
        "text", _choice("text", "json"), "form of the log's lines: text (key=value) or json",
        key="log-format", flags=("--log-format",), env="HYPER_LOG_FORMAT", metavar="FORMAT",
    )  # fmt: skip
    group: str | None = _setting(
        None, _text, "group that may use the unix sockets (default: hyper if there is one, else root)",
        key="group", flags=("-G", "--group"), env="HYPER_GROUP", metavar="GROUP",
    )  # fmt: skip
    live_restore: bool = _setting(
        False, _boolean, "leave containers running when hyperd is told to stop (a crash never stops them)",
        key="live-restore", flags=("--live-restore",), env="HYPER_LIVE_RESTORE",
    )  # fmt: skip
    registry_mirrors: tuple[str, ...] = _setting(
        (), _url, "mirror of Docker Hub to pull from first; may be repeated",
        key="registry-mirrors", flags=("--registry-mirror",), metavar="URL", many=True,
    )  # fmt: skip
    insecure_registries: tuple[str, ...] = _setting(
        (), _registry, "registry (host:port or subnet) to speak plain HTTP or unverified TLS with; may be repeated",
        key="insecure-registries", flags=("--insecure-registry",), metavar="REGISTRY", many=True,
    )  # fmt: skip
    max_concurrent_downloads: int = _setting(
        3, _at_least_one, "layers to pull at the same time",
        key="max-concurrent-downloads", flags=("--max-concurrent-downloads",), metavar="NUMBER",
    )  # fmt: skip
    max_concurrent_uploads: int = _setting(
        5, _at_least_one, "layers to push at the same time",
        key="max-concurrent-uploads", flags=("--max-concurrent-uploads",), metavar="NUMBER",
    )  # fmt: skip
    max_download_attempts: int = _setting(
        5, _at_least_one, "how often a request to a registry is tried while it brings nothing",
        key="max-download-attempts", flags=("--max-download-attempts",), metavar="NUMBER",
    )  # fmt: skip
    registry_certs: tuple[Path, ...] = _setting(
        (Path("/etc/hyper/certs.d"), Path("/etc/docker/certs.d")), _path,
        "folder of certificates, in it one HOST:PORT for each registry with *.crt, *.cert and *.key; may be repeated",
        key="hyper.registry-certs", flags=("--registry-certs",), env="HYPER_REGISTRY_CERTS",
        metavar="FOLDER", many=True,
    )  # fmt: skip
    bip: str = _setting(
        "172.29.0.1/16", _text, "address of the containers' bridge, with the subnet's prefix length",
        key="bip", flags=("--bip",), env="HYPER_BIP", metavar="ADDRESS/PREFIX",
    )  # fmt: skip
    mtu: int = _setting(
        1500, _mtu, "largest packet in the containers' network, in bytes",
        key="mtu", flags=("--mtu",), env="HYPER_MTU", metavar="BYTES",
    )  # fmt: skip
    bridge_name: str | None = _setting(
        None, _interface_name, "name of the containers' bridge (default: hyper0; another data root has one of its own)",
        key="hyper.bridge-name", flags=("--bridge-name",), env="HYPER_BRIDGE_NAME", metavar="NAME",
    )  # fmt: skip
    kernel: Path | None = _setting(
        None, _path, "guest kernel (vmlinux or bzImage) to use instead of one that hyperd finds",
        key="hyper.kernel", flags=("--kernel",), env="HYPER_KERNEL", metavar="FILE",
    )  # fmt: skip
    agent: Path | None = _setting(
        None, _path, "guest agent to use instead of the installed one",
        key="hyper.agent", flags=("--agent",), env="HYPER_AGENT", metavar="FILE",
    )  # fmt: skip
    qemu: Path | None = _setting(
        None, _path, "QEMU program to use instead of the one on PATH",
        key="hyper.qemu", flags=("--qemu",), env="HYPER_QEMU", metavar="FILE",
    )  # fmt: skip
    accel: str = _setting(
        "auto", _choice("auto", "kvm", "tcg"), "how guests run: auto (KVM where it works), kvm, or tcg (emulated)",
        key="hyper.accel", flags=("--accel",), env="HYPER_ACCEL", metavar="KIND",
    )  # fmt: skip
    kvm_timeout_s: float = _setting(
        5.0, _seconds, "how long the first guest may take to boot with KVM until KVM counts as not working, in seconds",
        key="hyper.kvm-timeout", flags=("--kvm-timeout",), env="HYPER_KVM_TIMEOUT", metavar="SECONDS",
    )  # fmt: skip
    default_memory_bytes: int = _setting(
        2 << 30, _memory, "memory that a container without --memory may use, such as 2g",
        key="hyper.default-memory", flags=("--default-memory",), env="HYPER_DEFAULT_MEMORY", metavar="SIZE",
    )  # fmt: skip
    default_cpus: float | None = _setting(
        None, _cpus, "processors that a container without --cpus may use (default: all of the host's with KVM, else 1)",
        key="hyper.default-cpus", flags=("--default-cpus",), env="HYPER_DEFAULT_CPUS", metavar="NUMBER",
    )  # fmt: skip
    templates: bool = _setting(
        True, _boolean, "start VMs as clones of one that was booted before; false boots each",
        key="hyper.templates", flags=("--templates",), env="HYPER_TEMPLATES",
    )  # fmt: skip
    pool_size: int | None = _setting(
        None, _count, "clones kept ready for the next containers, 0 for none (default: by memory, at most 8)",
        key="hyper.pool-size", flags=("--pool-size",), env="HYPER_POOL_SIZE", metavar="NUMBER",
    )  # fmt: skip
    shared_pool_size: int = _setting(
        0, _count, "the same for containers with shared directories, whose VMs' memory must be open to who serves them",
        key="hyper.shared-pool-size", flags=("--shared-pool-size",), env="HYPER_SHARED_POOL_SIZE", metavar="NUMBER",
    )  # fmt: skip
    rootfs_size_bytes: int = _setting(
        10 << 30, size_bytes, "most that a container may write to its root file system, such as 10g",
        key="hyper.rootfs-size", flags=("--rootfs-size",), env="HYPER_ROOTFS_SIZE", metavar="SIZE",
    )  # fmt: skip
    vmm_uid_range: tuple[int, int] = _setting(
        (1_900_000_000, 1_900_065_535), _uid_range,
        "user ids for the VMs' processes, one each, clear of /etc/subuid's; both ends belong to it",
        key="hyper.vmm-uid-range", flags=("--vmm-uid-range",), env="HYPER_VMM_UID_RANGE", metavar="FIRST-LAST",
    )  # fmt: skip

    @property
    def api_hosts(self) -> tuple[str, ...]:
        """The addresses to listen on: ``hosts``, or ``hyper.sock`` in the exec root."""
        return self.hosts or (f"unix://{self.exec_root / 'hyper.sock'}",)

    @property
    def pid_path(self) -> Path:
        return self.pidfile or self.exec_root / "hyperd.pid"

    @property
    def effective_log_level(self) -> str:
        return "debug" if self.debug else self.log_level

    def bridge_for(self, root_id: str) -> str:
        """The bridge's name: as configured, else ``hyper0`` for the default data root and one of its own for every
        other."""
        return self.bridge_name or ("hyper0" if self.data_root == DEFAULT_DATA_ROOT else f"hyper-{root_id[:8]}")


def sources() -> dict[str, Source]:
    """Every setting by its attribute's name, in the order of declaration; for help, docs and ``hyper info``."""
    return {one.name: one.metadata["source"] for one in fields(Settings)}


def load(
    argv: Sequence[str],
    environ: Mapping[str, str] | None = None,
    *,
    program: str = "hyperd",
    version: str = "",
) -> Settings:
    """The settings of a daemon started with these arguments. ``--help`` and ``--version`` print and exit.

    InvalidArgument names the flag, variable or key that is wrong, and what it should be.
    """
    environ = os.environ if environ is None else environ
    from_flags = _read_flags(argv, program, version)
    from_env = _read_environment(environ)
    config_file = from_flags.get("config_file", from_env.get("config_file"))
    from_file, keys_in_file = _read_file(
        Path(str(config_file or DEFAULT_CONFIG_FILE)), required=config_file is not None
    )
    _refuse_conflicts(from_flags, from_file, keys_in_file)
    return Settings(**{**from_file, **from_env, **from_flags})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidArgument(f"{message}\nSee '{self.prog} --help'.")


def _read_flags(argv: Sequence[str], program: str, version: str) -> dict[str, Any]:
    parser = _Parser(
        prog=program,
        description="The Hyper daemon: runs Docker images, each in a virtual machine of its own.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    if version:
        parser.add_argument("-v", "--version", action="version", version=version)
    for name, source in sources().items():
        text = source.help.replace("%", "%%")
        if source.is_switch:
            # As Go's flags do: --debug alone, or --debug=false.
            parser.add_argument(*source.flags, dest=name, nargs="?", const="true", metavar="BOOL", help=text)
        elif source.many:
            parser.add_argument(*source.flags, dest=name, action="append", metavar=source.metavar, help=text)
        else:
            parser.add_argument(*source.flags, dest=name, metavar=source.metavar, help=text)
    given = vars(parser.parse_args(list(argv)))
    return {name: _value(sources()[name], raw, f"flag {sources()[name].flags[-1]}") for name, raw in given.items()}


def _read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for name, source in sources().items():
        raw = environ.get(source.env, "") if source.env else ""
        if raw:
            listed = [part.strip() for part in raw.split(",") if part.strip()] if source.many else raw
            values[name] = _value(source, listed, f"environment variable {source.env}")
    return values


def _read_file(path: Path, *, required: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Values, and each one's key. A missing file is no error unless somebody asked for it."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        if required:
            raise InvalidArgument(f"the configuration file {path} does not exist") from error
        return {}, {}
    except OSError as error:
        raise InvalidArgument(f"the configuration file {path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_FILE_BYTES:
        raise InvalidArgument(f"the configuration file {path} is longer than {_MAX_FILE_BYTES} bytes")
    try:
        document = json.loads(content) if content.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the configuration file {path} is not valid JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get(OUR_OBJECT, {}), dict):
        where = f'"{OUR_OBJECT}" in it' if isinstance(document, dict) else "it"
        raise InvalidArgument(f"the configuration file {path}: {where} must be a JSON object")
    flat = {key: value for key, value in document.items() if key != OUR_OBJECT}
    flat |= {f"{OUR_OBJECT}.{key}": value for key, value in document.get(OUR_OBJECT, {}).items()}
    by_key = {source.key: name for name, source in sources().items() if source.key}
    unknown = [key for key in flat if key not in by_key]
    if unknown:
        described = ", ".join(_unknown_key(key, list(by_key)) for key in unknown)
        raise InvalidArgument(f"{path}: the following directives don't match any configuration option: {described}")
    values = {by_key[key]: _value(sources()[by_key[key]], raw, f"{path}: {key}") for key, raw in flat.items()}
    return values, {by_key[key]: key for key in flat}


def _refuse_conflicts(from_flags: Mapping[str, Any], from_file: Mapping[str, Any], keys: Mapping[str, str]) -> None:
    both = [
        f"{keys[name]}: (from flag: {_shown(from_flags[name])}, from file: {_shown(from_file[name])})"
        for name in from_flags
        if name in from_file
    ]
    if both:
        raise InvalidArgument(
            "the following directives are specified both as a flag and in the configuration file: " + ", ".join(both)
        )


def _value(source: Source, raw: object, where: str) -> object:
    try:
        if not source.many:
            return source.parse(raw)
        if not isinstance(raw, list):
            raise ValueError("must be a list")
        return tuple(source.parse(one) for one in raw)
    except ValueError as error:
        raise InvalidArgument(f"{where}: {raw!r} {error}") from error


def _unknown_key(key: str, known: Sequence[str]) -> str:
    import difflib

    bare = {known_key.rpartition(".")[2]: known_key for known_key in known}
    near = difflib.get_close_matches(key.rpartition(".")[2], bare, n=1, cutoff=0.7)
    if not near:
        return key
    name, dot, inner = bare[near[0]].partition(".")
    place = f'"{inner}" in the "{name}" object' if dot else f'"{name}"'
    return f"{key} (did you mean {place}?)"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{' '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
