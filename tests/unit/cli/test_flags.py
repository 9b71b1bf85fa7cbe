from __future__ import annotations

import pytest

from hyper.cli.flags import HelpRequested, Parsed, UsageError, many, parse, switch, value

FLAGS = (
    switch("-i --interactive", "stdin"),
    switch("-t --tty", "terminal"),
    switch("--sig-proxy", "signals", default=True),
    value("-w --workdir", "folder"),
    value("--net --network", "network"),
    many("-e --env", "variables"),
)


def read(*words: str, leading: bool = True, at_least: int = 0, at_most: int | None = None) -> Parsed:
    return parse("run", words, FLAGS, usage="…", summary="…", leading=leading, at_least=at_least, at_most=at_most)


@pytest.mark.parametrize(
    "words",
    [
        ["-it", "-w", "/src", "-eA=1", "-e", "B=2"],
        ["-i", "-t", "-w/src", "--env", "A=1", "--env=B=2"],
        ["-tiw", "/src", "-e=A=1", "-e=B=2"],
        ["--interactive=true", "--tty=1", "--workdir=/src", "-eA=1", "-eB=2"],
    ],
)
def test_all_of_dockers_ways_to_write_flags_mean_the_same(words: list[str]) -> None:
    parsed = read(*words, "image", "-i", "--", "x")
    assert (parsed.on("interactive"), parsed.on("tty"), parsed.value("workdir")) == (True, True, "/src")
    assert parsed.list("env") == ["A=1", "B=2"]
    assert parsed.arguments == ["image", "-i", "--", "x"]


def test_flags_end_at_the_first_argument_only_when_they_lead() -> None:
    assert read("image", "-t").arguments == ["image", "-t"]
    assert read("image", "-t", leading=False).on("tty")
    assert read("--", "-t").arguments == ["-t"]
    assert read("-").arguments == ["-"]


def test_switches_can_be_turned_off_and_the_last_one_counts() -> None:
    assert read().on("sig-proxy")
    assert not read("--sig-proxy=false").on("sig-proxy")
    assert not read("-t", "--tty=0").on("tty")
    assert not read("-t=false").on("tty")
    assert read("--net=a", "--network", "b").value("network") == "b"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--interactiv"], "did you mean --interactive"),
        (["-x"], "unknown flag -x"),
        (["-ixt"], "unknown flag -x in -ixt"),
        (["-w"], "-w wants a value"),
        (["--tty=maybe"], "either true or false"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(*words)


@pytest.mark.parametrize(("words", "least", "most"), [([], 1, None), (["a", "b"], 0, 1), (["a"], 0, 0), (["a"], 2, 2)])
def test_wrong_number_of_arguments_is_refused(words: list[str], least: int, most: int | None) -> None:
    with pytest.raises(UsageError, match="wants"):
        read(*words, at_least=least, at_most=most)


def test_help_lists_every_flag() -> None:
    with pytest.raises(HelpRequested) as text:
        read("--help")
    assert "  -e, --env list" in str(text.value)
    assert "      --sig-proxy        signals (default true)" in str(text.value)
