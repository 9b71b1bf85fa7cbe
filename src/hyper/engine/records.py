"""The engine's records in the state database: containers and the sandboxes they run in.

A row is the object's JSON plus the few columns that are searched or must be unique. Neighbours: ``model.py`` (what
is stored),
``hyper.system.database`` (how).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from hyper.engine.model import Container
from hyper.errors import Conflict, DataLoss, ResourceExhausted
from hyper.system.database import Database

_MIGRATIONS = (
    """
    CREATE TABLE containers (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        created_ns INTEGER NOT NULL,
        body BLOB NOT NULL,
        UNIQUE (owner, name)
    ) STRICT;
    CREATE TABLE sandboxes (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        body BLOB NOT NULL
    ) STRICT
    """,
)


class EngineRecords:
    """Containers and sandboxes, each write its own transaction, durable against ``kill -9`` of the daemon when it
    returns."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("engine", _MIGRATIONS)

    def insert(self, container: Container) -> None:
        """A new container. Conflict with Docker's words when the name is taken."""
        try:
            with self._transaction() as connection:
                connection.execute(
                    "INSERT INTO containers VALUES (?, ?, ?, ?, ?)",
                    (
                        container.id,
                        container.owner,
                        container.name,
                        container.created_ns,
                        msgspec.json.encode(container),
                    ),
                )
        except sqlite3.IntegrityError as error:
            raise name_taken(container.name, self._holder(container)) from error

    def update(self, container: Container) -> None:
        """Write the container's present state; the name may have changed."""
        try:
            with self._transaction() as connection:
                connection.execute(
                    "UPDATE containers SET name = ?, body = ? WHERE id = ?",
                    (container.name, msgspec.json.encode(container), container.id),
                )
        except sqlite3.IntegrityError as error:
            raise name_taken(container.name, self._holder(container)) from error

    def delete(self, container_id: str) -> None:
        with self._transaction() as connection:
            connection.execute("DELETE FROM containers WHERE id = ?", (container_id,))

    def containers(self) -> list[Container]:
        """All of them, oldest first."""
        rows = self._database.query("SELECT body FROM containers ORDER BY created_ns, id")
        try:
            return [msgspec.json.decode(row["body"], type=Container) for row in rows]
        except msgspec.MsgspecError as error:
            raise DataLoss(
                f"a container's record in {self._database.path} cannot be read ({error}); was it written by another "
                "version of Hyper?"
            ) from error

    def put_sandbox(self, sandbox_id: str, owner: str, body: bytes) -> None:
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO sandboxes VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                (sandbox_id, owner, body),
            )

    def delete_sandbox(self, sandbox_id: str) -> None:
        with self._transaction() as connection:
            connection.execute("DELETE FROM sandboxes WHERE id = ?", (sandbox_id,))

    def sandboxes(self) -> dict[str, bytes]:
        """Sandbox ID to its record's JSON."""
        return {row["id"]: row["body"] for row in self._database.query("SELECT id, body FROM sandboxes")}

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._database.transaction() as connection:
                yield connection
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
                raise
            raise ResourceExhausted(
                f"the state database {self._database.path} cannot be written ({error}); free some space and try again"
            ) from error

    def _holder(self, container: Container) -> str:
        rows = self._database.query(
            "SELECT id FROM containers WHERE name = ? AND owner = ?", (container.name, container.owner)
        )
        return str(rows[0]["id"]) if rows else "?"


def name_taken(name: str, holder: str) -> Conflict:
    """Docker's words for a name in use."""
    return Conflict(
        f'Conflict. The container name "/{name}" is already in use by container "{holder}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
