"""The image store's tables: images, what they consist of, names, leases, and what is not on the platters yet.

Every change is one transaction. Neighbours: ``store.py`` (the only user), ``hyper.system.database``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from hyper.system.database import Database

MIGRATIONS = (
    """
CREATE TABLE images (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, config BLOB NOT NULL, size_bytes INTEGER NOT NULL,
    created_ns INTEGER NOT NULL, loaded_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE image_layers (
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE, position INTEGER NOT NULL,
    diff_id TEXT NOT NULL, blob TEXT NOT NULL, size_bytes INTEGER NOT NULL, PRIMARY KEY (image_id, position)
) STRICT;
CREATE TABLE image_disks (
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE, position INTEGER NOT NULL,
    disk_id TEXT NOT NULL, PRIMARY KEY (image_id, position)
) STRICT;
CREATE TABLE image_references (
    owner TEXT NOT NULL, reference TEXT NOT NULL, image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    PRIMARY KEY (owner, reference)
) STRICT;
CREATE TABLE disk_leases (
    holder TEXT NOT NULL, position INTEGER NOT NULL, disk_id TEXT NOT NULL, image_id TEXT NOT NULL, owner TEXT NOT NULL,
    PRIMARY KEY (holder, position)
) STRICT;
CREATE TABLE unsynced_files (
    kind TEXT NOT NULL, name TEXT NOT NULL, boot_id TEXT NOT NULL, PRIMARY KEY (kind, name)
) STRICT;
CREATE INDEX image_layers_by_blob ON image_layers (blob);
CREATE INDEX image_disks_by_disk ON image_disks (disk_id);
CREATE INDEX disk_leases_by_disk ON disk_leases (disk_id)
""",
    # Of registries: manifests that images came with, where blobs are known to be, and what layers became when pushed.
    """
CREATE TABLE image_manifests (
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE, digest TEXT NOT NULL, media_type TEXT NOT NULL,
    raw BLOB NOT NULL, PRIMARY KEY (image_id, digest)
) STRICT;
CREATE TABLE blob_repositories (
    blob TEXT NOT NULL, repository TEXT NOT NULL, noted_ns INTEGER NOT NULL, PRIMARY KEY (blob, repository)
) STRICT;
CREATE TABLE packed_layers (
    blob TEXT PRIMARY KEY, packed TEXT NOT NULL, size_bytes INTEGER NOT NULL
) STRICT
""",
)

_REPOSITORIES_PER_BLOB = 20


@dataclass(frozen=True)
class LayerRecord:
    """``size_bytes``: uncompressed."""

    diff_id: str
    blob: str
    size_bytes: int


@dataclass(frozen=True)
class ManifestRecord:
    """A manifest that an image came with."""

    digest: str
    media_type: str
    raw: bytes


@dataclass(frozen=True)
class ImageRecord:
    """One row of images with its parts, layers and disks lowest first."""

    id: str
    owner: str
    config: bytes
    size_bytes: int
    created_ns: int
    loaded_ns: int
    layers: tuple[LayerRecord, ...]
    disk_ids: tuple[str, ...]
    references: tuple[str, ...] = ()


class ImageRecords:
    """Synchronous; to be used in the event loop's thread, as the database is."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("images", MIGRATIONS)

    def images(self) -> list[ImageRecord]:
        """All images, the newest first (as Docker lists them)."""
        layers: dict[str, list[LayerRecord]] = {}
        for row in self._database.query("SELECT * FROM image_layers ORDER BY image_id, position"):
            layers.setdefault(row["image_id"], []).append(LayerRecord(row["diff_id"], row["blob"], row["size_bytes"]))
        disks = self._grouped("SELECT image_id, disk_id AS value FROM image_disks ORDER BY image_id, position")
        names = self._grouped("SELECT image_id, reference AS value FROM image_references ORDER BY reference")
        return [
            ImageRecord(
                row["id"],
                row["owner"],
                row["config"],
                row["size_bytes"],
                row["created_ns"],
                row["loaded_ns"],
                tuple(layers.get(row["id"], ())),
                tuple(disks.get(row["id"], ())),
                tuple(names.get(row["id"], ())),
            )
            for row in self._database.query("SELECT * FROM images ORDER BY created_ns DESC, id")
        ]

    def add(
        self,
        image: ImageRecord,
        unsynced: Sequence[tuple[str, str]],
        boot_id: str,
        came_with: ManifestRecord | None = None,
    ) -> None:
        """Record an image and its names; one that is there already gets the names only.

        ``unsynced``: (kind, name) of the files that are written, renamed, but not yet synced.
        """
        with self._database.transaction(durable=True) as connection:
            known = connection.execute("SELECT 1 FROM images WHERE id = ?", (image.id,)).fetchone()
            if not known:
                connection.execute(
                    "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?)",
                    (image.id, image.owner, image.config, image.size_bytes, image.created_ns, image.loaded_ns),
                )
                connection.executemany(
                    "INSERT INTO image_layers VALUES (?, ?, ?, ?, ?)",
                    [
                        (image.id, at, layer.diff_id, layer.blob, layer.size_bytes)
                        for at, layer in enumerate(image.layers)
                    ],
                )
                connection.executemany(
                    "INSERT INTO image_disks VALUES (?, ?, ?)",
                    [(image.id, at, disk) for at, disk in enumerate(image.disk_ids)],
                )
            for name in image.references:
                _point(connection, image.owner, name, image.id)
            _put_manifest(connection, image.id, came_with)
            connection.executemany(
                "INSERT OR REPLACE INTO unsynced_files VALUES (?, ?, ?)",
                [(kind, name, boot_id) for kind, name in unsynced],
            )

    def add_names(self, image: ImageRecord, names: Sequence[str], came_with: ManifestRecord | None) -> None:
        """More names, and another manifest, for an image that is there."""
        with self._database.transaction(durable=True) as connection:
            for name in names:
                _point(connection, image.owner, name, image.id)
            _put_manifest(connection, image.id, came_with)

    def manifests(self, image_id: str) -> list[ManifestRecord]:
        rows = self._database.query(
            "SELECT digest, media_type, raw FROM image_manifests WHERE image_id = ? ORDER BY rowid", (image_id,)
        )
        return [ManifestRecord(row["digest"], row["media_type"], row["raw"]) for row in rows]

    def note_repository(self, blobs: Sequence[str], repository: str, now_ns: int) -> None:
        """These blobs are in that repository (with its registry in front): they can be mounted from there."""
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO blob_repositories VALUES (?, ?, ?)",
                [(blob, repository, now_ns) for blob in blobs],
            )
            connection.executemany(
                "DELETE FROM blob_repositories WHERE blob = ? AND repository NOT IN "
                "(SELECT repository FROM blob_repositories WHERE blob = ? ORDER BY noted_ns DESC LIMIT ?)",
                [(blob, blob, _REPOSITORIES_PER_BLOB) for blob in blobs],
            )

    def repositories(self, blob: str) -> list[str]:
        """Where a blob is known to be, the latest first."""
        rows = self._database.query(
            "SELECT repository FROM blob_repositories WHERE blob = ? ORDER BY noted_ns DESC, repository", (blob,)
        )
        return [row["repository"] for row in rows]

    def note_packed(self, blob: str, packed: str, size_bytes: int) -> None:
        """An uncompressed blob was compressed for a push, which always gives the same bytes."""
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO packed_layers VALUES (?, ?, ?)", (blob, packed, size_bytes))

    def packed(self, blob: str) -> tuple[str, int] | None:
        rows = self._database.query("SELECT packed, size_bytes FROM packed_layers WHERE blob = ?", (blob,))
        return (rows[0]["packed"], rows[0]["size_bytes"]) if rows else None

    def point(self, owner: str, reference: str, image_id: str) -> None:
        """Let the name mean this image from now on."""
        with self._database.transaction(durable=True) as connection:
            _point(connection, owner, reference, image_id)

    def forget(self, references: Sequence[str], image_id: str | None) -> None:
        """Remove names, and the image when one is given, in one step."""
        with self._database.transaction(durable=True) as connection:
            connection.executemany("DELETE FROM image_references WHERE reference = ?", [(name,) for name in references])
            if image_id is not None:
                connection.execute("DELETE FROM images WHERE id = ?", (image_id,))

    def lease(self, holder: str, owner: str, image_id: str, disk_ids: Sequence[str]) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM disk_leases WHERE holder = ?", (holder,))
            connection.executemany(
                "INSERT INTO disk_leases VALUES (?, ?, ?, ?, ?)",
                [(holder, at, disk, image_id, owner) for at, disk in enumerate(disk_ids)],
            )

    def release(self, holder: str) -> list[str]:
        """End a lease; returns the disks it was for."""
        with self._database.transaction() as connection:
            rows = connection.execute(
                "DELETE FROM disk_leases WHERE holder = ? RETURNING disk_id", (holder,)
            ).fetchall()
        return [row["disk_id"] for row in rows]

    def lease_holders(self) -> list[str]:
        """Everybody who holds a lease."""
        return [str(row["holder"]) for row in self._database.query("SELECT DISTINCT holder FROM disk_leases")]

    def leased(self, holder: str) -> list[str]:
        rows = self._database.query("SELECT disk_id FROM disk_leases WHERE holder = ? ORDER BY position", (holder,))
        return [row["disk_id"] for row in rows]

    def disks_in_use(self) -> set[str]:
        rows = self._database.query("SELECT disk_id FROM image_disks UNION SELECT disk_id FROM disk_leases")
        return {row["disk_id"] for row in rows}

    def blobs_in_use(self) -> set[str]:
        return {row["blob"] for row in self._database.query("SELECT DISTINCT blob FROM image_layers")}

    def blob_diff_ids(self) -> dict[str, str]:
        """For blobs that are stored: the diff ID they were verified to have."""
        return {
            row["blob"]: row["diff_id"]
            for row in self._database.query("SELECT DISTINCT blob, diff_id FROM image_layers")
        }

    def unsynced(self) -> list[tuple[str, str, str]]:
        """(kind, name, the boot in which it was written)."""
        rows = self._database.query("SELECT kind, name, boot_id FROM unsynced_files")
        return [(row["kind"], row["name"], row["boot_id"]) for row in rows]

    def synced(self, kind: str, name: str) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM unsynced_files WHERE kind = ? AND name = ?", (kind, name))

    def _grouped(self, sql: str) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for row in self._database.query(sql):
            groups.setdefault(row["image_id"], []).append(row["value"])
        return groups


def _put_manifest(connection: sqlite3.Connection, image_id: str, came_with: ManifestRecord | None) -> None:
    if came_with is not None:
        connection.execute(
            "INSERT OR REPLACE INTO image_manifests VALUES (?, ?, ?, ?)",
            (image_id, came_with.digest, came_with.media_type, came_with.raw),
        )


def _point(connection: sqlite3.Connection, owner: str, reference: str, image_id: str) -> None:
    connection.execute(
        "INSERT INTO image_references VALUES (?, ?, ?) ON CONFLICT (owner, reference) DO UPDATE "
        "SET image_id = excluded.image_id",
        (owner, reference, image_id),
    )
