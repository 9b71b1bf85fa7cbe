"""The engine's records in the state database: containers and the sandboxes they run in.

A row is the object's JSON plus the few columns that are searched or must be unique. Neighbours: ``model.py`` (what
is stored),
``hyper.system.database`` (how).
"""

from __future__ import annotations

import sqlite3

import msgspec

from hyper.engine.model import Container
from hyper.errors import Conflict
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
            with self._database.transaction() as connection:
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
            raise self.name_taken(container.name, container.owner) from error

    def update(self, container: Container) -> None:
        """Write the container's present state; the name may have changed."""
        try:
            with self._database.transaction() as connection:
                connection.execute(
                    "UPDATE containers SET name = ?, body = ? WHERE id = ?",
                    (container.name, msgspec.json.encode(container), container.id),
                )
        except sqlite3.IntegrityError as error:
            raise self.name_taken(container.name, container.owner) from error

    def delete(self, container_id: str) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM containers WHERE id = ?", (container_id,))

    def containers(self) -> list[Container]:
        """All of them, oldest first."""
        rows = self._database.query("SELECT body FROM containers ORDER BY created_ns, id")
        return [msgspec.json.decode(row["body"], type=Container) for row in rows]

    def put_sandbox(self, sandbox_id: str, owner: str, body: bytes) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO sandboxes VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                (sandbox_id, owner, body),
            )

    def delete_sandbox(self, sandbox_id: str) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM sandboxes WHERE id = ?", (sandbox_id,))

    def sandboxes(self) -> dict[str, bytes]:
        """Sandbox ID to its record's JSON."""
        return {row["id"]: row["body"] for row in self._database.query("SELECT id, body FROM sandboxes")}

    def name_taken(self, name: str, owner: str) -> Conflict:
        """Docker's words for a name in use."""
        rows = self._database.query("SELECT id FROM containers WHERE name = ? AND owner = ?", (name, owner))
        holder = rows[0]["id"] if rows else "?"
        return Conflict(
            f'Conflict. The container name "/{name}" is already in use by container "{holder}". '
            "You have to remove (or rename) that container to be able to reuse that name."
        )
