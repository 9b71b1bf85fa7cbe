"""Trying again: how often, after how long, and what a server may ask for.

Neighbours: ``failures.py`` (what is worth another try), ``repository.py``, ``download.py``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hyper.images.registry.failures import RegistryFailure
from hyper.images.registry.settings import RegistrySettings

T = TypeVar("T")
_ASKED_MOST_S = 120.0
"""A server that wants us to wait longer is told no: the user decides then."""


class Retry:
    """Counts the failures of one piece of work."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings
        self._failures = 0

    def progressed(self) -> None:
        """It went on: the next failure is the first again."""
        self._failures = 0

    def delay_s(self, error: RegistryFailure) -> float | None:
        """How long to wait before the next try; None when there is none."""
        self._failures += 1
        if not error.transient or self._failures >= self._settings.attempts or error.retry_after_s > _ASKED_MOST_S:
            return None
        backoff_s = min(self._settings.retry_s * 2.0 ** (self._failures - 1), self._settings.retry_most_s)
        return max(error.retry_after_s, float(backoff_s) * random.uniform(0.8, 1.2))


async def retrying(
    settings: RegistrySettings,
    work: Callable[[], Awaitable[T]],
    waiting: Callable[[float], None] = lambda delay_s: None,
) -> T:
    """``work`` until it succeeds or fails for good. ``waiting`` is told before each pause."""
    retry = Retry(settings)
    while True:
        try:
            return await work()
        except RegistryFailure as error:
            delay_s = retry.delay_s(error)
            if delay_s is None:
                raise
        waiting(delay_s)
        await asyncio.sleep(delay_s)
