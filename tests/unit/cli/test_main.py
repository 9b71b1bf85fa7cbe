from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.client.scripted_server import serving

from hyper.cli import main
from hyper.cli.verbs import GROUP_VERBS, GROUPS, NOT_YET, VERBS


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["psx"], 125, "did you mean ps?"),
        (["image", "lss"], 125, "did you mean ls?"),
        (["build", "x"], 125, "build is not there yet"),
        (["--nope"], 125, "unknown flag --nope"),
        (["-H"], 125, "wants a value"),
        (["run"], 125, "at least 1 argument"),
        (["-H", "ssh://x", "ps"], 1, "unix:///path"),
        (["-H", "unix:///nowhere", "ps"], 1, "no engine answers at unix:///nowhere"),
    ],
)
def test_mistakes_are_one_line_and_dockers_exit_code(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(words) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("hyper: ")
    assert printed.out == ""


@pytest.mark.parametrize("words", [[], ["--help"], ["help"], ["help", "run"], ["run", "--help"], ["image"], ["-v"]])
def test_help_goes_to_stdout(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(words) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("verb", [*VERBS, *GROUP_VERBS])
def test_every_verb_has_a_function_and_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, function, _ = (VERBS | GROUP_VERBS)[verb]
    assert callable(getattr(importlib.import_module(f"hyper.cli.{module}"), function))
    assert main.run([*verb.split(), "--help"]) == 0
    assert f"hyper {verb}" in capsys.readouterr().out


def test_groups_name_verbs_that_exist() -> None:
    known = VERBS.keys() | GROUP_VERBS.keys()
    assert all(verb in known for verbs in GROUPS.values() for verb in verbs.values())
    assert not NOT_YET & known


def test_wrong_answer_from_the_engine_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as server:
        assert main.run(["-H", f"unix://{server.path}", "ps"]) == 1
    assert "no list of JSON objects" in capsys.readouterr().err


def test_version_imports_nothing_that_costs_time() -> None:
    code = (
        "import sys; from hyper.cli import main; main.run(['-H', 'unix:///nowhere', 'version']);"
        "print([m for m in ('typing', 'dataclasses', 'argparse', 'http.client', 'subprocess', 'msgspec', 'asyncio')"
        " if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


def test_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    body = b'{"Type":"container","Action":"start"}\n' * 20_000
    with serving(tmp_path, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)) as server:
        code = "from hyper.cli.main import main; main()"
        command = [sys.executable, "-c", code, "-H", f"unix://{server.path}", "events"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait() == 141
