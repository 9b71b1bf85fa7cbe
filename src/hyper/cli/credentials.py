"""Passwords for registries, where the docker CLI keeps them: ``config.json`` in ``$DOCKER_CONFIG`` or ``~/.docker``,
and the credential helpers that it names. So a login of either client is one for both.

Neighbours: ``registry.py`` (login, pull, push). Secrets are never put into messages.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess

from hyper.errors import DataLoss, FailedPrecondition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HUB = "https://index.docker.io/v1/"
_TOKEN_USER = "<token>"
"""What helpers call the user of an identity token."""
_HELPER_S = 60
_NOT_FOUND = "credentials not found in native keychain"


def server_of(domain: str) -> str:
    """The name under which a registry's credentials are kept."""
    return HUB if domain in ("docker.io", "index.docker.io", "registry-1.docker.io") else domain


class CredentialFile:
    """The user's ``config.json``; members that are not ours stay as they are."""

    def __init__(self, environment: dict[str, str]) -> None:
        folder = environment.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
        self.path = os.path.join(folder, "config.json")

    def header(self, server: str) -> dict[str, str]:
        """``X-Registry-Auth`` for a request about ``server``'s images; {} when nothing is known."""
        found = self.get(server)
        if not found:
            return {}
        text = json.dumps({**found, "serveraddress": server}).encode()
        return {"X-Registry-Auth": base64.urlsafe_b64encode(text).decode()}

    def get(self, server: str) -> dict[str, str]:
        config = self._read()
        if helper := self._helper(config, server):
            answer = _ask(helper, "get", server)
            if answer is None:
                return {}
            known = json.loads(answer)
            user, secret = str(known.get("Username", "")), str(known.get("Secret", ""))
            return {"identitytoken": secret} if user == _TOKEN_USER else {"username": user, "password": secret}
        auths = config.get("auths") or {}
        entry = auths.get(server) or next((auths[key] for key in auths if _host(key) == _host(server)), None)
        if not isinstance(entry, dict):
            return {}
        if token := entry.get("identitytoken"):
            return {"identitytoken": str(token)}
        try:
            user, _, password = base64.b64decode(str(entry.get("auth", ""))).decode().partition(":")
        except (binascii.Error, ValueError) as error:
            raise DataLoss(f"the entry of {server} in {self.path} cannot be read: log in again") from error
        return {"username": user, "password": password.rstrip("\0")} if user else {}

    def put(self, server: str, username: str, password: str, identity_token: str) -> bool:
        """Keep what a login gave; whether it lies in the file as plain text."""
        config = self._read()
        if helper := self._helper(config, server):
            secret = {"Username": _TOKEN_USER, "Secret": identity_token}
            if not identity_token:
                secret = {"Username": username, "Secret": password}
            _ask(helper, "store", json.dumps({"ServerURL": server, **secret}))
            return False
        pair = f"{username}:{'' if identity_token else password}"
        entry = {"auth": base64.b64encode(pair.encode()).decode()}
        if identity_token:
            entry["identitytoken"] = identity_token
        config.setdefault("auths", {})[server] = entry
        self._write(config)
        return True

    def remove(self, server: str) -> bool:
        """Whether there was something."""
        config = self._read()
        if helper := self._helper(config, server):
            return _ask(helper, "erase", server) is not None
        auths = config.get("auths") or {}
        gone = [key for key in auths if _host(key) == _host(server)]
        for key in gone:
            del auths[key]
        if gone:
            self._write(config)
        return bool(gone)

    @staticmethod
    def _helper(config: dict[str, Any], server: str) -> str:
        return str((config.get("credHelpers") or {}).get(_host(server)) or config.get("credsStore") or "")

    def _read(self) -> dict[str, Any]:
        try:
            with open(self.path, encoding="utf-8") as file:
                config = json.load(file)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise FailedPrecondition(f"{self.path} cannot be read: {error}") from error
        if not isinstance(config, dict):
            raise FailedPrecondition(f"{self.path} is no JSON object")
        return config

    def _write(self, config: dict[str, Any]) -> None:
        folder = os.path.dirname(self.path)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        temporary = f"{self.path}.{os.getpid()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(config, file, indent="\t")
        os.replace(temporary, os.path.realpath(self.path))


def _host(server: str) -> str:
    return server.rpartition("://")[2].partition("/")[0]


def _ask(helper: str, action: str, text: str) -> str | None:
    """What ``docker-credential-HELPER`` answers; None when it has nothing for that server."""
    program = f"docker-credential-{os.path.basename(helper)}"
    try:
        done = subprocess.run([program, action], input=text, capture_output=True, text=True, timeout=_HELPER_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FailedPrecondition(f"the credential helper {program} cannot be used: {error}") from error
    if done.returncode == 0:
        return done.stdout
    said = (done.stdout or done.stderr).strip()
    if _NOT_FOUND in said:
        return None
    raise FailedPrecondition(f"the credential helper {program} failed: {said[:500]}")
