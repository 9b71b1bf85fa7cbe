"""``hyper diff``, ``export``, ``commit``, ``save`` and ``image prune`` against a real hyperd."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hyperd import Door, hyperd
from tests.hyperd import Hyperd as Daemon
from tests.integration.test_cli import hyper, out

__all__ = ["hyperd"]

pytestmark = pytest.mark.vm


@pytest.fixture
def changed(hyperd: Daemon) -> Iterator[tuple[Door, str]]:
    """A container that has made a file and ended."""
    door = hyperd.door
    with door.name() as name:
        hyper(door, "run", "--name", name, "--network", "none", "busybox", "sh", "-c", "echo new > /made")
        yield door, name


def test_changes_and_files_come_out(changed: tuple[Door, str], tmp_path: Path) -> None:
    door, name = changed
    assert out(door, "diff", name) == "A /made"
    target = tmp_path / "root.tar"
    hyper(door, "export", "-o", str(target), name)
    with tarfile.open(target) as tar:
        assert tar.extractfile("made").read() == b"new\n"  # type: ignore[union-attr]
    assert hyper(door, "export", name).stdout == target.read_bytes()
    hyper(door, "diff", "nosuch", code=1)
    hyper(door, "export", "-o", str(tmp_path / "no" / "folder"), name, code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["root.tar"]


def test_a_commit_is_saved_pruned_and_loaded(changed: tuple[Door, str], tmp_path: Path) -> None:
    door, name = changed
    image = f"registry.example:5000/{name}:1"
    made = out(door, "commit", "-m", "why", "-a", "me", "-c", "CMD cat /made", name, image)
    assert out(door, "inspect", "-f", "{{.Id}}", image) == made
    target = tmp_path / "image.tar"
    hyper(door, "save", "-o", str(target), image)
    hyper(door, "tag", image, f"{name}:other")
    hyper(door, "rmi", image, f"{name}:other")
    assert out(door, "load", "-i", str(target)) == f"Loaded image: {image}"
    assert out(door, "run", "--rm", "--network", "none", image) == "new"
    hyper(door, "rmi", image)
    dangling = out(door, "commit", "--pause=false", name)
    pruned = out(door, "image", "prune", "-f")
    assert f"deleted: {dangling}" in pruned
    assert "Total reclaimed space:" in pruned
