"""Words of a create body that end up in the guest's files or its kernel: each is checked here, in Docker's words.

A line end or a zero byte in one of them would say more than it seems to. Neighbour: ``create`` (who calls).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from hyper.errors import InvalidArgument

_SHOWN_CHARACTERS = 128
_DOMAIN = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,253}[A-Za-z0-9_.])?|\.")
_HOST = re.compile(r"[^\s\x00-\x1f\x7f#]{1,255}")
_RESOLVER_OPTION = re.compile(r"[a-z0-9-]{1,40}(:[0-9]{1,9})?")
_CPUSET = re.compile(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*")
_SYSCTL = re.compile(r"[A-Za-z0-9_:-]+([./][A-Za-z0-9_:-]+)+")
_SYSCTL_PREFIXES = ("net/", "fs/mqueue/")
_SYSCTLS = frozenset(
    f"kernel/{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


def _shown(text: str) -> str:
    return ascii(text[:_SHOWN_CHARACTERS])[1:-1]


def name_servers(servers: Iterable[str]) -> tuple[str, ...]:
    """``--dns``."""
    checked = tuple(servers)
    for server in checked:
        try:
            ipaddress.ip_address(server)
        except ValueError:
            raise InvalidArgument(f"bad nameserver address: {_shown(server)} is not an IP address") from None
    return checked


def search_domains(domains: Iterable[str]) -> tuple[str, ...]:
    """``--dns-search``; "." means none."""
    checked = tuple(domains)
    for domain in checked:
        if not _DOMAIN.fullmatch(domain):
            raise InvalidArgument(f"invalid DNS search domain: {_shown(domain)}")
    return checked


def resolver_options(options: Iterable[str]) -> tuple[str, ...]:
    """``--dns-option``."""
    checked = tuple(options)
    for option in checked:
        if not _RESOLVER_OPTION.fullmatch(option):
            raise InvalidArgument(f"invalid DNS option: {_shown(option)}")
    return checked


def domain_name(name: str) -> str:
    if name and not _DOMAIN.fullmatch(name):
        raise InvalidArgument(f"invalid domainname format: {_shown(name)}")
    return name


def extra_host(item: str) -> str:
    """``--add-host``: "name:address", or "name=address" as newer clients may write it."""
    name, separator, address = item.partition("=") if "=" in item.partition(":")[0] else item.partition(":")
    if not (separator and address and _HOST.fullmatch(name)):
        raise InvalidArgument(f'bad format for add-host: "{_shown(item)}"')
    if address != "host-gateway":
        try:
            ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise InvalidArgument(f'invalid IP address in add-host: "{_shown(address)}"') from None
    return f"{name}:{address}"


def cpuset(text: str) -> str:
    """``--cpuset-cpus``: "0-2,7"."""
    if text and not _CPUSET.fullmatch(text):
        raise InvalidArgument(f"Invalid value {_shown(text)} for cpuset cpus")
    return text


def memory_nodes(text: str) -> str:
    """``--cpuset-mems``."""
    if text and not _CPUSET.fullmatch(text):
        raise InvalidArgument(f"Invalid value {_shown(text)} for cpuset mems")
    return text


def last_cpu(cpuset: str) -> int:
    """The highest number in one."""
    return max(int(number) for number in cpuset.replace("-", ",").split(","))


def groups(given: Iterable[str]) -> tuple[str, ...]:
    """``--group-add``: names and numbers, looked up in the image when it starts."""
    checked = tuple(given)
    for group in checked:
        if not group or ":" in group or any(ord(character) < 32 for character in group):
            raise InvalidArgument(f"Unable to find group {_shown(group)}: no matching entries in group file")
    return checked


def sysctls(settings: dict[str, str]) -> dict[str, str]:
    """``--sysctl``: those that Docker takes, which belong to a namespace of the container's. A pod's containers share a
    kernel."""
    for name, value in settings.items():
        path = name if "/" in name else name.replace(".", "/")
        if not _SYSCTL.fullmatch(name) or (path not in _SYSCTLS and not path.startswith(_SYSCTL_PREFIXES)):
            raise InvalidArgument(f'sysctl "{_shown(name)}" is not in a separate kernel namespace')
        if any(ord(character) < 32 and character != "\t" for character in value):
            raise InvalidArgument(f'sysctl "{name}" cannot be set to "{_shown(value)}"')
    return settings
