"""Volumes and binds of create bodies: dockerd's reading, and its words for what it refuses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hyper.api.docker import mounts
from hyper.api.docker.create_body import HostConfig
from hyper.api.docker.go_json import decode
from hyper.engine.model import MountRequest
from hyper.errors import HyperError, InvalidArgument, Unsupported


def requests(**host: Any) -> tuple[MountRequest, ...]:
    return mounts.requests(decode(msgspec.json.encode(host), HostConfig))


def bind(text: str) -> MountRequest:
    [request] = requests(Binds=[text])
    assert request.text == text
    return request


def test_what_begins_with_a_slash_is_a_bind_and_else_a_volume() -> None:
    assert (bind("/h//x/:/d/").type, bind("/h//x/:/d/").source, bind("/h:/d/").target) == ("bind", "/h/x", "/d")
    assert (bind("data:/d").type, bind("data:/d").source) == ("volume", "data")
    assert (bind("/d").type, bind("/d").source) == ("volume", "")


def test_modes() -> None:
    assert bind("/h:/d:ro,z,rslave").readonly
    assert bind("/h:/d:ro,z,rslave").propagation == "rslave"
    assert bind("v:/d:nocopy").no_copy
    assert not bind("/h:/d:rw").readonly
    assert bind("/h:/d:rw").mode == "rw"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "invalid volume specification: ''"),
        (":/d", "invalid volume specification: ':/d'"),
        ("/d:ro", "invalid volume specification: '/d:ro'"),
        ("/h:/d:", "invalid volume specification"),
        ("/h:/d:ro:x", "invalid volume specification"),
        ("/h:/d:nonsense", "invalid mode: nonsense"),
        ("/h:/d:ro,rw", "invalid mode: ro,rw"),
        ("/h:/d:nocopy", "invalid mode: nocopy"),
        ("v:/d:rslave", "invalid mode: rslave"),
        ("/h:d", "mount path must be absolute"),
        ("/h:/", "destination can't be '/'"),
        ("/h:/x/..", "destination can't be '/'"),
        ("/h:/proc/x", "nothing can be mounted inside /proc"),
    ],
)
def test_texts_that_make_no_sense(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        requests(Binds=[text])
    assert words in error.value.message


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ({"Type": "nonsense", "Target": "/d"}, "mount type unknown"),
        ({"Type": "bind", "Source": "/h"}, "field Target must not be empty"),
        ({"Type": "bind", "Target": "/d"}, "field Source must not be empty"),
        ({"Type": "bind", "Source": "h", "Target": "/d"}, "mount path must be absolute"),
        ({"Type": "bind", "Source": "/h", "Target": "/d", "VolumeOptions": {}}, "field VolumeOptions must not be"),
        ({"Type": "volume", "Target": "/d", "BindOptions": {}}, "field BindOptions must not be specified"),
        ({"Type": "volume", "Target": "/d", "ReadOnly": True}, "must not set ReadOnly mode when using anonymous"),
        ({"Type": "volume", "Source": "v", "Target": "/d", "VolumeOptions": {"Subpath": "../x"}}, "subpath must be"),
        (
            {"Type": "bind", "Source": "/h", "Target": "/d", "BindOptions": {"ReadOnlyNonRecursive": True}},
            "mount must be read-only",
        ),
    ],
)
def test_mounts_that_make_no_sense(mount: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        requests(Mounts=[mount])
    assert words in error.value.message
    assert error.value.message.startswith("invalid mount config for type ")


@pytest.mark.parametrize(
    "host",
    [
        {"Binds": ["/h:/d:rshared"]},
        {"Mounts": [{"Type": "bind", "Source": "/h", "Target": "/d", "BindOptions": {"Propagation": "shared"}}]},
        {"Mounts": [{"Type": "image", "Source": "x", "Target": "/d"}]},
    ],
)
def test_what_a_vm_cannot_have_is_refused(host: dict[str, Any]) -> None:
    with pytest.raises(Unsupported):
        requests(**host)


def test_a_mount_is_shown_as_it_was_given() -> None:
    given = {
        "Type": "volume",
        "Source": "v",
        "Target": "/d",
        "ReadOnly": True,
        "VolumeOptions": {
            "NoCopy": True,
            "Labels": {"a": "1"},
            "Subpath": "x",
            "DriverConfig": {"Name": "local", "Options": {}},
        },
    }
    [request] = requests(Mounts=[given])
    assert mounts.request_json(request) == given
    [request] = requests(Mounts=[{"Type": "bind", "Source": "/h", "Target": "/d"}])
    assert mounts.request_json(request) == {"Type": "bind", "Source": "/h", "Target": "/d"}


def test_volumes_from() -> None:
    [one, two] = mounts.volumes_from(["a", "b:ro"])
    assert (one.container, one.readonly, two.container, two.readonly) == ("a", False, "b", True)
    for text in ("", ":ro", "a:nonsense", "a:nocopy"):
        with pytest.raises(HyperError):
            mounts.volumes_from([text])
