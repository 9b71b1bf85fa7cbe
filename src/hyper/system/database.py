"""The state database: SQLite in WAL mode, one file per daemon root, one connection, used from the event loop's thread.

A commit costs about 33 µs (WAL, ``synchronous=NORMAL``), so it is called directly rather than through a thread. With
NORMAL a *power loss* may drop the last commits, ``kill -9`` of the daemon never does; a caller whose acknowledgement
must survive power
loss asks for ``durable=True`` (one fsync). Each component owns its tables and brings
its own migrations: a list of SQL scripts, applied once each, in order, counted per component.

Neighbours: the ``records.py`` of images, networks and engine.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hyper.errors import DataLoss, FailedPrecondition, ResourceExhausted


class Database:
    """One open state database. Not shared between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=True)
            self.connection.row_factory = sqlite3.Row
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=NORMAL")
            self.connection.execute("PRAGMA foreign_keys=ON")
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS migrations (component TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT"
            )
        except sqlite3.DatabaseError as error:
            raise DataLoss(
                f"the state database {path} cannot be opened ({error}); restore it from a backup or move it away"
            ) from error

    def migrate(self, component: str, scripts: Sequence[str]) -> None:
        """Apply those of ``scripts`` that this database has not seen; refuses a database from a newer Hyper."""
        row = self.connection.execute("SELECT version FROM migrations WHERE component = ?", (component,)).fetchone()
        version = int(row["version"]) if row else 0
        if version > len(scripts):
            raise FailedPrecondition(
                f"{self.path} was written by a newer Hyper ({component} schema {version}, this one knows "
                f"{len(scripts)}); start that version, or use another --data-root"
            )
        for number, script in enumerate(scripts[version:], start=version + 1):
            with self.transaction() as connection:
                for statement in filter(None, (part.strip() for part in script.split(";\n"))):
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO migrations VALUES (?, ?) "
                    "ON CONFLICT (component) DO UPDATE SET version = excluded.version",
                    (component, number),
                )

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """A write transaction: all of it or nothing. Does not nest, and must not await inside.

        ResourceExhausted when the disk has no room for it."""
        if durable:
            self.connection.execute("PRAGMA synchronous=FULL")
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:  # a full disk may have rolled it back already
                    self.connection.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise
            raise ResourceExhausted(
                f"{self.path.name} cannot be written ({error}): make space in {self.path.parent} and try again"
            ) from error
        finally:
            if durable:
                self.connection.execute("PRAGMA synchronous=NORMAL")

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[sqlite3.Row]:
        """All rows of a SELECT."""
        return self.connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        self.connection.close()
