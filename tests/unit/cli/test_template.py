from __future__ import annotations

import pytest

from hyper.cli.template import Fields, Template
from hyper.errors import InvalidArgument

CONTAINER = {
    "Id": "abc",
    "State": {"Running": True, "Pid": 7, "Error": ""},
    "Config": {"Env": ["A=1", "B=2"], "Labels": {"com.x": "y", "b": "c"}, "Cmd": None},
    "Ports": {"80/tcp": [{"HostPort": "8080"}], "90/tcp": None},
}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("plain", "plain"),
        ("{{.Id}}", "abc"),
        ("{{ .State.Pid }}-{{.State.Running}}", "7-true"),
        ("{{.Missing}}", "<no value>"),
        ("{{.Config.Env}} {{.Config.Labels}}", "[A=1 B=2] map[b:c com.x:y]"),
        ("{{json .State}}", '{"Running":true,"Pid":7,"Error":""}'),
        ("{{.Config.Cmd | json}}", "null"),
        ("{{range .Config.Env}}{{.}};{{end}}", "A=1;B=2;"),
        ("{{range $i, $e := .Config.Env}}{{$i}}={{$e}} {{end}}", "0=A=1 1=B=2 "),
        ("{{range $p, $c := .Ports}}{{$p}}->{{(index $c 0).HostPort}} {{else}}none{{end}}", None),
        ('{{(index (index .Ports "80/tcp") 0).HostPort}}', "8080"),
        ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if .State.Error}}bad{{else if eq .State.Pid 7}}seven{{else}}other{{end}}", "seven"),
        ("{{if and .State.Running (not .State.Error)}}fine{{end}}", "fine"),
        ('{{with index .Config.Labels "com.x"}}<{{.}}>{{end}}', "<y>"),
        ("a {{- .Id -}} b", "aabcb"),
        ('{{join .Config.Env ", "}}', "A=1, B=2"),
        ('{{.Id | upper | printf "%5s|"}}', "  ABC|"),
        ('{{"a\\tb"}}{{`\\n`}}', "a\tb\\n"),
        ("{{/* nothing */}}x", "x"),
        ("{{$x := .Id}}{{$x}}{{len .Config.Env}}", "abc2"),
        ("{{println .Id}}", "abc\n"),
        ("{{.}}", None),
    ],
)
def test_what_people_write_for_docker(source: str, text: str | None) -> None:
    template = Template(source)
    if text is None:
        with_nothing_to_index = "{{range $p" in source
        if with_nothing_to_index:
            assert template.render({"Ports": {}}) == "none"
        else:
            assert template.render({"b": 1, "a": None}) == "map[a:<no value> b:1]"
    else:
        assert template.render(CONTAINER) == text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{.Id", "has no }}"),
        ("{{if .Id}}x", "no {{end}}"),
        ("{{end}}", "too many"),
        ("{{frobnicate .Id}}", "no function 'frobnicate'"),
        ("{{$nobody}}", "no variable"),
        ("{{.Id.Deeper}}", "no fields"),
        ("{{.Id 1}}", "takes no arguments"),
        ("{{index .Config.Env 9}}", "index"),
        ("{{}}", "empty"),
        ("{{.Id ~}}", "cannot read"),
    ],
)
def test_what_cannot_be_used_is_named(source: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        Template(source).render(CONTAINER)


def test_unknown_field_of_a_row_lists_the_known_ones() -> None:
    with pytest.raises(InvalidArgument, match=r"no field \.Nam; there are Image, Name"):
        Template("{{.Nam}}").render(Fields(Name="a", Image="b"))


def test_fields_that_are_functions_take_words() -> None:
    row = Fields(Label=lambda name: {"a": "1"}.get(name, ""), Name="x")
    assert Template('{{.Label "a"}}{{json .}}').render(row) == '1{"Name":"x"}'
