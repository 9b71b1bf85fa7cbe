"""Volumes survive the daemon, and what no record names does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hyper.errors import NotFound
from hyper.system.database import Database
from hyper.volumes.store import VolumeStore


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "state.db")


async def test_a_volume_is_there_again_with_all_it_had(tmp_path: Path, database: Database) -> None:
    store = await VolumeStore.open(tmp_path, database)
    made, new = store.create("data", labels={"a": "1"}, options={})
    assert new
    (store.mountpoint("data") / "file").write_text("kept")
    again = await VolumeStore.open(tmp_path, database)
    assert again.get("data") == made
    assert (again.source("data") / "file").read_text() == "kept"


async def test_creating_twice_changes_nothing(tmp_path: Path, database: Database) -> None:
    store = await VolumeStore.open(tmp_path, database)
    made, _ = store.create("data", labels={"a": "1"}, options={})
    assert store.create("data", labels={"a": "2"}, options={"nonsense": "1"}) == (made, False)


async def test_a_removed_volume_is_gone_with_its_content(tmp_path: Path, database: Database) -> None:
    store = await VolumeStore.open(tmp_path, database)
    store.create("data", labels={}, options={})
    (store.mountpoint("data") / "file").write_text("x")
    await store.remove("data")
    assert list((tmp_path / "volumes").iterdir()) == []
    with pytest.raises(NotFound, match="get data: no such volume"):
        store.get("data")
    store.create("data", labels={}, options={})
    assert list(store.mountpoint("data").iterdir()) == []


async def test_a_start_sweeps_what_has_no_record_and_makes_what_is_missing(tmp_path: Path, database: Database) -> None:
    store = await VolumeStore.open(tmp_path, database)
    store.create("data", labels={}, options={})
    (tmp_path / "volumes" / "stray" / "_data" / "deep").mkdir(parents=True)
    (tmp_path / "volumes" / ".gone-1").mkdir()
    os.rmdir(store.mountpoint("data"))
    await VolumeStore.open(tmp_path, database)
    assert [entry.name for entry in (tmp_path / "volumes").iterdir()] == ["data"]
    assert store.mountpoint("data").is_dir()


async def test_the_hosts_directory_behind_a_name_is_left_alone(tmp_path: Path, database: Database) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    store = await VolumeStore.open(tmp_path, database)
    store.create("named", labels={}, options={"type": "none", "o": "bind", "device": str(outside)})
    assert store.source("named") == outside
    assert await store.used_bytes("named") < 100_000
    await store.remove("named")
    assert (outside / "file").exists()


async def test_nobody_else_on_the_host_comes_near_the_content(tmp_path: Path, database: Database) -> None:
    store = await VolumeStore.open(tmp_path, database)
    store.create("data", labels={}, options={})
    assert (tmp_path / "volumes").stat().st_mode & 0o077 == 0
    assert store.mountpoint("data").stat().st_mode & 0o777 == 0o755
