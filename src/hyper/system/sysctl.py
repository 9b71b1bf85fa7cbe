"""Kernel settings under /proc/sys, of the network namespace that this process is in.

Neighbours: ``hyper.networks.bridge``.
"""

from __future__ import annotations

from pathlib import Path

from hyper.errors import FailedPrecondition

_ROOT = Path("/proc/sys")


def ensure(setting: str, value: str, *, purpose: str, optional: bool = False) -> bool:
    """Give the setting (a path such as ``net/ipv4/ip_forward``) this value; True when it had another one.

    ``optional``: a kernel that lacks the setting is fine. FailedPrecondition when it cannot be set, saying what for and
    how.
    """
    path = _ROOT / setting
    try:
        if path.read_text().strip() == value:
            return False
        path.write_text(value)
    except FileNotFoundError as error:
        if optional:
            return False
        raise FailedPrecondition(f"this kernel has no setting {setting}, which is needed for {purpose}") from error
    except OSError as error:
        raise FailedPrecondition(
            f"the kernel setting {setting} must be {value} for {purpose}, and cannot be set here ({error.strerror}): "
            f"run `sysctl -w {setting.replace('/', '.')}={value}` as root on the host, or run with --network none"
        ) from error
    return True
