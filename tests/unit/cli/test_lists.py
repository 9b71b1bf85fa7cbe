from __future__ import annotations

import json
from typing import Any

import pytest

from hyper.cli import containers, images, output
from hyper.cli.flags import UsageError
from hyper.cli.table import align

NOW = 1_700_000_000
WEB: dict[str, Any] = {
    "Id": "4f" * 32,
    "Names": ["/web"],
    "Image": "nginx:latest",
    "Command": "nginx -g 'daemon off;' -c /etc/nginx",
    "Created": NOW - 300,
    "Ports": [
        {"PrivatePort": 80, "PublicPort": 8080, "Type": "tcp", "IP": "0.0.0.0"},
        {"PrivatePort": 443, "Type": "tcp"},
    ],
    "Labels": {"b": "2", "a": "1"},
    "State": "running",
    "Status": "Up 5 minutes",
    "NetworkSettings": {"Networks": {"bridge": {}}},
}


def test_ps_looks_as_dockers(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [containers.row(WEB, now_s=NOW, full=False)]
    output.rows(rows, template="", columns=containers.COLUMNS, headers=containers.HEADERS)
    header, line = capsys.readouterr().out.splitlines()
    assert header == (
        "CONTAINER ID   IMAGE          COMMAND                  CREATED         STATUS         "
        "PORTS                           NAMES"
    )
    assert line == (
        '4f4f4f4f4f4f   nginx:latest   "nginx -g \'daemon of…"   5 minutes ago   Up 5 minutes   '
        "0.0.0.0:8080->80/tcp, 443/tcp   web"
    )


def test_narrow_columns_are_ten_wide() -> None:
    assert align([["IMAGE", "PORTS", "NAMES"], ["a", "", "b"]]) == "IMAGE     PORTS     NAMES\na                   b\n"


def test_nothing_is_shortened_on_request() -> None:
    row = containers.row(WEB, now_s=NOW, full=True)
    assert row["ID"] == WEB["Id"]
    assert row["Command"] == f'"{WEB["Command"]}"'


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Names}}: {{.Image}}", "web: nginx:latest\n"),
        ('{{.Label "a"}}', "1\n"),
        ("table {{.Names}}\\t{{.State}}", "NAMES     STATE\nweb       running\n"),
        ('table {{.Names}}\\t{{.Label "a"}}', "NAMES     A\nweb       1\n"),
    ],
)
def test_formats_of_lists(template: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [containers.row(WEB, now_s=NOW, full=False)]
    output.rows(rows, template=template, columns=containers.COLUMNS, headers=containers.HEADERS)
    assert capsys.readouterr().out == text


def test_json_format_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [containers.row(WEB, now_s=NOW, full=False)] * 2
    output.rows(rows, template="json", columns=containers.COLUMNS, headers=containers.HEADERS)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["Names"] for line in lines] == ["web", "web"]
    assert lines[0]["Labels"] == "a=1,b=2"


def binding(private: int, public: int, address: str = "0.0.0.0", kind: str = "tcp") -> dict[str, Any]:
    return {"PrivatePort": private, "PublicPort": public, "IP": address, "Type": kind}


@pytest.mark.parametrize(
    ("published", "text"),
    [
        ([], ""),
        ([binding(80, 8080)], "0.0.0.0:8080->80/tcp"),
        ([binding(80, 8080), binding(80, 8080, "::")], "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"),
        ([binding(81, 8081), binding(80, 8080), binding(82, 8082)], "0.0.0.0:8080-8082->80-82/tcp"),
        ([binding(80, 8080), binding(81, 9000)], "0.0.0.0:8080->80/tcp, 0.0.0.0:9000->81/tcp"),
        ([{"PrivatePort": 5, "Type": "udp"}, {"PrivatePort": 6, "Type": "udp"}], "5-6/udp"),
    ],
)
def test_ports_are_put_together(published: list[dict[str, Any]], text: str) -> None:
    assert containers.ports(published) == text


def test_filters_become_the_apis_lists() -> None:
    assert json.loads(containers.filters(["status=exited", "label=a=b", "label=c=d"]) or "") == {
        "status": ["exited"],
        "label": ["a=b", "c=d"],
    }
    with pytest.raises(UsageError):
        containers.filters(["status"])


def test_image_has_a_row_for_each_name() -> None:
    image = {
        "Id": "sha256:" + "ab" * 32,
        "RepoTags": ["busybox:latest", "localhost:5000/b:1"],
        "Created": NOW - 86400 * 3,
        "Size": 4_261_502,
    }
    rows = images.rows(image, now_s=NOW, full=False)
    assert [(row["Repository"], row["Tag"]) for row in rows] == [("busybox", "latest"), ("localhost:5000/b", "1")]
    assert (rows[0]["ID"], rows[0]["CreatedSince"], rows[0]["Size"]) == ("abababababab", "3 days ago", "4.26MB")
    nameless = images.rows({**image, "RepoTags": []}, now_s=NOW, full=True)
    assert [(row["Repository"], row["Tag"], row["ID"]) for row in nameless] == [("<none>", "<none>", image["Id"])]
