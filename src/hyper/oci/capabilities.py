"""Linux capabilities by name: the set a container has by default, and what ``--cap-add`` and ``--cap-drop`` make of it.

The default fourteen are Docker's documented ones ("Runtime privilege and Linux capabilities"). Names are accepted
as Docker accepts them: any case, with or without ``CAP_``, and ``ALL``. Neighbours: ``runtime_spec``,
``seccomp_profile`` (which opens system calls by capability).
"""

from __future__ import annotations

from collections.abc import Iterable

from hyper.errors import InvalidArgument


def _named(names: str) -> tuple[str, ...]:
    return tuple(f"CAP_{name}" for name in names.split())


# In the kernel's order (linux/capability.h): the position is the capability's number.
ALL = _named(
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
    "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
    "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)

DEFAULT = frozenset(
    _named(
        "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP "
        "SETUID SYS_CHROOT"
    )
)

_EVERYTHING = "ALL"


def effective(add: Iterable[str] = (), drop: Iterable[str] = (), *, privileged: bool = False) -> list[str]:
    """The capabilities of a container, in the kernel's order. InvalidArgument names one that does not exist.

    ``ALL`` in ``drop`` leaves only what is in ``add``; ``ALL`` in ``add`` gives all but what is in ``drop``; both:
    none. A privileged container has them all, whatever is dropped, as in Docker."""
    added, dropped = normalised(add), normalised(drop)
    if privileged:
        return list(ALL)
    chosen: set[str]
    if _EVERYTHING in dropped:
        chosen = set() if _EVERYTHING in added else added
    elif _EVERYTHING in added:
        chosen = set(ALL) - dropped
    else:
        chosen = set(DEFAULT | added) - (dropped - added)
    return [name for name in ALL if name in chosen]


def normalised(names: Iterable[str]) -> set[str]:
    """As the kernel names them, or ``ALL``. InvalidArgument in dockerd's words for one that does not exist."""
    result = set()
    for name in names:
        upper = name.strip().upper()
        if upper not in (_EVERYTHING, f"CAP_{_EVERYTHING}"):
            upper = upper if upper.startswith("CAP_") else f"CAP_{upper}"
            if upper not in ALL:
                raise InvalidArgument(f'unknown capability: "{upper[:64]}"')
            result.add(upper)
        else:
            result.add(_EVERYTHING)
    return result
