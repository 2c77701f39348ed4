"""Periodic work of a server."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import structlog

from server.errors import StorageError, StorageRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

log = structlog.get_logger()

T = TypeVar("T")

RETRY_SECONDS = 1.0
"""How long after a failure the work is tried again."""


class Recurring:
    """A task that repeats a piece of work, which returns the seconds until it is to be repeated.

    Failures are logged under its name and do not end the task.
    """

    def __init__(self, name: str, work: Callable[[], Awaitable[float]]) -> None:
        self._name = name
        self._work = work
        self._away = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task; the work is done for the first time at once."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def close(self) -> None:
        """Stop the task."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                seconds = await self._work()
                self._away = False
            except Exception as error:
                self._report(error)
                seconds = RETRY_SECONDS
            await asyncio.sleep(seconds)

    def _report(self, error: Exception) -> None:
        """Log an outage once, in one line, and a defect each time, with its traceback."""
        if not isinstance(error, StorageError) or isinstance(error, StorageRefused):
            log.error("work_failed", work=self._name, exc_info=error)
        elif not self._away:
            self._away = True
            log.error("work_delayed", work=self._name, reason=type(error).__name__, cause=str(error.__cause__))


async def try_each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Call `work` for every item even if it fails for some. Raise the last failure."""
    failure: Exception | None = None
    for each in items:
        try:
            await work(each)
        except Exception as error:
            failure = error
    if failure is not None:
        raise failure
