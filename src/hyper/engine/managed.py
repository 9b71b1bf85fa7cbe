"""A container in the engine's hands: its snapshot, its present run if it has one, and who waits for what."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from hyper.engine.model import Container, ContainerState, Status, WaitResult
from hyper.engine.output import OutputHub
from hyper.engine.restart import Restarting
from hyper.engine.run import Run
from hyper.errors import Conflict

WaitCondition = Literal["not-running", "next-exit", "removed"]


@dataclass
class Managed:
    """One container. ``snapshot`` is replaced, never changed; whoever replaces it also writes the record."""

    snapshot: Container
    run: Run | None = None
    """Present exactly while the state is live."""
    hub: OutputHub = field(default_factory=OutputHub)
    """Streams of the present run, or of the next one when clients attach before the start."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by start, restart, rename, pause and remove; stop and kill must work beside them."""
    teardown: asyncio.Task[None] | None = None
    """Taking down the sandbox of the last run; the writable layer is free when it is done."""
    restarting: Restarting = field(default_factory=Restarting)
    """Of its restart policy, since somebody started it."""
    restart: asyncio.Task[None] | None = None
    """A start by its restart policy that waits for its time; not one that has begun."""
    removing: bool = False
    """A user has asked for its removal: it is not started any more."""
    removed: bool = False
    _waiters: dict[asyncio.Future[WaitResult], WaitCondition] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.snapshot.id

    @property
    def state(self) -> ContainerState:
        return self.snapshot.state

    def with_state(self, **changes: object) -> Container:
        """The snapshot with some members of its state replaced."""
        return msgspec.structs.replace(self.snapshot, state=msgspec.structs.replace(self.snapshot.state, **changes))

    async def present_run(self) -> Run | None:
        """Its run, once a start that is under way has come to its end: the process may have said its first words
        before the start is recorded, and who has read them may act on them."""
        if self.run is None and self.lock.locked():
            async with self.lock:
                pass
        return self.run

    def view(self) -> Container:
        """The snapshot with what only the memory knows: running execs, and a removal under way."""
        shown = self.with_state(status=Status.REMOVING) if self.removing else self.snapshot
        return shown if self.run is None else msgspec.structs.replace(shown, exec_ids=tuple(self.run.exec_ends))

    def wait(self, condition: WaitCondition) -> asyncio.Future[WaitResult]:
        """A future of how it ends; done already when the condition holds now. Give it up by cancelling it."""
        future: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
        if self.removed or (condition == "not-running" and not self.state.up):
            future.set_result(self._result())
        else:
            self._waiters[future] = condition
            future.add_done_callback(lambda done: self._waiters.pop(done, None))
        return future

    def notify(self, *conditions: WaitCondition) -> None:
        """Tell those who wait for one of these."""
        for future, condition in tuple(self._waiters.items()):
            if condition in conditions and not future.done():
                future.set_result(self._result())

    def _result(self) -> WaitResult:
        # dockerd 20.10: a removal that went well has no error, whatever the container's was; the docker CLI would print
        # it a second time after a start that failed.
        return WaitResult(exit_code=self.state.exit_code, error="" if self.removed else self.state.error)


def restarting(managed: Managed) -> Conflict:
    """The answer to who asks for a process while a restart policy is about to start one."""
    return Conflict(f"Container {managed.id} is restarting, wait until the container is running")
