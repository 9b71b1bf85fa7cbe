"""What a mounted image says about itself, and what a tar says it should: one line a file, comparable as text.

``expected`` is made with Python's tarfile, which shares no code with Hyper's reader. ``SCRIPT`` makes the same lines
inside a sandbox with nothing but a busybox shell (it prints no xattrs, and times in seconds), so that the guest's own
kernel can be asked.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

SCRIPT = r"""cd "$1" && find . -xdev | sort | while IFS= read -r f; do
  size=%s;
  if [ -L "$f" ]; then d=$(readlink "$f"); elif [ -d "$f" ]; then d=-; size=0;
  elif [ -f "$f" ]; then d=$(sha256sum < "$f"); d=${d%% *}; else d=-; fi;
  printf '%s %s %s\n' "$(stat -c "%f %u %g $size %h %t:%T %Y" "$f")" "$d" "$f";
done"""


DEEP = "deep/" + "/".join(["d" * 20] * 60)
IMPLIED = [os.fsencode(DEEP).rsplit(b"/", count)[0] for count in range(1, 61)]
"""Directories that the tar of :func:`make_root_tar` only implies: nobody says what their metadata should be."""


def make_root_tar(path: Path, small_files: int) -> Path:
    """A tar with every kind of file, and values at the edges."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape") as archive:

        def add(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: object) -> None:
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(content))

        add("./", tarfile.DIRTYPE, mode=0o755, mtime=1_700_000_000)
        add(
            "./d",
            tarfile.DIRTYPE,
            mode=0o2775,
            uid=1000,
            gid=70_000,
            mtime=1_700_000_000,
            pax_headers={"mtime": "1700000001.123456789"},
        )
        add("./tmp", tarfile.DIRTYPE, mode=0o1777)
        for number in range(small_files):
            add(f"./d/file-{number}", content=os.urandom(number * 13 % 9000), mode=0o644, mtime=number)
        add("./suid", content=b"#!", mode=0o6755)
        add("./big-owner", content=b"x", uid=4_000_000_000, gid=3_000_000_000)
        add("./before-1970", content=b"x", mtime=-86_400)
        add("./after-2038", content=b"x", mtime=5_000_000_000)
        add("./large", content=os.urandom(3_000_001))
        add("./" + "n" * 255, content=b"long")
        add("./d/hard-1", tarfile.LNKTYPE, linkname="./large")
        add("./d/hard-2", tarfile.LNKTYPE, linkname="./d/hard-1")
        add("./link", tarfile.SYMTYPE, linkname="d/" + "t" * 300)
        add("./hard-to-link", tarfile.LNKTYPE, linkname="./link")
        add("./null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3)
        add("./disk", tarfile.BLKTYPE, mode=0o660, devmajor=259, devminor=70_000)
        add("./fifo", tarfile.FIFOTYPE, mode=0o600)
        capability = "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
        add(
            "./with-xattrs",
            content=b"x" * 5000,
            pax_headers={"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.a": "b"},
        )
        add("./empty", content=b"")
        add(DEEP, content=b"deep")
    return path


def lines(found: dict[bytes, tuple[object, ...]]) -> set[str]:
    """The same as text, in the form that ``SCRIPT`` prints."""
    result = set()
    for path, (mode, uid, gid, size, links, device, mtime_ns, content, _) in found.items():
        number = int(str(device))
        numbers = f"{os.major(number):x}:{os.minor(number):x}"
        shown = content.decode() if isinstance(content, bytes) else content
        name = "./" + os.fsdecode(path) if path else "."
        time_s = int(str(mtime_ns)) // 10**9
        result.add(f"{int(str(mode)):x} {uid} {gid} {size} {links} {numbers} {time_s} {shown or '-'} {name}")
    return result


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
            tuple(
                (key, os.getxattr(path, key, follow_symlinks=False))
                for key in sorted(os.listxattr(path, follow_symlinks=False))
            )
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
