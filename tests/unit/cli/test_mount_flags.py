"""``-v`` and ``--mount`` as docker's CLI reads them."""

from __future__ import annotations

from typing import Any

import pytest

from hyper.cli.mount_flags import mount, volumes
from hyper.errors import InvalidArgument


def test_a_path_alone_is_an_anonymous_volume_and_relative_sources_are_made_absolute() -> None:
    anonymous, binds = volumes(["/data", "name:/n:ro", "./here:/h", "..:/up", "/abs:/a"], "/work/dir")
    assert anonymous == {"/data": {}}
    assert binds == ["name:/n:ro", "/work/dir/here:/h", "/work:/up", "/abs:/a"]


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("source=v,target=/d", {"Type": "volume", "Source": "v", "Target": "/d"}),
        ("type=bind,src=./x,dst=/d,ro", {"Type": "bind", "Source": "/w/x", "Target": "/d", "ReadOnly": True}),
        (
            "type=bind,src=/x,dst=/d,bind-propagation=rslave,bind-recursive=disabled",
            {
                "Type": "bind",
                "Source": "/x",
                "Target": "/d",
                "BindOptions": {"Propagation": "rslave", "NonRecursive": True},
            },
        ),
        (
            'src=v,dst=/d,volume-nocopy,volume-subpath=a/b,volume-label=k=v,volume-driver=local,"volume-opt=o=a,b"',
            {
                "Type": "volume",
                "Source": "v",
                "Target": "/d",
                "VolumeOptions": {
                    "NoCopy": True,
                    "Subpath": "a/b",
                    "Labels": {"k": "v"},
                    "DriverConfig": {"Name": "local", "Options": {"o": "a,b"}},
                },
            },
        ),
        (
            "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770",
            {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770}},
        ),
    ],
)
def test_mounts_with_their_options(text: str, body: dict[str, Any]) -> None:
    assert mount(text, "/w") == body


@pytest.mark.parametrize(
    "text", ["source=v", "dst=/d,nonsense=1", "dst=/d,ro=perhaps", "type=tmpfs,dst=/d,tmpfs-mode=9"]
)
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        mount(text, "/w")
