"""Whom TLS trusts for one registry: the system's authorities, and what the administrator put into certs.d for it.

As Docker: in ``certs.d/<host:port>/`` every ``*.crt`` is an authority, ``x.cert`` with ``x.key`` our own certificate.
Neighbour: ``transport.py``.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from hyper.errors import FailedPrecondition


def context(folders: Sequence[Path], host: str, *, verify: bool, identify: bool = True) -> ssl.SSLContext:
    """Blocking (reads the system's authorities, 10 ms). ``identify``: show our own certificate, if there is one.

    FailedPrecondition when a file in the folder cannot be used."""
    made = ssl.create_default_context()
    folder = next((folder / host for folder in folders if (folder / host).is_dir()), None)
    if folder is not None:
        _add(made, folder, identify=identify)
    if not verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


def _add(made: ssl.SSLContext, folder: Path, *, identify: bool) -> None:
    try:
        names = sorted(path.name for path in folder.iterdir())
        for name in names:
            path = folder / name
            if name.endswith(".crt"):
                made.load_verify_locations(path)
            elif name.endswith(".cert"):
                key = path.with_suffix(".key")
                if not key.exists():
                    raise FailedPrecondition(
                        f"missing key {key.name} for client certificate {name} in {folder}. CA certificates must use "
                        "the extension .crt"
                    )
                if identify:
                    made.load_cert_chain(path, key)
            elif name.endswith(".key") and not path.with_suffix(".cert").exists():
                raise FailedPrecondition(
                    f"missing client certificate {path.with_suffix('.cert').name} for key {name} in {folder}"
                )
    except (OSError, ssl.SSLError) as error:
        raise FailedPrecondition(f"a certificate in {folder} cannot be used: {error}") from error
