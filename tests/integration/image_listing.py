"""What a mounted image says about itself, and what a tar says it should: one line a file, comparable as text.

``expected`` is made with Python's tarfile, which shares no code with Hyper's reader. ``SCRIPT`` makes the same lines inside a sandbox with nothing
but a busybox shell (it prints no xattrs, and times in seconds), so that the guest's own kernel can be asked.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

SCRIPT = r"""cd "$1" && find . -xdev | sort | while IFS= read -r f; do
  if [ -L "$f" ]; then d=$(readlink "$f"); elif [ -f "$f" ]; then d=$(sha256sum < "$f" | cut -c1-64); else d=-; fi
  printf '%s %s %s\n' "$(stat -c '%f %u %g %s %h %t:%T %Y' "$f")" "$d" "$f"
done"""


def mounted(root: Path, *, xattrs: bool = True) -> dict[bytes, tuple[object, ...]]:
    """Every file below ``root``: path → (mode, uid, gid, size, nlink, rdev, mtime_ns, content or target, xattrs)."""
    found: dict[bytes, tuple[object, ...]] = {}
    for path in _walk(os.fsencode(root)):
        status = os.lstat(path)
        name = os.path.relpath(path, os.fsencode(root))
        found[b"" if name == b"." else name] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            0 if stat.S_ISDIR(status.st_mode) else status.st_size,
            status.st_nlink,
            status.st_rdev,
            status.st_mtime_ns,
            _content(path, status),
            tuple((key, os.getxattr(path, key, follow_symlinks=False)) for key in sorted(os.listxattr(path, follow_symlinks=False)))
            if xattrs
            else (),
        )
    return found


def expected(tar: Path) -> dict[bytes, tuple[object, ...]]:
    """The same for a single tar without whiteouts, by Python's tarfile."""
    found: dict[bytes, list[object]] = {}
    links: dict[bytes, bytes] = {}
    with tarfile.open(tar, encoding="utf-8", errors="surrogateescape") as archive:
        for member in archive:
            name = os.fsencode(os.path.normpath(member.name)).lstrip(b"/")
            name = b"" if name == b"." else name
            if member.islnk():
                links[name] = os.fsencode(os.path.normpath(member.linkname)).lstrip(b"/")
                continue
            content: object = b""
            size = 0
            if member.isreg():
                file = archive.extractfile(member)
                assert file is not None
                content = hashlib.file_digest(file, "sha256").hexdigest()
                size = member.size
            elif member.issym():
                content = os.fsencode(member.linkname)
                size = len(content)
            attributes = tuple(
                sorted(
                    (key.removeprefix("SCHILY.xattr."), value.encode("utf-8", "surrogateescape"))
                    for key, value in member.pax_headers.items()
                    if key.startswith("SCHILY.xattr.")
                )
            )
            kind = {tarfile.SYMTYPE: stat.S_IFLNK, tarfile.DIRTYPE: stat.S_IFDIR, tarfile.CHRTYPE: stat.S_IFCHR}
            kind |= {tarfile.BLKTYPE: stat.S_IFBLK, tarfile.FIFOTYPE: stat.S_IFIFO}
            mode = kind.get(member.type, stat.S_IFREG) | (0o777 if member.issym() else member.mode)
            device = os.makedev(member.devmajor, member.devminor) if member.ischr() or member.isblk() else 0
            seconds, _, fraction = str(member.pax_headers.get("mtime", int(member.mtime))).partition(".")
            mtime_ns = int(seconds) * 10**9 + int(fraction[:9].ljust(9, "0"))
            found[name] = [mode, member.uid, member.gid, size, 1, device, mtime_ns, content, attributes]
    for name, target in links.items():
        while target in links:
            target = links[target]
        found[name] = found[target]
        found[target][4] = int(str(found[target][4])) + 1
    for name, values in found.items():
        if stat.S_ISDIR(int(str(values[0]))):
            inside = [other for other in found if other != name and os.path.dirname(other) == name]
            values[4] = 2 + sum(stat.S_ISDIR(int(str(found[other][0]))) for other in inside)
    return {name: tuple(values) for name, values in found.items()}


def _walk(root: bytes) -> Iterator[bytes]:
    yield root
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda item: item.name):
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)
            else:
                yield entry.path


def _content(path: bytes, status: os.stat_result) -> object:
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(status.st_mode):
        return b""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
