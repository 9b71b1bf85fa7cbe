"""What the benchmarks make of measurements, and where they put it."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.engine import NotAvailable
from bench.figures import Figures, compared, percentile
from bench.peers import NEEDED, Peers
from bench.report import Section, plain, write


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile(list(range(1, 21)), 0.95) == 19
    assert percentile([7.0], 0.95) == 7.0
    assert percentile([1.0, 2.0], 0.5) == 1.0


def test_figures_do_not_depend_on_the_order() -> None:
    assert Figures.of([3.0, 1.0, 2.0]) == Figures(1.0, 2.0, 3.0, 3.0)
    with pytest.raises(ValueError, match="no measurements"):
        Figures.of([])


def test_ratios_are_those_of_medians_to_the_peers_that_were_measured() -> None:
    cells = compared({"hyper pool": [50.0, 40.0, 900.0], "docker": [200.0]})
    assert cells == {
        "hyper pool": ["40", "50", "900", "900", "0.25", "-"],
        "docker": ["200", "200", "200", "200", "1.00", "-"],
    }


def test_a_section_takes_the_place_of_its_last_one(tmp_path: Path) -> None:
    docs = tmp_path / "benchmarks.md"
    docs.write_text("# Benchmarks\n\n<!-- bench: a -->\nold\n<!-- /bench: a -->\n\nafter\n")
    for value in ("1", "2"):
        write(Section("a", "A title", ("what",), [[value]], ["A note."]), "make bench", "a machine", docs)
    text = docs.read_text()
    assert "old" not in text and "| 1 |" not in text
    assert text.count("<!-- bench: a -->") == 1
    assert text.startswith("# Benchmarks\n") and text.endswith("<!-- /bench: a -->\n\nafter\n")
    for part in ("    make bench\n", "**A title**", "a machine.", "| what |\n| --- |\n| 2 |\n", "- A note."):
        assert part in text


def test_a_section_without_a_place_is_put_at_the_end(tmp_path: Path) -> None:
    docs = tmp_path / "benchmarks.md"
    docs.write_text("# Benchmarks\n")
    write(Section("b", "B", ("what",), [["1"]]), "make bench", "a machine", docs)
    assert docs.read_text().startswith("# Benchmarks\n\n## b\n\n<!-- bench: b -->\n")


def test_columns_are_lined_up_in_a_terminal() -> None:
    lines = plain(Section("a", "T", ("x", "y"), [["long", "1"], ["s", "2"]])).splitlines()
    assert lines[1:] == ["T", "x     y", "-------", "long  1", "s     2"]


def test_who_misses_a_peer_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotAvailable, match=r"there is no dockerd, .*`make peers`.*apt-get install"):
        Peers(tmp_path / "peers").laid_over("docker")


def test_unpacked_programs_serve_when_none_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    programs = tmp_path / "peers" / "usr" / "bin"
    programs.mkdir(parents=True)
    for name in NEEDED["podman"]:
        (programs / name).touch()
    assert Peers(tmp_path / "peers").laid_over("podman") == tmp_path / "peers"
