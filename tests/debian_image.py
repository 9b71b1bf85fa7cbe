"""A whole Debian as an image: made by mmdebstrap once (30 s to a minute), kept under build/ by its list of packages.

For tests and benchmarks that want what a user has, and not what a test thought of.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SUITE = "bookworm"
PACKAGES = ("python3", "nginx", "sudo", "iputils-ping", "libcap2-bin")
"""sudo is a setuid program, ping has a file capability (an xattr), libcap2-bin shows it."""
FOLDER = Path(__file__).resolve().parent.parent / "build" / "images"
_BUILD_TIMEOUT_S = 900


def debian_tar() -> Path:
    """The root file system's tar, about 230 MB; made when it is not there. Safe to call from several processes."""
    key = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:12]
    path = FOLDER / f"debian-{SUITE}-{key}.tar"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _build(path)
    return path


def _build(path: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed; `make setup-test` installs it")
    partial = path.with_name(f"partial-{os.getpid()}.tar")
    try:
        result = subprocess.run(
            ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(partial)],
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
        if result.returncode != 0:
            raise AssertionError(f"mmdebstrap failed (are Debian's packages reachable?):\n{result.stderr[-2000:]}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
