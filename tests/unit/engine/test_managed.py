"""Who waits for what, with Docker's meaning of each condition."""

from __future__ import annotations

import asyncio

import msgspec

from hyper.engine.managed import Managed
from hyper.engine.model import Container, ContainerConfig, ContainerState, Status, WaitResult


def managed(**state: object) -> Managed:
    return Managed(
        Container(
            id="a" * 64,
            name="one",
            created_ns=0,
            image_id="i",
            config=ContainerConfig(image="i"),
            path="x",
            args=(),
            state=ContainerState(**state),  # type: ignore[arg-type]
        )
    )


def ends(one: Managed, code: int, error: str = "") -> None:
    one.snapshot = one.with_state(status=Status.EXITED, exit_code=code, error=error)


async def test_not_running_is_answered_at_once_for_what_does_not_run() -> None:
    for status in (Status.CREATED, Status.EXITED):
        assert managed(status=status, exit_code=3).wait("not-running").result() == WaitResult(exit_code=3)
    for status in (Status.RUNNING, Status.PAUSED):
        assert not managed(status=status).wait("not-running").done()


async def test_the_next_exit_is_never_the_last_one() -> None:
    one = managed(status=Status.EXITED, exit_code=3)
    future = one.wait("next-exit")
    assert not future.done()
    ends(one, 4)
    one.notify("not-running", "next-exit")
    assert future.result() == WaitResult(exit_code=4)


async def test_an_exit_is_no_removal_and_a_removal_answers_everybody_without_an_error() -> None:
    one = managed(status=Status.RUNNING)
    removed = one.wait("removed")
    ends(one, 137, "its VM ended")
    one.notify("not-running", "next-exit")
    assert not removed.done()
    next_exit = one.wait("next-exit")
    one.removed = True
    one.notify("removed", "next-exit", "not-running")
    assert removed.result() == next_exit.result() == WaitResult(exit_code=137)
    assert one.wait("next-exit").done()


async def test_waiters_that_give_up_are_not_kept() -> None:
    one = managed(status=Status.RUNNING)
    futures = [one.wait("next-exit") for _ in range(100)]
    for future in futures[1:]:
        future.cancel()
    await asyncio.sleep(0)
    assert len(one._waiters) == 1
    ends(one, 0)
    one.notify("next-exit")
    assert futures[0].done()
    await asyncio.sleep(0)
    assert not one._waiters


async def test_a_removal_under_way_is_shown_and_not_recorded() -> None:
    one = managed(status=Status.RUNNING)
    one.removing = True
    assert one.view().state.status is Status.REMOVING
    assert one.snapshot.state.status is Status.RUNNING
    assert msgspec.json.encode(one.snapshot) == msgspec.json.encode(managed(status=Status.RUNNING).snapshot)
