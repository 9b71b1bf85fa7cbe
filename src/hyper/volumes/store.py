"""The local driver: named volumes as directories below the data root, and their records.

``volumes/<name>/_data`` is a volume's content, as Docker lays it out. A directory without a record is removed at the
next start; a record whose directory has gone gets an empty one. Who uses a volume is the engine's knowledge
(:mod:`hyper.engine.volumes`), and so is when it may be removed.

Neighbours: ``options.py`` (what names and options may be), :mod:`hyper.system.trees` (removal).
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hyper.errors import DataLoss, NotFound, ResourceExhausted
from hyper.system import blocking, trees
from hyper.system.database import Database
from hyper.volumes.options import check_name, check_options, device, is_readonly

_log = logging.getLogger(__name__)
_MIGRATIONS = (
    """
    CREATE TABLE volumes (
        name TEXT NOT NULL,
        owner TEXT NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (owner, name)
    ) STRICT
    """,
)
_GONE = ".gone-"
"""What a name begins with while its tree is being removed; no volume's name can."""


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A named volume."""

    name: str
    created_ns: int
    owner: str = ""
    labels: dict[str, str] = {}
    options: dict[str, str] = {}


class VolumeStore:
    """Made by :meth:`open`. Used from the event loop's thread; what takes long is done beside it."""

    def __init__(self, folder: Path, database: Database) -> None:
        self._folder = folder
        self._database = database
        database.migrate("volumes", _MIGRATIONS)
        self._volumes: dict[str, Volume] = {}
        for row in database.query("SELECT body FROM volumes"):
            try:
                volume = msgspec.json.decode(row["body"], type=Volume)
            except msgspec.MsgspecError as error:
                raise DataLoss(f"a volume's record in {database.path} cannot be read: {error}") from error
            self._volumes[volume.name] = volume

    @classmethod
    async def open(cls, data_root: Path, database: Database) -> VolumeStore:
        """Reads the records, and sweeps away what a killed daemon left."""
        # Nobody else may come near what a container writes: it can make programs that run as root.
        folder = data_root / "volumes"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = cls(folder, database)
        for entry in list(folder.iterdir()):
            if entry.name not in store._volumes:
                await store.discard(entry)
        for volume in store._volumes.values():
            store._make_folder(volume.name)
        return store

    def list(self) -> list[Volume]:
        """By name."""
        return sorted(self._volumes.values(), key=lambda volume: volume.name)

    def find(self, name: str) -> Volume | None:
        return self._volumes.get(name)

    def get(self, name: str) -> Volume:
        """NotFound in Docker's words."""
        volume = self._volumes.get(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        return volume

    def create(self, name: str, *, labels: Mapping[str, str], options: Mapping[str, str]) -> tuple[Volume, bool]:
        """The volume of this name, and whether it is new. One that is there stays as it is, whatever was asked."""
        if (known := self._volumes.get(name)) is not None:
            return known, False
        check_name(name)
        check_options(name, options)
        volume = Volume(name=name, created_ns=time.time_ns(), labels=dict(labels), options=dict(options))
        self._make_folder(name)
        try:
            with self._database.transaction() as connection:
                connection.execute(
                    "INSERT INTO volumes VALUES (?, ?, ?)", (name, volume.owner, msgspec.json.encode(volume))
                )
        except sqlite3.Error as error:
            raise ResourceExhausted(f"create {name}: the volume cannot be recorded: {error}") from error
        self._volumes[name] = volume
        return volume, True

    async def remove(self, name: str) -> None:
        """Forget it, then remove what is in it. A volume that is a name of the host's directory leaves that alone."""
        await self.discard(self.forget(name))

    def forget(self, name: str) -> Path:
        """There is no such volume any more; what is to be discarded of it, now or when nobody uses it any more."""
        volume = self.get(name)
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM volumes WHERE name = ? AND owner = ?", (name, volume.owner))
        del self._volumes[name]
        # Out of the way first: the name may be taken again at once.
        gone = self._folder / f"{_GONE}{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._folder / name, gone)
        return gone

    def mountpoint(self, name: str) -> Path:
        """Where Docker's users look for the content; a volume that is a name of another directory has it empty."""
        return self._folder / name / "_data"

    def source(self, name: str) -> Path:
        """What a container is to see. NotFound when there is no such volume."""
        return device(self.get(name).options) or self.mountpoint(name)

    def is_readonly(self, name: str) -> bool:
        return is_readonly(self.get(name).options)

    async def used_bytes(self, name: str) -> int:
        """What it takes on the disk; 0 for what is not ours."""
        return await blocking.run(trees.used_bytes, self.mountpoint(name))

    def _make_folder(self, name: str) -> None:
        content = self.mountpoint(name)
        try:
            content.parent.mkdir(mode=0o700, exist_ok=True)
            if not content.is_dir():
                content.mkdir()
                content.chmod(0o755)  # whatever the umask says
        except OSError as error:
            raise ResourceExhausted(f"create {name}: {content} cannot be made: {error.strerror}") from error

    async def discard(self, path: Path) -> None:
        """What cannot be removed now is tried again at the next start."""
        try:
            await blocking.run(trees.remove, path)
        except OSError as error:
            _log.error("%s cannot be removed: %s", path, error)
