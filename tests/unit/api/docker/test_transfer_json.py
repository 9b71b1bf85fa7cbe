"""The client's credentials, names, and bars on the wire."""

from __future__ import annotations

import base64

import pytest

from hyper.api.docker.transfer_json import bar, credentials, name_of, progress_json, size
from hyper.errors import InvalidArgument
from hyper.images.progress import Progress, Pushed


def test_credentials_in_every_form() -> None:
    text = b'{"username":"me","password":"s\xc3\xa9cret?>","serveraddress":"r:5000"}'
    for encode in (base64.urlsafe_b64encode, base64.standard_b64encode):
        for header in (encode(text).decode(), encode(text).decode().rstrip("=")):
            found = credentials(header)
            assert (found.username, found.password, found.server_address) == ("me", "sécret?>", "r:5000")
    assert "sécret" not in repr(credentials(base64.b64encode(text).decode()))
    old = base64.b64encode(b'{"auth":"bWU6c2VjcmV0"}').decode()
    assert (credentials(old).username, credentials(old).password) == ("me", "secret")
    for empty in ("", "e30=", "bnVsbA=="):
        assert not credentials(empty)
    for wrong in ("%%%", base64.b64encode(b"[]").decode(), base64.b64encode(b'{"auth":"*"}').decode(), "A" * 100_000):
        with pytest.raises(InvalidArgument):
            credentials(wrong)


@pytest.mark.parametrize(
    ("image", "tag", "wanted"),
    [
        ("busybox", "", "docker.io/library/busybox"),
        ("busybox", "1", "docker.io/library/busybox:1"),
        ("busybox:2", "", "docker.io/library/busybox:2"),
        ("busybox:2", "1", "docker.io/library/busybox:1"),
        ("localhost:5000/a", "sha256:" + "0" * 64, "localhost:5000/a@sha256:" + "0" * 64),
    ],
)
def test_names_as_docker_joins_them(image: str, tag: str, wanted: str) -> None:
    assert str(name_of(image, tag)) == wanted


def test_lines_as_dockerd_writes_them() -> None:
    assert progress_json(Progress("Pulling from a", id="v1")) == {"status": "Pulling from a", "id": "v1"}
    assert progress_json(Progress("Waiting", id="x", layer=True)) == {
        "status": "Waiting",
        "progressDetail": {},
        "id": "x",
    }
    assert progress_json(Progress("Downloading", id="x", current=1_200_000, total=5_000_000, layer=True)) == {
        "status": "Downloading",
        "progressDetail": {"current": 1_200_000, "total": 5_000_000},
        "progress": "[============>                                      ]    1.2MB/5MB",
        "id": "x",
    }
    assert progress_json(Progress(pushed=Pushed("a", "sha256:1", 5))) == {
        "progressDetail": {},
        "aux": {"Tag": "a", "Digest": "sha256:1", "Size": 5},
    }
    assert bar(7, 5) == "[" + "=" * 50 + ">]       7B"
    assert [size(count) for count in (0, 999, 1000, 123_456, 5 * 10**9)] == ["0B", "999B", "1kB", "123.5kB", "5GB"]
