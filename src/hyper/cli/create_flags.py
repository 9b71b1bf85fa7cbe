"""The flags of ``run`` and ``create``, and the API's create body that they mean. Pure: what it needs of the machine
is given.

A flag that the engine does not know how to carry out is passed on all the same: the engine refuses it and says why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from hyper.cli import mount_flags
from hyper.cli.flags import Flag, Parsed, UsageError, many, switch, value
from hyper.cli.human import parse_duration, parse_size
from hyper.cli.isolation_flags import ISOLATION_FLAGS, host_config
from hyper.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIMIT_FLAGS: tuple[Flag, ...] = (
    value("-c --cpu-shares", "CPU shares (relative weight)", metavar="int"),
    value("--cpu-period", "CPU quota's period in microseconds", metavar="int"),
    value("--cpu-quota", "CPU quota in microseconds", metavar="int"),
    value("--cpus", "Number of CPUs", metavar="decimal"),
    value("--cpuset-cpus", "CPUs that may be used (0-3, 0,1)"),
    value("-m --memory", "Memory limit (512m, 2g)", metavar="bytes"),
    value("--memory-reservation", "Soft memory limit", metavar="bytes"),
    value("--memory-swap", "Memory and swap together; -1 for unlimited swap", metavar="bytes"),
    value("--pids-limit", "Most processes; -1 for no limit", metavar="int"),
)
"""Those that `update` has, too."""

CREATE_FLAGS: tuple[Flag, ...] = (
    *LIMIT_FLAGS,
    *ISOLATION_FLAGS,
    many("--add-host", "Add a line to /etc/hosts (name:address)"),
    many("--annotation", "Add an annotation to the container"),
    many("-a --attach", "Attach to stdin, stdout or stderr"),
    many("--cap-add", "Add a Linux capability"),
    many("--cap-drop", "Drop a Linux capability"),
    value("--cidfile", "Write the container's ID to this file", metavar="file"),
    many("--dns", "Use these name servers"),
    many("--dns-opt --dns-option", "Use these resolver options"),
    many("--dns-search", "Use these search domains"),
    value("--domainname", "The container's NIS domain name"),
    value("--entrypoint", "Use instead of the image's entrypoint"),
    many("-e --env", "Set an environment variable (A=1, or A for this shell's)"),
    many("--env-file", "Read environment variables from a file", metavar="file"),
    many("--expose", "Expose a port without publishing it"),
    many("--group-add", "Join additional groups"),
    value("--health-cmd", "Command that tells whether the container is well", metavar="command"),
    value("--health-interval", "Time between two checks (30s)", metavar="duration"),
    value("--health-retries", "Failures in a row that make it unhealthy (3)", metavar="int"),
    value("--health-start-interval", "Time between two checks of the start period (5s)", metavar="duration"),
    value("--health-start-period", "Time to start in, in which failures do not count", metavar="duration"),
    value("--health-timeout", "Longest time of a check (30s)", metavar="duration"),
    value("-h --hostname", "The container's host name"),
    switch("--init", "Run a small init that reaps processes and forwards signals"),
    switch("-i --interactive", "Keep stdin open even if nobody is attached"),
    many("-l --label", "Set a label (key=value)"),
    many("--label-file", "Read labels from a file", metavar="file"),
    value("--log-driver", "Logging driver"),
    many("--log-opt", "Logging driver's options"),
    value("--mac-address", "The container's MAC address"),
    many("--mount", "Mount a volume or a folder"),
    value("--name", "Name the container"),
    switch("--no-healthcheck", "Do not check the container's health, whatever its image says"),
    value("--net --network", "bridge, none or container:NAME", metavar="network"),
    switch("--oom-kill-disable", "Do not kill the container's processes when memory runs out"),
    value("--oom-score-adj", "Preference of the OOM killer (-1000 to 1000)", metavar="int"),
    value("--platform", "The image's platform"),
    switch("--privileged", "Give all capabilities and devices (inside of its VM)"),
    many("-p --publish", "Publish a port ([[address:]port:]port[/protocol])"),
    switch("-P --publish-all", "Publish all exposed ports to random ports"),
    value("--pull", "When to pull the image (always, missing, never)", default="missing"),
    switch("-q --quiet", "Say nothing about pulling"),
    switch("--read-only", "Mount the root filesystem read-only"),
    value("--restart", "Restart policy (no, on-failure[:count], always, unless-stopped)", default="no"),
    switch("--rm", "Remove the container when it exits"),
    many("--security-opt", "Security options"),
    value("--shm-size", "Size of /dev/shm", metavar="bytes"),
    value("--stop-signal", "Signal that stops the container"),
    value("--stop-timeout", "Seconds before a stop becomes a kill", metavar="int"),
    many("--sysctl", "Set a kernel parameter (key=value)"),
    many("--tmpfs", "Mount a tmpfs (path[:options])"),
    switch("-t --tty", "Give the process a terminal"),
    many("--ulimit", "Set a resource limit (name=soft[:hard])"),
    value("-u --user", "User or UID, and group (name|uid[:group|gid])"),
    many("-v --volume", "Mount a volume or a folder"),
    value("--volume-driver", "Driver of the volumes that are made"),
    many("--volumes-from", "Mount what another container has (container[:ro])"),
    value("-w --workdir", "Working directory inside of the container"),
)


def create_body(
    parsed: Parsed,
    *,
    environment: Mapping[str, str],
    read_file: Callable[[str], str],
    attach: bool,
    console_size: tuple[int, int] = (0, 0),
) -> dict[str, Any]:
    """The body of ``POST /containers/create``. ``attach``: the streams will be attached (a run that is not
    detached)."""
    image, *command = parsed.arguments
    exposed, bindings = ports(parsed.list("publish"), parsed.list("expose"))
    streams = {stream.lower() for stream in parsed.list("attach")}
    if unknown := streams - {"stdin", "stdout", "stderr"}:
        raise UsageError(f"--attach wants stdin, stdout or stderr, not {unknown.pop()!r}")
    stdin = parsed.on("interactive")
    if attach and not streams:
        streams = {"stdout", "stderr"} | ({"stdin"} if stdin else set())
    body: dict[str, Any] = {
        "Image": image,
        "Hostname": parsed.value("hostname"),
        "Domainname": parsed.value("domainname"),
        "User": parsed.value("user"),
        "AttachStdin": "stdin" in streams,
        "AttachStdout": "stdout" in streams,
        "AttachStderr": "stderr" in streams,
        "Tty": parsed.on("tty"),
        "OpenStdin": stdin,
        "StdinOnce": stdin and "stdin" in streams,
        "Env": variables(parsed.list("env"), parsed.list("env-file"), environment, read_file),
        "Labels": pairs(_with_files(parsed.list("label"), parsed.list("label-file"), read_file), "--label"),
        "WorkingDir": parsed.value("workdir"),
        "ExposedPorts": {port: {} for port in exposed},
        "HostConfig": _host_config(parsed, bindings, console_size) | host_config(parsed, read_file),
    }
    if (check := _health_check(parsed)) is not None:
        body["Healthcheck"] = check
    if command:
        body["Cmd"] = command
    if anonymous := mount_flags.volumes(parsed.list("volume"), "/")[0]:
        body["Volumes"] = anonymous
    if parsed.given("entrypoint"):
        entrypoint = parsed.value("entrypoint")
        body["Entrypoint"] = [entrypoint] if entrypoint else [""]
    if parsed.given("stop-signal"):
        body["StopSignal"] = parsed.value("stop-signal")
    if (timeout := parsed.integer("stop-timeout")) is not None:
        body["StopTimeout"] = timeout
    if mac := parsed.value("mac-address"):
        body["MacAddress"] = mac
    return body


def _health_check(parsed: Parsed) -> dict[str, Any] | None:
    command = parsed.value("health-cmd")
    members: dict[str, object] = {
        "Test": ["CMD-SHELL", command] if command else [],
        "Interval": _nanoseconds(parsed, "health-interval"),
        "Timeout": _nanoseconds(parsed, "health-timeout"),
        "StartPeriod": _nanoseconds(parsed, "health-start-period"),
        "StartInterval": _nanoseconds(parsed, "health-start-interval"),
        "Retries": parsed.integer("health-retries"),
    }
    asked = {name: setting for name, setting in members.items() if setting}
    if not parsed.on("no-healthcheck"):
        return asked or None
    if asked:
        raise UsageError("--no-healthcheck conflicts with --health-* options")
    return {"Test": ["NONE"]}


def _nanoseconds(parsed: Parsed, key: str) -> int:
    text = parsed.value(key)
    try:
        return int(parse_duration(text) * 1e9) if text else 0
    except ValueError:
        raise InvalidArgument(f"--{key} {text!r} is no duration, such as 30s or 1m30s") from None


def _host_config(
    parsed: Parsed, bindings: dict[str, list[dict[str, str]]], console_size: tuple[int, int]
) -> dict[str, Any]:
    host: dict[str, Any] = {
        "AutoRemove": parsed.on("rm"),
        "NetworkMode": parsed.value("network") or "default",
        "PortBindings": bindings,
        "PublishAllPorts": parsed.on("publish-all"),
        "ReadonlyRootfs": parsed.on("read-only"),
        "Privileged": parsed.on("privileged"),
        "CapAdd": parsed.list("cap-add"),
        "CapDrop": parsed.list("cap-drop"),
        "GroupAdd": parsed.list("group-add"),
        "ExtraHosts": parsed.list("add-host"),
        "Dns": parsed.list("dns"),
        "DnsSearch": parsed.list("dns-search"),
        "DnsOptions": parsed.list("dns-option"),
        "RestartPolicy": restart_policy(parsed.value("restart")),
        "ConsoleSize": list(console_size),
    }
    optional: dict[str, object] = {
        **limits(parsed),
        "Binds": mount_flags.volumes(parsed.list("volume"), os.getcwd())[1],
        "VolumesFrom": parsed.list("volumes-from"),
        "VolumeDriver": parsed.value("volume-driver"),
        "Mounts": [mount_flags.mount(text, os.getcwd()) for text in parsed.list("mount")],
        "Tmpfs": {path: options for path, _, options in (text.partition(":") for text in parsed.list("tmpfs"))},
        "Sysctls": pairs(parsed.list("sysctl"), "--sysctl"),
        "Ulimits": [ulimit(text) for text in parsed.list("ulimit")],
        "Annotations": pairs(parsed.list("annotation"), "--annotation"),
        "ShmSize": _size(parsed, "shm-size"),
        "OomScoreAdj": parsed.integer("oom-score-adj"),
        "OomKillDisable": parsed.on("oom-kill-disable"),
        "Init": parsed.on("init"),
    }
    host.update({name: setting for name, setting in optional.items() if setting})
    if parsed.given("log-driver") or parsed.list("log-opt"):
        options = pairs(parsed.list("log-opt"), "--log-opt")
        host["LogConfig"] = {"Type": parsed.value("log-driver"), "Config": options}
    return host


def limits(parsed: Parsed) -> dict[str, Any]:
    """What :data:`LIMIT_FLAGS` say, as ``Resources`` of the API: those that were given and say something."""
    found = {
        "CpuShares": parsed.integer("cpu-shares"),
        "CpuPeriod": parsed.integer("cpu-period"),
        "CpuQuota": parsed.integer("cpu-quota"),
        "CpusetCpus": parsed.value("cpuset-cpus"),
        "NanoCpus": _nano_cpus(parsed.value("cpus")),
        "Memory": _size(parsed, "memory"),
        "MemoryReservation": _size(parsed, "memory-reservation"),
        "MemorySwap": -1 if parsed.value("memory-swap") == "-1" else _size(parsed, "memory-swap"),
        "PidsLimit": parsed.integer("pids-limit"),
    }
    return {name: setting for name, setting in found.items() if setting or (name == "PidsLimit" and setting == 0)}


def _size(parsed: Parsed, key: str) -> int:
    text = parsed.value(key)
    return parse_size(text, f"--{key}") if text else 0


def _nano_cpus(text: str) -> int:
    if not text:
        return 0
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 < number < 1e6:
        raise InvalidArgument(f"--cpus {text!r} is no number of CPUs: write for example 1.5")
    return round(number * 1e9)


def variables(
    given: Sequence[str], files: Sequence[str], environment: Mapping[str, str], read_file: Callable[[str], str]
) -> list[str]:
    """``-e`` and ``--env-file``: later ones win; a bare name takes this process's own value, or is left out without
    one."""
    result: dict[str, str] = {}
    for text in _with_files(given, files, read_file):
        name, equals, setting = text.partition("=")
        if not name or (not equals and any(character.isspace() for character in name)):
            raise InvalidArgument(f"{text!r} is no environment variable: write NAME=value or NAME")
        if equals:
            result[name] = setting
        elif name in environment:
            result[name] = environment[name]
    return [f"{name}={setting}" for name, setting in result.items()]


def _with_files(given: Sequence[str], files: Sequence[str], read_file: Callable[[str], str]) -> list[str]:
    lines = []
    for path in files:
        for line in read_file(path).splitlines():
            line = line.lstrip()
            if line and not line.startswith("#"):
                lines.append(line)
    return [*lines, *given]


def pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    """``key=value``; a bare key has an empty value."""
    result = {}
    for text in texts:
        key, _, setting = text.partition("=")
        if not key:
            raise InvalidArgument(f"{flag} {text!r} has no key: write key=value")
        result[key] = setting
    return result


def restart_policy(text: str) -> dict[str, Any]:
    name, colon, count = text.partition(":")
    if colon and not count.isdecimal():
        raise InvalidArgument(f"--restart {text!r}: the count behind the colon is no number")
    return {"Name": name, "MaximumRetryCount": int(count) if count else 0}


def ulimit(text: str) -> dict[str, Any]:
    name, _, limits = text.partition("=")
    soft, colon, hard = limits.partition(":")
    try:
        return {"Name": name, "Soft": int(soft), "Hard": int(hard if colon else soft)}
    except ValueError:
        raise InvalidArgument(f"--ulimit {text!r} is no limit: write for example nofile=1024:2048") from None


def ports(published: Sequence[str], exposed: Sequence[str]) -> tuple[list[str], dict[str, list[dict[str, str]]]]:
    """(["80/tcp"…], bindings): ``[[address:]host port:]container port[/protocol]``, with ranges of equal length."""
    names: dict[str, None] = {}
    bindings: dict[str, list[dict[str, str]]] = {}
    for text in published:
        main, _, protocol = text.partition("/")
        host_part, _, container = main.rpartition(":")
        address, colon, host = host_part.rpartition(":")
        if host_part and not colon:
            address, host = "", host_part
        inside = _range(container, text)
        outside = [str(port) for port in _range(host, text)] if host else [""] * len(inside)
        if len(outside) != len(inside) and len(inside) != 1:
            raise InvalidArgument(f"--publish {text!r}: the two ranges of ports have different lengths")
        if len(outside) != len(inside):  # docker's way to say "any free port of this range"
            outside = [host]
        for port, host_port in zip(inside, outside, strict=True):
            name = f"{port}/{protocol.lower() or 'tcp'}"
            names[name] = None
            bindings.setdefault(name, []).append({"HostIp": address.strip("[]"), "HostPort": host_port})
    for text in exposed:
        main, _, protocol = text.partition("/")
        names.update(dict.fromkeys(f"{port}/{protocol.lower() or 'tcp'}" for port in _range(main, text)))
    return list(names), bindings


def _range(text: str, whole: str) -> range:
    first, dash, last = text.partition("-")
    if first.isdecimal() and (not dash or last.isdecimal()):
        start, end = int(first), int(last if dash else first)
        if 0 < start <= end < 65536:
            return range(start, end + 1)
    raise InvalidArgument(f"{whole!r} is no port: write for example 8080:80, 127.0.0.1:8080:80/tcp or 80")
