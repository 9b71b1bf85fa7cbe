"""Passwords in docker's own file and in helpers, and how transfers are drawn."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest

from hyper.cli.credentials import HUB, CredentialFile, server_of
from hyper.cli.transfer import show
from hyper.errors import FailedPrecondition

HELPER = """#!/bin/sh
case $1 in
  get) read -r server; [ -f "$0.kept" ] || { echo "credentials not found in native keychain"; exit 1; }
       cat "$0.kept" ;;
  store) cat > "$0.kept" ;;
  erase) rm "$0.kept" ;;
esac
"""


@pytest.fixture
def file(tmp_path: Path) -> CredentialFile:
    return CredentialFile({"DOCKER_CONFIG": str(tmp_path / "docker")})


def test_what_is_put_is_found_and_goes(file: CredentialFile) -> None:
    assert file.get("r:5000") == {} and file.header("r:5000") == {}
    assert file.put("r:5000", "me", "s:é", "")
    assert file.get("r:5000") == {"username": "me", "password": "s:é"}
    sent = json.loads(base64.urlsafe_b64decode(file.header("r:5000")["X-Registry-Auth"]))
    assert sent == {"username": "me", "password": "s:é", "serveraddress": "r:5000"}
    assert Path(file.path).stat().st_mode & 0o777 == 0o600
    file.put(HUB, "me", "x", "token")
    assert file.get(HUB) == {"identitytoken": "token"}
    assert file.remove("r:5000") and not file.remove("r:5000")
    assert file.get(HUB) == {"identitytoken": "token"}


def test_other_members_stay(file: CredentialFile) -> None:
    path = Path(file.path)
    path.parent.mkdir()
    path.write_text(json.dumps({"HttpHeaders": {"a": "b"}, "auths": {"https://old.example/v1/": {"auth": "bWU6eA=="}}}))
    assert file.get("old.example") == {"username": "me", "password": "x"}
    file.put("r", "me", "y", "")
    assert json.loads(path.read_text())["HttpHeaders"] == {"a": "b"}
    path.write_text("[]")
    with pytest.raises(FailedPrecondition):
        file.get("r")


def test_helpers_are_asked(file: CredentialFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "docker-credential-test"
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    Path(file.path).parent.mkdir()
    Path(file.path).write_text('{"credHelpers": {"r:5000": "test"}}')
    assert file.get("r:5000") == {}
    assert not file.put("r:5000", "me", "secret", "")
    assert file.get("r:5000") == {"username": "me", "password": "secret"}
    assert "secret" not in Path(file.path).read_text()
    file.put("r:5000", "me", "secret", "token")
    assert file.get("r:5000") == {"identitytoken": "token"}
    assert file.remove("r:5000")
    Path(file.path).write_text('{"credsStore": "nosuch"}')
    with pytest.raises(FailedPrecondition, match="docker-credential-nosuch cannot be used"):
        file.get("r:5000")


def test_the_hub_has_its_old_name() -> None:
    assert server_of("docker.io") == HUB
    assert server_of("r:5000") == "r:5000"


MESSAGES = [
    {"status": "Pulling from a", "id": "v1"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "aa"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "bb"},
    {"status": "Downloading", "progressDetail": {"current": 500, "total": 1000}, "id": "aa"},
    {"status": "Pull complete", "progressDetail": {}, "id": "bb"},
    {"status": "Digest: x"},
    {"progressDetail": {}, "aux": {"Tag": "v1"}},
]


def test_away_from_a_terminal_there_are_no_bars() -> None:
    stream = io.StringIO()
    show(MESSAGES, stream, terminal=False, columns=80)
    assert stream.getvalue() == (
        "v1: Pulling from a\naa: Pulling fs layer\nbb: Pulling fs layer\nbb: Pull complete\nDigest: x\n"
    )


def test_on_a_terminal_each_layer_has_a_line() -> None:
    stream = io.StringIO()
    show(MESSAGES, stream, terminal=True, columns=130)
    text = stream.getvalue()
    bar = "[" + "=" * 25 + ">" + " " * 25 + "] 500B/1kB"
    assert f"\x1b[2A\r\x1b[Kaa: Downloading {bar}\x1b[2B\r" in text
    assert "\x1b[1A\r\x1b[Kbb: Pull complete\x1b[1B\r" in text
    assert text.endswith("Digest: x\n")
