"""Records and the registry over them: names, references, and a disk that is full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hyper.engine.model import Container, ContainerConfig
from hyper.engine.records import EngineRecords
from hyper.engine.registry import ContainerRegistry, check_name
from hyper.errors import Conflict, DataLoss, InvalidArgument, NotFound, ResourceExhausted
from hyper.system.database import Database


def container(id_: str, name: str, **changes: object) -> Container:
    return Container(
        id=id_.ljust(64, "0"),
        name=name,
        created_ns=int(id_, 16),
        image_id="i",
        config=ContainerConfig(image="i", **changes),  # type: ignore[arg-type]
        path="x",
        args=(),
    )


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "state.db")
    yield opened
    opened.close()


@pytest.fixture
def records(database: Database) -> EngineRecords:
    return EngineRecords(database)


def test_what_is_recorded_is_there_for_the_next_daemon(records: EngineRecords, database: Database) -> None:
    first, second = container("b2", "two"), container("a1", "one")
    records.insert(first)
    records.insert(second)
    records.update(msgspec.structs.replace(first, name="deux"))
    assert [item.name for item in EngineRecords(database).containers()] == ["one", "deux"]
    records.delete(second.id)
    assert [item.id for item in records.containers()] == [first.id]


def test_a_name_is_taken_once_and_free_again_after_the_removal(records: EngineRecords) -> None:
    holder = container("a1", "one")
    records.insert(holder)
    words = (
        f'Conflict. The container name "/one" is already in use by container "{holder.id}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
    with pytest.raises(Conflict) as refused:
        records.insert(container("b2", "one"))
    assert refused.value.message == words
    other = container("b2", "two")
    records.insert(other)
    with pytest.raises(Conflict) as refused:
        records.update(msgspec.structs.replace(other, name="one"))
    assert refused.value.message == words
    records.delete(holder.id)
    records.update(msgspec.structs.replace(other, name="one"))


def test_a_full_disk_is_said_and_the_database_works_on(records: EngineRecords, database: Database) -> None:
    records.insert(container("a1", "one"))
    pages = database.query("PRAGMA page_count")[0][0]
    database.connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(ResourceExhausted, match="make space in"):
        records.insert(container("b2", "two", labels={"big": "x" * 1_000_000}))
    assert [item.name for item in records.containers()] == ["one"]
    database.connection.execute("PRAGMA max_page_count = 1000000")
    records.insert(container("b2", "two", labels={"big": "x" * 1_000_000}))
    assert len(records.containers()) == 2


def test_a_record_that_cannot_be_read_is_said(records: EngineRecords, database: Database) -> None:
    records.insert(container("a1", "one"))
    database.connection.execute("UPDATE containers SET body = ?", (b'{"id": 7}',))
    with pytest.raises(DataLoss, match=r"state\.db"):
        records.containers()


def test_sandboxes_are_kept_beside(records: EngineRecords) -> None:
    records.put_sandbox("s1", "", b"1")
    records.put_sandbox("s1", "", b"2")
    records.put_sandbox("s2", "", b"3")
    records.delete_sandbox("s2")
    assert records.sandboxes() == {"s1": b"2"}


async def test_the_registry_follows_the_records(records: EngineRecords) -> None:
    registry = ContainerRegistry(records)
    managed = registry.add(container("ab", "one"))
    assert registry.find("a") is registry.find("/one") is registry.find(managed.id) is managed
    with pytest.raises(Conflict):
        registry.add(container("cd", "one"))
    with pytest.raises(NotFound):
        registry.find("cd")
    registry.store(managed, msgspec.structs.replace(managed.snapshot, name="two"))
    assert not registry.has_name("one") and registry.named("two") is managed
    registry.drop(managed)
    assert list(registry) == [] and records.containers() == []
    with pytest.raises(NotFound, match="No such container: two"):
        registry.find("two")


async def test_a_name_wins_over_an_id_prefix_and_a_full_id_over_a_name(records: EngineRecords) -> None:
    registry = ContainerRegistry(records)
    first, second = registry.add(container("ab", "one")), registry.add(container("cd", "abc"))
    third = registry.add(container("ef", first.id))
    assert registry.find("ab") is first
    assert registry.find("abc") is second
    assert registry.find(first.id) is first
    registry.drop(first)
    assert registry.find(first.id) is third


async def test_a_name_that_is_being_given_is_not_given_again(records: EngineRecords) -> None:
    registry = ContainerRegistry(records)

    def choose(taken: object) -> str:
        return next(name for name in ("aa", "bb") if not registry.has_name(name))

    with registry.generated_name(choose) as first, registry.generated_name(choose) as second:
        assert (first, second) == ("aa", "bb")
    assert not registry.has_name("aa")


@pytest.mark.parametrize("name", ["", "a", "-ab", "a b", "ab/c", "äb", "ab\n"])
def test_names_that_docker_refuses(name: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid container name"):
        check_name(name)
