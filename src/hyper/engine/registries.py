"""Registries with the engine's rules: events of what was pulled and pushed. Implements
:class:`hyper.engine.api.Registries`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hyper.engine.events import EventLog
from hyper.engine.model import RegistryInfo
from hyper.images.progress import Progress
from hyper.images.pull import DistributionInfo, Puller
from hyper.images.push import Pusher
from hyper.images.registry.client import RegistryClient, SearchResult, SignedIn
from hyper.images.registry.endpoints import LOOPBACK
from hyper.images.registry.proxies import Proxies, shown
from hyper.images.store import ImageStore
from hyper.oci.descriptor import Platform
from hyper.oci.distribution import Credentials
from hyper.oci.reference import Reference


class RegistryUseCases:
    def __init__(self, store: ImageStore, client: RegistryClient, events: EventLog) -> None:
        self._client = client
        self._store = store
        self._puller = Puller(store, client)
        self._pusher = Pusher(store, client)
        self._events = events

    async def pull(
        self, name: Reference, *, platform: Platform | None, credentials: Credentials, tell: Callable[[Progress], None]
    ) -> None:
        await self._puller.pull(name, wanted=platform, credentials=credentials, tell=tell)
        self._emit("pull", name)

    async def push(self, name: Reference, *, credentials: Credentials, tell: Callable[[Progress], None]) -> None:
        await self._pusher.push(name, credentials=credentials, tell=tell)
        self._emit("push", name)

    async def inspect(self, name: Reference, credentials: Credentials) -> DistributionInfo:
        return await self._puller.inspect(name, credentials)

    async def sign_in(self, credentials: Credentials) -> SignedIn:
        return await self._client.sign_in(credentials)

    async def search(self, term: str, *, limit: int, credentials: Credentials) -> Sequence[SearchResult]:
        return await self._client.search(term, limit, credentials)

    def describe(self) -> RegistryInfo:
        settings = self._client.settings
        proxies = Proxies(settings.environment)
        return RegistryInfo(
            mirrors=settings.mirrors,
            insecure_networks=(*LOOPBACK, *(text for text in settings.insecure if "/" in text)),
            insecure_hosts=tuple(text for text in settings.insecure if "/" not in text),
            http_proxy=shown(proxies.http),
            https_proxy=shown(proxies.https),
            no_proxy=proxies.none,
        )

    def _emit(self, action: str, name: Reference) -> None:
        """Of a name, not of an image, but with the image's labels: so Docker does it."""
        labels: dict[str, str] = {}
        if name.tag or name.digest:
            labels = self._store.resolve(str(name)).config.container_config.labels or {}
        self._events.emit("image", action, name.familiar, {**labels, "name": name.familiar_name})
