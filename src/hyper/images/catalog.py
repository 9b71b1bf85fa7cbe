"""Images by name and ID, with Docker's rules for finding, tagging and removing them. In memory; ``records.py`` is the
truth.

Rules and wording follow moby's image service (delete, tag, get), because scripts read them. Neighbours: ``store.py``
(its face), ``hyper.oci.reference``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyper.errors import Conflict, InvalidArgument, NotFound
from hyper.images.records import ImageRecord, LayerRecord
from hyper.oci import digest, image_config, reference
from hyper.oci.image_config import ImageConfig
from hyper.oci.reference import Reference


@dataclass(frozen=True)
class Image:
    """An image that can run. ``disks``: EROFS files, lowest first; ``size_bytes``: sum of the uncompressed layers.

    ``references``: its tags, canonical; ``digests``: its names by digest, as users see them; ``names``: all, canonical.
    """

    id: str
    config: ImageConfig
    disks: tuple[Path, ...]
    size_bytes: int
    created_ns: int
    references: tuple[str, ...]
    digests: tuple[str, ...]
    owner: str
    layers: tuple[LayerRecord, ...]
    disk_ids: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class ImageUser:
    """A container that was made from an image."""

    container_id: str
    running: bool


@dataclass(frozen=True)
class Removal:
    """One line of ``docker rmi``: either a familiar name that was untagged, or the ID of what was deleted."""

    untagged: str | None = None
    deleted: str | None = None


@dataclass(frozen=True)
class HistoryItem:
    """One line of ``docker history``, newest first. ``id`` is "<missing>" for all but the image itself."""

    id: str
    created_ns: int
    created_by: str
    size_bytes: int
    comment: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class RemovalPlan:
    """What a removal will do: names that go, whether the image goes too, and the lines to show."""

    image: Image
    references: tuple[str, ...]
    deletes: bool
    lines: tuple[Removal, ...]


class Catalog:
    """The images there are. ``replace_all`` after every change of the records."""

    def __init__(self, disk_path: Callable[[str], Path]) -> None:
        self._disk_path = disk_path
        self._images: dict[str, Image] = {}
        self._names: dict[str, Image] = {}

    def replace_all(self, records: Sequence[ImageRecord]) -> None:
        self._images = {record.id: self._image(record) for record in records}
        self._names = {name: image for image in self._images.values() for name in image.names}

    def all(self) -> list[Image]:
        return list(self._images.values())

    def by_id(self, image_id: str) -> Image | None:
        return self._images.get(image_id)

    def resolve(self, name_or_id: str) -> Image:
        """By name, full ID or unambiguous start of an ID, tried in Docker's order. NotFound, or InvalidArgument for a
        bad name.
        """
        if reference.is_identifier(name_or_id):
            name_or_id = f"sha256:{name_or_id}"
        if digest.is_digest(name_or_id):
            found = self._images.get(name_or_id)
            if found is None:
                raise NotFound(f"No such image: {name_or_id}")
            return found
        parsed = _deciding(reference.parse(name_or_id))
        found = self._by_name(parsed) or self._by_prefix(name_or_id)
        if found is None:
            raise NotFound(f"No such image: {parsed.familiar}")
        return found

    def choose(self, names: Sequence[str]) -> list[tuple[Image, tuple[str, ...]]]:
        """The images of these names and IDs, each once with the names it was asked for by; a repository without a tag
        is all of its tags. NotFound for one that is not there."""
        chosen: dict[str, dict[str, None]] = {}
        for name in names:
            by_name = self._names_of(name)
            if not by_name:
                chosen.setdefault(self.resolve(name).id, {})
            for image_id, canonical in by_name:
                chosen.setdefault(image_id, {})[canonical] = None
        return [(self._images[image_id], tuple(wanted)) for image_id, wanted in chosen.items()]

    def _names_of(self, text: str) -> list[tuple[str, str]]:
        """(image ID, canonical name) of what a name stands for; none for an ID."""
        if reference.is_identifier(text) or digest.is_digest(text):
            return []
        parsed = reference.parse(text)
        if parsed.digest:
            return []
        if parsed.tag:
            found = self._by_name(parsed)
            return [(found.id, str(parsed))] if found else []
        return [
            (image.id, name)
            for name, image in sorted(self._names.items())
            if (known := reference.parse(name)).name == parsed.name and known.tag
        ]

    def check_tag(self, target: str) -> Reference:
        """The reference to record for ``docker tag``; InvalidArgument when it cannot be one."""
        parsed = reference.parse(target)
        if parsed.digest:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        parsed = parsed.with_default_tag()
        if parsed.familiar_name == "sha256":
            raise InvalidArgument("refusing to create an ambiguous tag using digest algorithm as name")
        return parsed

    def history(self, image: Image) -> list[HistoryItem]:
        layers = iter(image.layers)
        items = []
        for line in image.config.history or ():
            layer = None if line.empty_layer else next(layers, None)
            created_ns = image_config.parse_time_ns(line.created) if line.created else 0
            items.append(
                HistoryItem(
                    "<missing>", created_ns, line.created_by, layer.size_bytes if layer else 0, line.comment, ()
                )
            )
        items.reverse()
        if items:
            first = items[0]
            items[0] = HistoryItem(
                image.id, first.created_ns, first.created_by, first.size_bytes, first.comment, image.references
            )
        return items

    def plan_removal(
        self, name_or_id: str, *, force: bool, in_use: Callable[[str], Sequence[ImageUser]]
    ) -> RemovalPlan:
        """What ``docker rmi`` would do. NotFound, or Conflict in Docker's words."""
        image = self.resolve(name_or_id)
        users = in_use(image.id)
        names = image.names
        single = _is_single(names)
        lines: list[Removal] = []
        if not _is_id_prefix(image.id, name_or_id):
            if not force and single and users:
                raise Conflict(
                    f'conflict: unable to remove repository reference "{name_or_id}" (must force) - container '
                    f"{_short(users[0].container_id)} is using its referenced image {_short(image.id)}"
                )
            parsed = _deciding(reference.parse(name_or_id))
            references = (str(parsed), *_left_alone(parsed, names))
            lines.extend(Removal(untagged=reference.familiar(name)) for name in references)
            names = tuple(name for name in names if name not in references)
            if names or any(user.running for user in users):
                # As Docker: with force the last name goes, and the image stays for the container.
                return RemovalPlan(image, references, False, tuple(lines))
            self._check_conflict(image, (), users, force=force)
        else:
            self._check_conflict(image, () if single else names, users, force=force)
            lines.extend(Removal(untagged=reference.familiar(name)) for name in names)
            references = names
        lines.append(Removal(deleted=image.id))
        lines.extend(Removal(deleted=chain) for chain in self._chains_only_in(image))
        return RemovalPlan(image, references, True, tuple(lines))

    def _check_conflict(self, image: Image, names: Sequence[str], users: Sequence[ImageUser], *, force: bool) -> None:
        running = next((user for user in users if user.running), None)
        problem = ""
        must = "must be forced"
        if running is not None:
            must, problem = (
                "cannot be forced",
                f"image is being used by running container {_short(running.container_id)}",
            )
        elif force:
            return
        elif names:
            problem = "image is referenced in multiple repositories"
        elif users:
            problem = f"image is being used by stopped container {_short(users[0].container_id)}"
        if problem:
            raise Conflict(f"conflict: unable to delete {_short(image.id)} ({must}) - {problem}")

    def _chains_only_in(self, image: Image) -> list[str]:
        """Chain IDs of this image's layers that no other image has, topmost first."""
        others = {chain for other in self._images.values() if other.id != image.id for chain in _chains(other)}
        return [chain for chain in reversed(_chains(image)) if chain not in others]

    def _by_name(self, parsed: Reference) -> Image | None:
        return self._names.get(str(parsed))

    def _by_prefix(self, text: str) -> Image | None:
        start = text.removeprefix("sha256:")
        if not start or set(start) - set("0123456789abcdef"):
            return None
        found = [image for image_id, image in self._images.items() if digest.hex_of(image_id).startswith(start)]
        return found[0] if len(found) == 1 else None

    def _image(self, record: ImageRecord) -> Image:
        return Image(
            id=record.id,
            config=image_config.decode(record.config),
            disks=tuple(self._disk_path(disk) for disk in record.disk_ids),
            size_bytes=record.size_bytes,
            created_ns=record.created_ns,
            references=tuple(name for name in record.references if "@" not in name),
            digests=tuple(reference.familiar(name) for name in record.references if "@" in name),
            owner=record.owner,
            layers=record.layers,
            disk_ids=record.disk_ids,
            names=record.references,
        )


def _chains(image: Image) -> list[str]:
    chains: list[str] = []
    for layer in image.layers:
        chains.append(digest.chain_id([chains[-1], layer.diff_id]) if chains else layer.diff_id)
    return chains


def _deciding(parsed: Reference) -> Reference:
    """The name that is looked up: a digest decides over a tag beside it."""
    if parsed.digest:
        return Reference(parsed.domain, parsed.path, digest=parsed.digest)
    return parsed.with_default_tag()


def _left_alone(gone: Reference, names: Sequence[str]) -> tuple[str, ...]:
    """Digests of a repository whose last tag on the image goes: they go with it."""
    if gone.digest:
        return ()
    others = [reference.parse(name) for name in names if name != str(gone)]
    same = [one for one in others if one.name == gone.name]
    return () if any(one.tag for one in same) else tuple(str(one) for one in same)


def _is_single(names: Sequence[str]) -> bool:
    """Whether an ID may stand for all of them: one tag at most, beside digests of the same repository."""
    if len(names) <= 1:
        return True
    parsed = [reference.parse(name) for name in names]
    tags = [name for name in parsed if not name.digest]
    if len(tags) > 1:
        return False
    repositories = {name.name for name in parsed if name.digest}
    return len(repositories) == 1 and (tags or parsed)[0].name in repositories


def _is_id_prefix(image_id: str, text: str) -> bool:
    return image_id.startswith(text) or digest.hex_of(image_id).startswith(text)


def _short(identifier: str) -> str:
    return digest.hex_of(identifier)[:12]
