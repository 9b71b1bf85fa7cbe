"""What a container finds in /etc/hosts, /etc/resolv.conf and /etc/hostname. Pure but for reading the host's own
resolv.conf.

Docker's rules: resolv.conf comes from the host's; name servers on the host's loopback cannot be reached from a
container, so where the host runs systemd-resolved its upstream servers are taken, and where nothing is left, public
ones. Sources: resolv.conf(5), hosts(5), Docker's networking documentation.

Neighbours: the engine, which gives the bytes to the agent with ``container.create``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from hyper.errors import InvalidArgument

HOST_RESOLV_CONF = Path("/etc/resolv.conf")
SYSTEMD_RESOLVED_CONF = Path("/run/systemd/resolve/resolv.conf")
FALLBACK_SERVERS = ("8.8.8.8", "8.8.4.4")
HOST_GATEWAY = "host-gateway"
"""In ``--add-host name:host-gateway``: the host, as seen from the container."""

_MAX_BYTES = 64 << 10
_LOCAL_NAMES = (
    ("127.0.0.1", "localhost"),
    ("::1", "localhost ip6-localhost ip6-loopback"),
    ("fe00::", "ip6-localnet"),
    ("ff00::", "ip6-mcastprefix"),
    ("ff02::1", "ip6-allnodes"),
    ("ff02::2", "ip6-allrouters"),
)


@dataclass(frozen=True)
class ResolverOptions:
    """``--dns``, ``--dns-search`` (``.`` alone means none) and ``--dns-option``; what is empty comes from the host."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def hosts_file(
    *,
    hostname: str,
    domain_name: str = "",
    address: IPv4Address | None = None,
    extra_hosts: Sequence[str] = (),
    gateway: IPv4Address | None = None,
) -> bytes:
    """/etc/hosts. No ``address`` with ``--network none``. ``extra_hosts`` are ``NAME:ADDRESS``, the address perhaps
    host-gateway."""
    lines = [f"{number}\t{names}" for number, names in _LOCAL_NAMES]
    for entry in extra_hosts:
        lines.append(_extra_host(entry, gateway))
    if address is not None:
        _one_line(hostname, "host name")
        _one_line(domain_name, "domain name")
        names = f"{hostname}.{domain_name} {hostname}" if domain_name else hostname
        lines.append(f"{address}\t{names}")
    return ("\n".join(lines) + "\n").encode()


def hostname_file(hostname: str) -> bytes:
    """/etc/hostname."""
    _one_line(hostname, "host name")
    return f"{hostname}\n".encode()


def read_host_resolv_conf(*, path: Path = HOST_RESOLV_CONF, resolved: Path = SYSTEMD_RESOLVED_CONF) -> bytes:
    """The host's resolv.conf, or systemd-resolved's upstream one where the host's only names its stub. Empty when there
    is none."""
    content = _read(path)
    servers = [words[1] for words in _words(content) if words[0] == "nameserver" and len(words) > 1]
    if servers and all(_is_loopback(server) for server in servers):
        upstream = _read(resolved)
        if upstream:
            return upstream
    return content


def resolv_conf(host: bytes, overrides: ResolverOptions = ResolverOptions()) -> bytes:
    """/etc/resolv.conf for a container with an IPv4 card, from the host's. InvalidArgument for a malformed override."""
    for server in overrides.servers:
        try:
            ip_address(server)
        except ValueError as error:
            raise InvalidArgument(f"--dns {server!r} is not an IP address") from error
    for value in (*overrides.search, *overrides.options):
        _one_line(value, "--dns-search or --dns-option")
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    for words in _words(host):
        keyword, values = words[0], words[1:]
        if keyword == "nameserver" and values and _is_reachable(values[0]):
            servers.append(values[0])
        elif keyword in ("search", "domain") and values:
            search = values  # the last one counts, as resolv.conf(5) says
        elif keyword == "options":
            options.extend(values)
    servers = list(overrides.servers) or servers or list(FALLBACK_SERVERS)
    search = [name for name in overrides.search or search if name != "."]
    options = list(overrides.options or options)
    lines = [f"nameserver {server}" for server in servers]
    if search:
        lines.append("search " + " ".join(search))
    if options:
        lines.append("options " + " ".join(options))
    return ("\n".join(lines) + "\n").encode()


def _extra_host(entry: str, gateway: IPv4Address | None) -> str:
    separator = "=" if "=" in entry else ":"  # host names have neither
    name, _, number = entry.partition(separator)
    _one_line(name, "--add-host")
    number = number.strip("[]")
    if number == HOST_GATEWAY:
        if gateway is None:
            raise InvalidArgument(f"--add-host {entry}: a container without network has no way to the host")
        number = str(gateway)
    try:
        return f"{ip_address(number)}\t{name}"
    except ValueError as error:
        raise InvalidArgument(f"--add-host {entry!r}: {number!r} is not an IP address") from error


def _one_line(value: str, what: str) -> None:
    if any(character.isspace() or not character.isprintable() for character in value):
        raise InvalidArgument(f"{what} {value!r} has white space or control characters in it")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)
    except OSError:
        return b""


def _words(content: bytes) -> list[list[str]]:
    lines = content.decode(errors="replace").splitlines()
    return [words for line in lines if not line.startswith(("#", ";")) and (words := line.split())]


def _is_loopback(server: str) -> bool:
    try:
        return ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _is_reachable(server: str) -> bool:
    try:
        address = ip_address(server)
    except ValueError:
        return False
    return address.version == 4 and not address.is_loopback and not address.is_unspecified
