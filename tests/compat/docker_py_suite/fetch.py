"""Brings docker-py's integration tests and an environment to run them in: build/docker-py-suite/{tests,venv}.

They are in the source archive on PyPI only, which is held to its SHA-256; the library is the same release's, with the
last `requests` that it works with. Both are kept until one of the pins below changes. Neighbour: ``run.py``.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
VERSION = "7.0.0"
ARCHIVE_SHA256 = "323736fb92cd9418fc5e7133bc953e11a9da04f4483f828b527db553f1e7e5a3"
LIBRARIES = (
    f"docker=={VERSION}",
    "requests==2.31.0",
    "urllib3==2.2.3",
    "paramiko==3.5.0",
    "websocket-client==1.8.0",
    "pytest==7.4.4",
    "pytest-timeout==2.3.1",
)
_TIMEOUT_S = 240


class NotThere(Exception):
    """They could not be fetched; says why."""


def suite() -> tuple[Path, Path]:
    """The folder that holds ``tests/``, and the Python to run them with. NotThere without a package index."""
    folder = ROOT / "build" / "docker-py-suite"
    python = folder / "venv" / "bin" / "python"
    stamp = folder / "stamp"
    wanted = "\n".join((ARCHIVE_SHA256, *LIBRARIES))
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _archive(folder)
        _call("/usr/bin/python3", "-m", "venv", str(folder / "venv"))
        _call(str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *LIBRARIES)
        stamp.write_text(wanted)
    return folder, python


def _archive(folder: Path) -> None:
    pip = ("/usr/bin/python3", "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps")
    _call(*pip, "--no-binary", "docker", "-d", str(folder), f"docker=={VERSION}")
    (archive,) = folder.glob("*.tar.gz")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != ARCHIVE_SHA256:
        raise AssertionError(f"{archive.name} from the package index has the SHA-256 {found}, not the one expected")
    prefix = f"docker-{VERSION}/tests/"
    with tarfile.open(archive) as members:
        for member in members.getmembers():
            if member.name.startswith(prefix):
                member.name = member.name.removeprefix(f"docker-{VERSION}/")
                members.extract(member, folder)


def _call(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if result.returncode != 0:
        raise NotThere(f"{' '.join(command)} exited with {result.returncode}: {result.stderr.strip()[-400:]}")
