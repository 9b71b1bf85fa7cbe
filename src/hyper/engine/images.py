"""Images with the engine's rules: events, and no removal of what a container needs. Implements
:class:`hyper.engine.api.Images`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

from hyper.engine.api import ImageView
from hyper.engine.events import EventLog
from hyper.engine.registry import ContainerRegistry
from hyper.errors import NotFound
from hyper.images.store import HistoryItem, Image, ImageStore, ImageUser, LoadedImage, LoadProgress, Removal


class ImageUseCases:
    def __init__(self, store: ImageStore, registry: ContainerRegistry, events: EventLog) -> None:
        self._store = store
        self._registry = registry
        self._events = events

    async def load(
        self, stream: AsyncIterator[bytes], *, progress: Callable[[LoadProgress], None]
    ) -> Sequence[LoadedImage]:
        loaded = await self._store.load(stream, progress=progress)
        for image in loaded:
            self._emit("load", image.image_id, next(iter(image.references), image.image_id))
        return loaded

    async def import_root(
        self,
        stream: AsyncIterator[bytes],
        *,
        reference: str | None,
        changes: Sequence[str],
        message: str,
        platform: str | None,
    ) -> Image:
        image = await self._store.import_root(
            stream, reference=reference, changes=changes, message=message, platform=platform
        )
        self._emit("import", image.id, reference or image.id)
        return image

    def resolve(self, name_or_id: str) -> Image:
        return self._store.resolve(name_or_id)

    def list(self) -> Sequence[Image]:
        return self._store.list()

    def tag(self, source: str, target: str) -> None:
        self._store.tag(source, target)
        self._emit("tag", self._store.resolve(target).id, target)

    def remove(self, name_or_id: str, *, force: bool) -> Sequence[Removal]:
        image = self._store.resolve(name_or_id)
        removals = self._store.remove(name_or_id, force=force, in_use=self._users)
        for removal in removals:
            self._emit("untag" if removal.untagged else "delete", image.id, name_or_id)
        return removals

    def save(self, names: Sequence[str]) -> AsyncGenerator[bytes, None]:
        pieces = self._store.save(names)
        for name in names:
            self._emit("save", self._store.resolve(name).id if self._has(name) else name, name)
        return pieces

    def _has(self, name: str) -> bool:
        """A repository's name stands for tags of which none may be "latest"."""
        try:
            self._store.resolve(name)
        except NotFound:
            return False
        return True

    def prune(self, accept: Callable[[ImageView], bool]) -> tuple[Sequence[Removal], int]:
        before = self._store.layers_bytes()
        removals: list[Removal] = []
        for image in self._store.list():
            if accept(image) and not self._users(image.id):
                for name in image.references or (image.id,):
                    removals += self.remove(name, force=not image.references)
        return removals, before - self._store.layers_bytes()

    def layers_bytes(self) -> int:
        return self._store.layers_bytes()

    def history(self, name_or_id: str) -> Sequence[HistoryItem]:
        return self._store.history(name_or_id)

    def _users(self, image_id: str) -> Sequence[ImageUser]:
        """Containers made from it: their IDs, and whether they run."""
        return [ImageUser(item.id, item.state.up) for item in self._registry if item.snapshot.image_id == image_id]

    def _emit(self, action: str, image_id: str, name: str) -> None:
        self._events.emit("image", action, image_id, {"name": name})
