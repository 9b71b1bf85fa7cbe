"""A real registry for tests: Debian's docker-registry on loopback, inside a network namespace.

with RealRegistry(namespace, folder, port=5000, locked=True) as registry: …
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.hyperd import ROOT
from tests.netns import NetworkNamespace

USER, PASSWORD = "tester", "secret"
_BCRYPT = "$2b$04$BE8nrdnshLLExdLMcLOOTOlWxjSwJLDsjRH0VuMcBOLKzzAr6lz.a"
"""Of the password: making one takes a library."""
_START_S = 30.0


def registry_program() -> str:
    """Skips when there is none."""
    found = shutil.which("docker-registry") or shutil.which("docker-registry", path=str(ROOT / "build/tools"))
    if found is None:
        pytest.skip("docker-registry is neither installed nor in build/tools")
    return found


def certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """A self-signed certificate for ``host`` and its key."""
    key, cert = folder / f"{host}.key", folder / f"{host}.crt"
    kind = "IP" if host.replace(".", "").isdigit() else "DNS"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", f"/CN={host}"),
            *("-addext", f"subjectAltName={kind}:{host}"),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


class RealRegistry:
    """Serves ``<address>:<port>`` of the namespace while the block lasts."""

    def __init__(
        self,
        namespace: NetworkNamespace,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        port: int = 5000,
        locked: bool = False,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self.host = f"{address}:{port}"
        self._namespace = namespace
        self._address, self._port = address, port
        self._log = folder / "registry.log"
        folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
            "http": {"addr": self.host},
        }
        if locked:
            (folder / "htpasswd").write_text(f"{USER}:{_BCRYPT}\n")
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
        if tls is not None:
            config["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
        self._config = folder / "config.yml"
        self._config.write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RealRegistry:
        with self._log.open("ab") as log:
            self._process = self._namespace.popen(
                [registry_program(), "serve", str(self._config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline_s = time.monotonic() + _START_S
        while True:
            try:
                self._namespace.connect(self._address, self._port).close()
                return self
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    raise AssertionError(f"the registry did not start\n{self._log.read_text()}") from None
                time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None
