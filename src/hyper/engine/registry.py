"""All containers in memory, found as users name them. The records hold the same; this is what every list and look-up
reads."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hyper.engine.managed import Managed
from hyper.engine.model import Container
from hyper.engine.records import EngineRecords
from hyper.errors import HyperError, InvalidArgument, NotFound

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


class ContainerRegistry:
    """The set of containers of one daemon, kept in step with the records."""

    def __init__(self, records: EngineRecords) -> None:
        self._records = records
        self._by_id: dict[str, Managed] = {}
        self._by_name: dict[str, Managed] = {}
        self._coming: set[str] = set()
        for container in records.containers():
            managed = Managed(container)
            self._by_id[container.id] = managed
            self._by_name[container.name] = managed

    def __iter__(self) -> Iterator[Managed]:
        return iter(tuple(self._by_id.values()))

    def has_name(self, name: str) -> bool:
        """Whether a container has it, or one that is being created was given it."""
        return name in self._by_name or name in self._coming

    def named(self, name: str) -> Managed | None:
        return self._by_name.get(name)

    @contextmanager
    def generated_name(self, generate: Callable[[Callable[[str], bool]], str]) -> Iterator[str]:
        """A name that nobody else is given while its container is being created."""
        name = generate(self.has_name)
        self._coming.add(name)
        try:
            yield name
        finally:
            self._coming.discard(name)

    def find(self, reference: str) -> Managed:
        """By full ID, name (with or without a slash), or unambiguous ID prefix, in this order, as Docker does."""
        name = reference.removeprefix("/")
        found = self._by_id.get(name) or self._by_name.get(name)
        if found is None and name:
            matches = [managed for id_, managed in self._by_id.items() if id_.startswith(name)]
            if len(matches) > 1:
                raise InvalidArgument(f"Multiple IDs found with provided prefix: {name}")
            found = matches[0] if matches else None
        if found is None or found.removed:
            raise NotFound(f"No such container: {reference}")
        return found

    def add(self, container: Container) -> Managed:
        """Record a new container; Conflict when its name is taken."""
        check_name(container.name)
        self._records.insert(container)
        managed = Managed(container)
        self._by_id[container.id] = managed
        self._by_name[container.name] = managed
        return managed

    def store(self, managed: Managed, container: Container) -> None:
        """Record a new snapshot of it. When this returns, ``kill -9`` does not lose it."""
        if container.name != managed.snapshot.name:
            check_name(container.name)
        self._records.update(container)
        if container.name != managed.snapshot.name:
            self._by_name.pop(managed.snapshot.name, None)
            self._by_name[container.name] = managed
        managed.snapshot = container

    def note(self, managed: Managed, container: Container) -> None:
        """As :meth:`store`, for what has happened already: when the disk is full it is so all the same, and the next
        daemon learns it from the sandbox."""
        try:
            self.store(managed, container)
        except HyperError as error:
            _log.error("container %s: its state could not be recorded: %s", managed.id[:12], error.message)
            managed.snapshot = container

    def drop(self, managed: Managed) -> None:
        """Forget it, record and all."""
        self._records.delete(managed.id)
        self._by_id.pop(managed.id, None)
        self._by_name.pop(managed.snapshot.name, None)


def check_name(name: str) -> None:
    """InvalidArgument with Docker's words for a name that it would refuse."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
