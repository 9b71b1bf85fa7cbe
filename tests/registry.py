"""A real registry for tests: Debian's docker-registry on loopback, inside a network namespace.

with RealRegistry(namespace, folder, port=5000, locked=True) as registry: …
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
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


class CuttingProxy:
    """Passes TCP on to a registry, and resets the first ``times`` connections that brought ``after`` bytes back."""

    def __init__(
        self, namespace: NetworkNamespace, port: int, target: tuple[str, int], *, after: int, times: int
    ) -> None:
        self._namespace, self._target, self._after, self._times = namespace, target, after, times
        self._listener = namespace.listen("127.0.0.1", port)
        self._listener.settimeout(None)
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.cuts = 0

    def __enter__(self) -> CuttingProxy:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(10)
        self._listener.close()
        for thread in self._threads[1:]:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = self._namespace.connect(*self._target)
            for one in (client, server):
                one.settimeout(None)
            there = threading.Thread(target=self._pump, args=(client, server, False), daemon=True)
            back = threading.Thread(target=self._pump, args=(server, client, True), daemon=True)
            self._threads += [there, back]
            there.start()
            back.start()

    def _pump(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        passed, cutting = 0, back
        try:
            while data := source.recv(65536):
                sink.sendall(data)
                passed += len(data)
                if cutting and passed >= self._after:
                    with self._lock:
                        if self.cuts == self._times:
                            cutting = False
                            continue
                        self.cuts += 1
                    break
        except OSError:
            pass
        for one in (source, sink):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        if back:
            self._threads[self._threads.index(threading.current_thread()) - 1].join()
            source.close()
            sink.close()
