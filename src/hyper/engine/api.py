"""The engine as its doors see it: small Protocols, one per resource. Implementations are in this package; a door
imports only this
module and :mod:`hyper.engine.model`.

References to containers are what users type: a full ID, an unambiguous prefix of one, or a name (with or without a
leading slash). Each method
that takes one raises NotFound ("No such container: x") for an unknown one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Literal, Protocol

from hyper.engine.model import (
    Container,
    ContainerConfig,
    ContainerUpdate,
    EngineInfo,
    Event,
    Exec,
    ExecConfig,
    LogEntry,
    NetworkInfo,
    PathChange,
    PathStat,
    Processes,
    RegistryInfo,
    Usage,
    VolumeInfo,
    WaitResult,
)
from hyper.oci.descriptor import Descriptor, Platform
from hyper.oci.distribution import Credentials
from hyper.oci.image_config import ContainerConfig as ImageContainerConfig
from hyper.oci.image_config import ImageConfig
from hyper.oci.reference import Reference

OutputChunk = tuple[Literal["stdout", "stderr"], bytes]


class Attachment(Protocol):
    """One client's connection to a process's streams. Output not taken holds the process up, as with Docker's own."""

    @property
    def tty(self) -> bool: ...

    def output(self) -> AsyncIterator[OutputChunk]:
        """Output from the moment of attaching (or with ``logs``, from the start), until the process's streams end. A
        terminal has only stdout."""
        ...

    async def write(self, data: bytes) -> None:
        """To the process's stdin; waits when it does not read. Ignored once the process has closed its stdin."""
        ...

    async def finish(self) -> None:
        """No more stdin from this client. Ends the process's stdin when this is its only or last such client
        (``stdin_once``), as Docker does."""
        ...

    async def close(self) -> None:
        """Detach; idempotent. The process goes on."""
        ...


class Containers(Protocol):
    async def create(self, config: ContainerConfig, *, name: str | None) -> tuple[Container, tuple[str, ...]]:
        """A new container and warnings. Conflict when the name is taken, NotFound for the image."""
        ...

    def get(self, reference: str) -> Container: ...

    def list(self) -> Sequence[Container]:
        """All, newest first."""
        ...

    def sizes(self, reference: str) -> tuple[int, int]:
        """Bytes that the host stores for its writable layer, and for all it sees: that and its image."""
        ...

    async def start(self, reference: str) -> Container:
        """The container as it was when it started: by now it may have ended, or be gone. NotModified when it runs
        already."""
        ...

    async def stop(self, reference: str, *, timeout_s: int | None = None, signal: str | None = None) -> None:
        """Stop signal, then SIGKILL after the timeout (-1: never). NotModified when it is not running."""
        ...

    async def restart(
        self, reference: str, *, timeout_s: int | None = None, signal: str | None = None
    ) -> Container: ...

    async def kill(self, reference: str, signal: str) -> None:
        """``signal``: "SIGTERM", "TERM" or "15". Conflict when it is not running."""
        ...

    async def pause(self, reference: str) -> None: ...

    async def unpause(self, reference: str) -> None: ...

    async def rename(self, reference: str, name: str) -> None: ...

    async def update(self, reference: str, changes: ContainerUpdate) -> tuple[str, ...]:
        """New limits, at once when it runs; warnings. Conflict for what contradicts its other settings, or a memory
        limit below what it uses."""
        ...

    async def remove(self, reference: str, *, force: bool, volumes: bool = False) -> None:
        """Conflict when it runs and not ``force``. Its writable layer, logs and addresses go with it, and with
        ``volumes`` those that nobody has named and no other container has."""
        ...

    async def prune(self, accept: Callable[[Container], bool]) -> tuple[Sequence[str], int]:
        """Remove those that do not run and ``accept`` lets go: their IDs, and bytes given back. Conflict while another
        one is at it."""
        ...

    async def processes(self, reference: str) -> Processes:
        """What runs in it. Conflict when it does not run."""
        ...

    async def usage(self, reference: str) -> Usage | None:
        """What it uses now; None when it does not run."""
        ...

    def wait(self, reference: str, condition: Literal["not-running", "next-exit", "removed"]) -> Awaitable[WaitResult]:
        """Registered when this returns (not when awaited), so that nothing that happens afterwards is missed."""
        ...

    async def attach(
        self, reference: str, *, stdin: bool, stdout: bool, stderr: bool, stream: bool, logs: bool
    ) -> Attachment:
        """Also before the start (as ``docker run`` does)."""
        ...

    def logs(
        self,
        reference: str,
        *,
        stdout: bool,
        stderr: bool,
        follow: bool,
        since_ns: int = 0,
        until_ns: int = 0,
        tail: int | None = None,
    ) -> AsyncIterator[LogEntry]: ...

    async def resize(self, reference: str, *, rows: int, columns: int) -> None: ...


class Execs(Protocol):
    async def create(self, reference: str, config: ExecConfig) -> str:
        """Conflict when the container is not running or is paused. The exec's id: 64 hex digits."""
        ...

    def get(self, exec_id: str) -> Exec:
        """NotFound "No such exec instance: x"."""
        ...

    async def start(self, exec_id: str, *, detach: bool, console_size: tuple[int, int] = (0, 0)) -> Attachment | None:
        """Run it; the attachment unless detached. Conflict when it has been started before."""
        ...

    async def resize(self, exec_id: str, *, rows: int, columns: int) -> None: ...


class Volumes(Protocol):
    def create(self, name: str, *, driver: str, labels: Mapping[str, str], options: Mapping[str, str]) -> VolumeInfo:
        """The volume of this name; one that is there already stays as it is. An empty name: one that nobody has.
        NotFound for an unknown driver, InvalidArgument for a bad name or bad options."""
        ...

    def get(self, name: str) -> VolumeInfo:
        """NotFound "get x: no such volume"."""
        ...

    def list(self) -> Sequence[VolumeInfo]:
        """All, by name."""
        ...

    def users(self, name: str) -> Sequence[str]:
        """IDs of the containers that have it, running or not."""
        ...

    async def used_bytes(self, name: str) -> int: ...

    async def remove(self, name: str, *, force: bool) -> None:
        """Conflict when a container has it; ``force``: no NotFound."""
        ...

    async def prune(self, accept: Callable[[VolumeInfo], bool]) -> tuple[Sequence[str], int]:
        """Remove those that no container has and ``accept`` lets go; their names, and bytes given back."""
        ...


class Files(Protocol):
    """Files of containers that run, are paused, or do not run."""

    async def stat(self, reference: str, path: str) -> PathStat:
        """NotFound "Could not find the file …" when there is none."""
        ...

    async def read(self, reference: str, path: str) -> tuple[PathStat, AsyncGenerator[bytes, None]]:
        """A tar of what is at ``path``, its entries called by the path's last part."""
        ...

    async def write(
        self, reference: str, path: str, stream: AsyncIterator[bytes], *, keep_kinds: bool, as_user: bool
    ) -> None:
        """Unpack a tar, possibly compressed, into the folder ``path``. ``keep_kinds``: no file replaces a folder nor
        the other way round. ``as_user``: everything becomes the container's user's, if it has one."""
        ...

    async def changes(self, reference: str) -> Sequence[PathChange]: ...

    async def export(self, reference: str) -> AsyncGenerator[bytes, None]:
        """A tar of its root file system."""
        ...


class Commits(Protocol):
    async def commit(
        self,
        reference: str,
        *,
        name: str | None,
        comment: str,
        author: str,
        changes: Sequence[str],
        config: ImageContainerConfig | None,
        pause: bool,
    ) -> ImageView:
        """An image of what the container has become. ``changes``: Dockerfile instructions; ``config``: instead of the
        container's own, what it does not say is taken from that. ``pause``: freeze it meanwhile."""
        ...


class Events(Protocol):
    def subscribe(self, *, since_ns: int, until_ns: int, accept: Callable[[Event], bool]) -> AsyncIterator[Event]:
        """Kept events since then and new ones as they come; ends at ``until_ns`` (0: never)."""
        ...


class Engine(Protocol):
    """Everything a door may ask for. Images are ``hyper.images.store.ImageStore`` wrapped with the engine's rules
    (in use, events)."""

    @property
    def containers(self) -> Containers: ...

    @property
    def execs(self) -> Execs: ...

    @property
    def commits(self) -> Commits: ...

    @property
    def files(self) -> Files: ...

    @property
    def events(self) -> Events: ...

    @property
    def images(self) -> Images: ...

    @property
    def volumes(self) -> Volumes: ...

    @property
    def registries(self) -> Registries: ...

    def networks(self) -> Sequence[NetworkInfo]:
        """The networks that containers can have: "bridge" (unless it could not be set up) and "none"."""
        ...

    async def info(self) -> EngineInfo: ...


class LoadedImage(Protocol):
    @property
    def image_id(self) -> str: ...

    @property
    def messages(self) -> Sequence[str]:
        """The lines that ``docker load`` prints for it."""
        ...


class LayerView(Protocol):
    """``size_bytes``: uncompressed (``hyper.images.records.LayerRecord``)."""

    @property
    def diff_id(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...


class ImageView(Protocol):
    """An image as doors need it (``hyper.images.store.Image`` is one)."""

    @property
    def id(self) -> str: ...

    @property
    def config(self) -> ImageConfig: ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def created_ns(self) -> int: ...

    @property
    def references(self) -> Sequence[str]: ...

    @property
    def digests(self) -> Sequence[str]: ...

    @property
    def layers(self) -> Sequence[LayerView]: ...


class HistoryView(Protocol):
    """A step of an image's history (``hyper.images.store.HistoryItem``), newest first."""

    @property
    def id(self) -> str: ...

    @property
    def created_ns(self) -> int: ...

    @property
    def created_by(self) -> str: ...

    @property
    def references(self) -> Sequence[str]: ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def comment(self) -> str: ...


class RemovalView(Protocol):
    """One line of ``rmi``: exactly one of the two (``hyper.images.store.Removal``)."""

    @property
    def untagged(self) -> str | None: ...

    @property
    def deleted(self) -> str | None: ...


class ProgressView(Protocol):
    """How far a step of loading is (``hyper.images.store.LoadProgress``)."""

    @property
    def step(self) -> str: ...

    @property
    def item(self) -> str: ...

    @property
    def done_bytes(self) -> int: ...


class Images(Protocol):
    """Same objects as ``hyper.images.store``; the engine adds events and the check whether
    containers use an image."""

    async def load(
        self, stream: AsyncIterator[bytes], *, progress: Callable[[ProgressView], None]
    ) -> Sequence[LoadedImage]: ...

    async def import_root(
        self,
        stream: AsyncIterator[bytes],
        *,
        reference: str | None,
        changes: Sequence[str],
        message: str,
        platform: str | None,
    ) -> ImageView: ...

    def resolve(self, name_or_id: str) -> ImageView: ...

    def save(self, names: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """An archive of images, by names (a repository: all of its tags) or IDs. NotFound when it is called."""
        ...

    def prune(self, accept: Callable[[ImageView], bool]) -> tuple[Sequence[RemovalView], int]:
        """Remove those that no container stands on and ``accept`` lets go; what went, and bytes given back."""
        ...

    def layers_bytes(self) -> int:
        """Of all layers, each counted once."""
        ...

    def list(self) -> Sequence[ImageView]: ...

    def tag(self, source: str, target: str) -> None: ...

    def remove(self, name_or_id: str, *, force: bool) -> Sequence[RemovalView]: ...

    def history(self, name_or_id: str) -> Sequence[HistoryView]: ...


class TransferProgress(Protocol):
    """One line of a pull or push (``hyper.images.progress.Progress``): a bar when it has a total."""

    @property
    def status(self) -> str: ...

    @property
    def id(self) -> str: ...

    @property
    def current(self) -> int: ...

    @property
    def total(self) -> int: ...

    @property
    def layer(self) -> bool: ...

    @property
    def pushed(self) -> PushedView | None: ...


class PushedView(Protocol):
    """What a push ended with (``hyper.images.progress.Pushed``)."""

    @property
    def tag(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...


class DistributionView(Protocol):
    """What a registry has under a name (``hyper.images.pull.DistributionInfo``)."""

    @property
    def descriptor(self) -> Descriptor: ...

    @property
    def platforms(self) -> Sequence[Platform]: ...


class SignedIn(Protocol):
    @property
    def identity_token(self) -> str: ...

    @property
    def status(self) -> str: ...


class SearchView(Protocol):
    """One repository of an index (``hyper.images.registry.client.SearchResult``)."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def star_count(self) -> int: ...

    @property
    def is_official(self) -> bool: ...

    @property
    def is_automated(self) -> bool: ...


class Registries(Protocol):
    """Images from and to elsewhere. Errors are in Docker's words: NotFound, Unauthenticated, RemoteFailure, …"""

    async def pull(
        self,
        name: Reference,
        *,
        platform: Platform | None,
        credentials: Credentials,
        tell: Callable[[TransferProgress], None],
    ) -> None:
        """The image of a tag or digest, or of every tag when the name has neither."""
        ...

    async def push(
        self, name: Reference, *, credentials: Credentials, tell: Callable[[TransferProgress], None]
    ) -> None:
        """The image of a tag, or those of all tags here when the name has none."""
        ...

    async def inspect(self, name: Reference, credentials: Credentials) -> DistributionView: ...

    async def sign_in(self, credentials: Credentials) -> SignedIn:
        """Unauthenticated when the registry does not take them."""
        ...

    async def search(self, term: str, *, limit: int, credentials: Credentials) -> Sequence[SearchView]: ...

    def describe(self) -> RegistryInfo: ...
