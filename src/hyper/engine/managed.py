"""A container in the engine's hands: its snapshot, its present run if it has one, and who waits for what."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from hyper.engine.model import Container, ContainerState, WaitResult
from hyper.engine.output import OutputHub
from hyper.engine.run import Run

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
    """Held by start, restart, rename and remove; stop and kill must work beside them."""
    teardown: asyncio.Task[None] | None = None
    """Taking down the sandbox of the last run; the writable layer is free when it is done."""
    removed: bool = False
    waiters: list[tuple[WaitCondition, asyncio.Future[WaitResult]]] = field(default_factory=list)
    stdin_client: bool = False
    """A client that brings stdin is attached (or was) for the coming run."""

    @property
    def id(self) -> str:
        return self.snapshot.id

    def with_state(self, **changes: object) -> Container:
        """The snapshot with some members of its state replaced."""
        return msgspec.structs.replace(self.snapshot, state=msgspec.structs.replace(self.snapshot.state, **changes))

    @property
    def state(self) -> ContainerState:
        return self.snapshot.state

    def wait(self, condition: WaitCondition) -> asyncio.Future[WaitResult]:
        """A future of how it ends; done already when the condition holds now."""
        future: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
        if (condition == "not-running" and not self.state.live) or self.removed:
            future.set_result(self.result())
        else:
            self.waiters.append((condition, future))
        return future

    def result(self) -> WaitResult:
        return WaitResult(exit_code=self.state.exit_code, error=self.state.error)

    def notify(self, *conditions: WaitCondition) -> None:
        """Tell those who wait for one of these."""
        remaining = []
        for condition, future in self.waiters:
            if condition in conditions:
                if not future.done():
                    future.set_result(self.result())
            elif not future.done():
                remaining.append((condition, future))
        self.waiters = remaining
