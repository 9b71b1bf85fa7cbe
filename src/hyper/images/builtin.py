"""The built-in ``busybox:latest``: made from Debian's busybox-static, so that there is an image without any network.

Laid out like the official image: every applet a hard link in /bin, ``sh`` as the command. The same binary gives the
same image. Neighbours: ``store.py`` (takes the tar in), ``make setup`` and the daemon's first start (call
:func:`install`).
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from hyper.errors import FailedPrecondition, NotFound
from hyper.images.store import Image, ImageStore
from hyper.system import blocking

NAME = "busybox:latest"
BUSYBOX = Path("/usr/bin/busybox")
CHANGES = ("ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 'CMD ["sh"]')
MESSAGE = "busybox of the host's distribution, made by hyper"
_TIMEOUT_S = 10

_DIRECTORIES = (
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("lib", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sbin", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/sbin", 0o755),
    ("var", 0o755),
    ("var/log", 0o755),
    ("var/spool", 0o755),
    ("var/spool/mail", 0o755),
    ("var/tmp", 0o1777),
    ("var/www", 0o755),
)
_ACCOUNTS = (
    ("root", 0, 0, "/root", "/bin/sh"),
    ("daemon", 1, 1, "/usr/sbin", "/bin/false"),
    ("bin", 2, 2, "/bin", "/bin/false"),
    ("sys", 3, 3, "/dev", "/bin/false"),
    ("sync", 4, 100, "/bin", "/bin/sync"),
    ("mail", 8, 8, "/var/spool/mail", "/bin/false"),
    ("www-data", 33, 33, "/var/www", "/bin/false"),
    ("operator", 37, 37, "/var", "/bin/false"),
    ("nobody", 65534, 65534, "/home", "/bin/false"),
)
_GROUPS = (
    ("root", 0),
    ("daemon", 1),
    ("bin", 2),
    ("sys", 3),
    ("adm", 4),
    ("tty", 5),
    ("disk", 6),
    ("wheel", 10),
    ("mail", 8),
    ("www-data", 33),
    ("utmp", 43),
    ("users", 100),
    ("nobody", 65534),
)


def root_tar(busybox: bytes, applets: Sequence[str]) -> bytes:
    """The root file system as a tar: a pure function, all times 0."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as archive:

        def add(name: str, kind: bytes, mode: int, content: bytes = b"", link: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.size, member.linkname = kind, mode, len(content), link
            archive.addfile(member, io.BytesIO(content))

        for name, mode in _DIRECTORIES:
            add(name, tarfile.DIRTYPE, mode)
        add("bin/busybox", tarfile.REGTYPE, 0o755, busybox)
        for applet in sorted(set(applets) - {"busybox"}):
            if "/" not in applet and applet:
                add(f"bin/{applet}", tarfile.LNKTYPE, 0o755, link="bin/busybox")
        # Scripts begin with "#!/usr/bin/env".
        add("usr/bin/env", tarfile.SYMTYPE, 0o777, link="../../bin/env")
        for name, mode, text in _files():
            add(name, tarfile.REGTYPE, mode, text.encode())
    return output.getvalue()


async def install(store: ImageStore, busybox: Path = BUSYBOX) -> Image:
    """Make sure that ``busybox:latest`` is there. FailedPrecondition when the host has no static busybox."""
    try:
        return store.resolve(NAME)
    except NotFound:
        pass
    tar = await blocking.run(_host_root_tar, busybox)
    # The package's own date: the same for the same binary.
    built_ns = (await blocking.run(os.stat, busybox)).st_mtime_ns

    async def stream() -> AsyncIterator[bytes]:
        yield tar

    return await store.import_root(
        stream(), reference=NAME, changes=CHANGES, message=MESSAGE, platform=None, created_ns=built_ns
    )


def _host_root_tar(busybox: Path) -> bytes:
    try:
        content = busybox.read_bytes()
        listed = subprocess.run([busybox, "--list"], capture_output=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise FailedPrecondition(
            f"the built-in busybox image cannot be made from {busybox} ({error}); install the package busybox-static"
        ) from error
    if b"/ld-linux" in content[:4096] or b"/ld-musl" in content[:4096]:
        raise FailedPrecondition(f"{busybox} is not statically linked; install the package busybox-static")
    return root_tar(content, listed.stdout.decode("ascii", "ignore").split())


def _files() -> list[tuple[str, int, str]]:
    passwd = "".join(f"{name}:x:{uid}:{gid}:{name}:{home}:{shell}\n" for name, uid, gid, home, shell in _ACCOUNTS)
    group = "".join(f"{name}:x:{gid}:\n" for name, gid in _GROUPS)
    shadow = "".join(f"{name}:*:10933:0:99999:7:::\n" for name, *_ in _ACCOUNTS)
    return [
        ("etc/passwd", 0o644, passwd),
        ("etc/group", 0o644, group),
        ("etc/shadow", 0o600, shadow),
        ("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n"),
        ("etc/hosts", 0o644, "127.0.0.1\tlocalhost\n"),
        ("etc/resolv.conf", 0o644, ""),
        ("etc/hostname", 0o644, ""),
    ]
