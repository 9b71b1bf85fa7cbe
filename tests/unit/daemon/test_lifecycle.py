from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import signal
from collections.abc import Callable

import pytest
import uvloop

from hyper.daemon.lifecycle import (
    EXIT_BUG,
    EXIT_FAILED,
    JsonFormatter,
    Stop,
    boundary,
    describe_tasks,
    log_loop_exception,
    logging_to,
    run,
    signals,
)
from hyper.errors import Conflict


def test_text_lines_are_key_and_value() -> None:
    stream, log = io.StringIO(), logging.getLogger("hyper.some.part")
    with logging_to(stream, level="info", form="text"):
        log.info("bridge %s is up", "hyper0", extra={"subnet": "172.29.0.0/16", "why": "asked for"})
        log.debug("unseen")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(' level=info msg="bridge hyper0 is up" part=some.part subnet=172.29.0.0/16 why="asked for"')
    assert line.startswith("time=")


def test_nobody_forges_a_line() -> None:
    stream, log = io.StringIO(), logging.getLogger("hyper.some.part")
    with logging_to(stream, level="info", form="text"):
        log.warning("name is %s", 'x"\ntime=now level=fatal msg=forged\x1b[2J')
    (line,) = stream.getvalue().splitlines()
    assert "\x1b" not in line
    assert "level=warn " in line


def test_json_lines_have_the_same_members_and_the_trace() -> None:
    stream, log = io.StringIO(), logging.getLogger("hyper.some.part")
    with logging_to(stream, level="debug", form="json"):
        try:
            raise ValueError("inner")
        except ValueError:
            log.exception("it failed", extra={"container": "3f2a"})
    record = json.loads(stream.getvalue())
    assert (record["level"], record["msg"], record["container"]) == ("error", "it failed", "3f2a")
    assert "ValueError: inner" in record["trace"]


def test_values_that_are_no_json_are_shown_as_text() -> None:
    record = logging.makeLogRecord({"name": "hyper.part", "msg": "m", "path": object})
    assert json.loads(JsonFormatter().format(record))["path"] == "<class 'object'>"


def test_logging_is_restored_afterwards() -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    with logging_to(io.StringIO(), level="debug", form="json"):
        assert root.level == logging.DEBUG
    assert (root.level, list(root.handlers)) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_first_signal_asks_to_stop_and_the_second_ends_at_once(number: signal.Signals) -> None:
    stop = Stop()
    statuses: asyncio.Queue[int] = asyncio.Queue()
    with signals(stop, end_at_once=statuses.put_nowait):
        os.kill(os.getpid(), number)
        assert await stop.wait() == number.name
        assert statuses.empty()
        os.kill(os.getpid(), number)
        assert await statuses.get() == 128 + number


async def test_hangup_does_not_end_the_daemon(caplog: pytest.LogCaptureFixture) -> None:
    stop = Stop()
    with signals(stop, end_at_once=lambda _: None):
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
    assert "settings are read at the start only" in caplog.text


async def test_every_task_is_described() -> None:
    started = asyncio.Event()

    async def waits_for_ever() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(waits_for_ever())
    await started.wait()
    assert "waits_for_ever" in describe_tasks()
    task.cancel()


def test_run_returns_zero_when_told_to_stop() -> None:
    async def daemon(stop: Stop) -> None:
        stop.request("test")
        assert await stop.wait() == "test"

    assert run(daemon, loop_factory=None) == 0


@pytest.mark.parametrize("loop_factory", [None, uvloop.new_event_loop])
def test_run_ends_on_a_real_signal(loop_factory: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    async def daemon(stop: Stop) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        assert await stop.wait() == "SIGTERM"

    assert run(daemon, loop_factory=loop_factory) == 0


def test_users_error_is_one_line_and_status_one(caplog: pytest.LogCaptureFixture) -> None:
    async def daemon(stop: Stop) -> None:
        raise Conflict("the data root is in use")

    assert run(daemon, loop_factory=None) == EXIT_FAILED
    (record,) = caplog.records
    assert record.getMessage() == "the data root is in use"
    assert "trace" not in vars(record)


def test_bug_is_told_with_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    async def daemon(stop: Stop) -> None:
        raise ZeroDivisionError("oops")

    assert run(daemon, loop_factory=None) == EXIT_BUG
    assert "ZeroDivisionError: oops" in vars(caplog.records[0])["trace"]


def test_every_member_of_a_group_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with boundary() as outcome:
        raise ExceptionGroup("both", [Conflict("first"), ExceptionGroup("inner", [Conflict("second")])])
    assert outcome.status == EXIT_FAILED
    assert [record.getMessage() for record in caplog.records] == ["first", "second"]


async def test_failed_callbacks_are_logged_with_their_trace(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_loop_exception)
    done = asyncio.Event()

    def fails() -> None:
        done.set()
        raise ZeroDivisionError("oops")

    loop.call_soon(fails)
    await done.wait()
    await asyncio.sleep(0)
    assert "ZeroDivisionError: oops" in caplog.text
