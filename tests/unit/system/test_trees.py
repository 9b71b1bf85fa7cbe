"""Trees of strangers are removed whole, whatever they are like, and nothing outside of them is touched."""

from __future__ import annotations

import os
from pathlib import Path

from hyper.system import trees


def test_a_tree_deeper_than_paths_and_recursion_go_is_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    here = os.open(tree, os.O_DIRECTORY)
    for _ in range(3000):
        os.mkdir("d" * 20, dir_fd=here)
        deeper = os.open("d" * 20, os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    assert trees.used_bytes(tree) >= 0
    trees.remove(tree)
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"x" * 100_000)
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "link").symlink_to(outside)
    (tree / "dangling").symlink_to("/nowhere")
    os.mkfifo(tree / "pipe")
    assert trees.used_bytes(tree) < 100_000
    trees.remove(tree)
    assert [entry.name for entry in tmp_path.iterdir()] == ["outside"]
    assert (outside / "kept").exists()


def test_what_has_two_names_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 1_000_000)
    before = trees.used_bytes(tmp_path)
    os.link(tmp_path / "one", tmp_path / "two")
    assert trees.used_bytes(tmp_path) == before


def test_removing_nothing_is_nothing(tmp_path: Path) -> None:
    trees.remove(tmp_path / "absent")
    assert trees.used_bytes(tmp_path / "absent") == 0
