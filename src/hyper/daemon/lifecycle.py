"""The daemon as a process: how it logs, how it is told to stop, how it ends.

``run`` is the outermost frame: a :class:`HyperError` becomes one line and status 1, anything else is a bug of ours,
with its trace, and status 70. Ending at once is safe at any time, because VMs survive the daemon and its records are
transactions.

Neighbours: ``main.py`` (calls everything here), ``hyper.config``.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from hyper.errors import HyperError

_log = logging.getLogger(__name__)

LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
"""dockerd's names."""

EXIT_FAILED, EXIT_BUG = 1, 70

_LEVEL_NAMES = {number: name for name, number in LEVELS.items()}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


# -- logging: a message in words, and fields by ``extra={"container": …}``


class TextFormatter(logging.Formatter):
    """``time=… level=info msg="…" container=3f2a…``: one line a record, whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={_quoted(value)}" for key, value in _members(record, self).items())


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the same members."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_members(record, self), default=str, ensure_ascii=False)


@contextmanager
def logging_to(stream: TextIO, *, level: str, form: str) -> Iterator[None]:
    """Log to ``stream`` from ``level`` (of LEVELS) up, as ``text`` or ``json``. The end of the block restores what was
    before."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
    quiet = logging.getLogger("asyncio")
    quiet_before = quiet.level
    quiet.setLevel(max(LEVELS[level], logging.WARNING))  # its debug lines tell of every selector event
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        quiet.setLevel(quiet_before)
        root.setLevel(before)
        root.removeHandler(handler)
        handler.close()


def _members(record: logging.LogRecord, formatter: logging.Formatter) -> dict[str, Any]:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    members: dict[str, Any] = {
        "time": f"{seconds}.{int(record.msecs):03d}Z",
        "level": _LEVEL_NAMES.get(record.levelno, record.levelname.lower()),
        "msg": record.getMessage(),
        "part": record.name.removeprefix("hyper."),
    }
    members |= {key: value for key, value in vars(record).items() if key not in _STANDARD and key not in members}
    if record.exc_info:
        members["trace"] = formatter.formatException(record.exc_info)
    if record.stack_info:
        members["stack"] = record.stack_info
    return members


def _quoted(value: object) -> str:
    text = str(value)
    if text and all(character.isalnum() or character in "-._:/@+,[]" for character in text):
        return text
    return json.dumps(
        text, ensure_ascii=False
    )  # quotes, line ends and control characters escaped: nobody forges a line


# -- stopping


class Stop:
    """The wish that the daemon end. Set by SIGTERM or SIGINT, or by :meth:`request`."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reason = ""

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def request(self, reason: str) -> None:
        if not self.requested:
            self.reason = reason
            self._event.set()

    async def wait(self) -> str:
        """Returns the reason, when there is one."""
        await self._event.wait()
        return self.reason


@contextmanager
def signals(stop: Stop, *, end_at_once: Callable[[int], object] = os._exit) -> Iterator[None]:
    """In the running loop: the first SIGTERM or SIGINT requests the stop, the second ends the process at once (status
    128 + n).

    SIGHUP is logged and ignored (settings are read at the start only); SIGUSR1 logs where every task stands, for
    debugging.
    """
    loop = asyncio.get_running_loop()

    def asked(number: signal.Signals) -> None:
        if stop.requested:
            _log.warning("ending at once", extra={"signal": number.name})
            end_at_once(128 + number)
            return
        _log.info("stopping", extra={"signal": number.name})
        stop.request(number.name)

    def not_reloaded() -> None:
        _log.warning("settings are read at the start only: restart hyperd to change them")

    def tell() -> None:
        _log.info("tasks", extra={"tasks": describe_tasks()})

    handlers: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGTERM: lambda: asked(signal.SIGTERM),
        signal.SIGINT: lambda: asked(signal.SIGINT),
        signal.SIGHUP: not_reloaded,
        signal.SIGUSR1: tell,
    }
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def describe_tasks() -> str:
    """Every task of the running loop with its innermost frames."""
    text = io.StringIO()
    for task in asyncio.all_tasks():
        task.print_stack(limit=4, file=text)
    return text.getvalue()


# -- the outermost frame


def run(
    daemon: Callable[[Stop], Awaitable[None]], *, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None
) -> int:
    """Run ``daemon`` in a new event loop until it returns, with signals leading to its :class:`Stop`; the process's
    exit status.

    ``loop_factory`` is ``uvloop.new_event_loop`` in production. Logging must be set up.
    """

    async def body() -> None:
        stop = Stop()
        with signals(stop):
            await daemon(stop)

    with boundary() as outcome, asyncio.Runner(loop_factory=loop_factory) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(log_loop_exception)
        runner.run(body())
    return outcome.status


class Outcome:
    """How the body of a :func:`boundary` ended, as an exit status."""

    status = 0


@contextmanager
def boundary() -> Iterator[Outcome]:
    """What a body raises becomes a log line and an exit status; of a group, each member is told."""
    outcome = Outcome()
    try:
        yield outcome
    except KeyboardInterrupt:
        outcome.status = 128 + signal.SIGINT
    except Exception as error:  # the outermost frame: nothing is swallowed, all of it is told
        outcome.status = max(_tell(one) for one in _leaves(error))


def log_loop_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The loop's last resort: a callback or a forgotten task failed. Logged with its trace; the daemon goes on."""
    error = context.get("exception")
    info = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
    details = {key: repr(value) for key, value in context.items() if key in ("future", "task", "handle", "transport")}
    _log.error("unhandled in the event loop: %s", context.get("message", ""), exc_info=info, extra=details)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    else:
        yield error


def _tell(error: BaseException) -> int:
    if isinstance(error, HyperError):
        _log.critical(error.message)
        return EXIT_FAILED
    _log.critical(
        "this is a bug in Hyper; please report it with this trace",
        extra={"trace": "".join(traceback.format_exception(error))},
    )
    return EXIT_BUG


def tell_before_logging(error: HyperError, *, program: str = "hyperd") -> int:
    """For errors in the settings themselves, when it is not known yet how to log; the exit status."""
    sys.stderr.write(f"{program}: {error.message}\n")
    return EXIT_FAILED
