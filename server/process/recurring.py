"""Periodic work of a server."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from server.logs.outages import Outages

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

T = TypeVar("T")

RETRY_SECONDS = 1.0
"""How long after a failure the work is tried again."""

SETTLING_SECONDS = 0.5
"""How long recurring deletions wait after the start of the server: callers who waited for it come first."""


class Recurring:
    """A task that repeats a piece of work, which returns the seconds until it is to be repeated.

    Failures are reported under its name, to the outages of the server, and do not end the task.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[float]],
        outages: Outages | None = None,
        *,
        wait_seconds: float = 0.0,
    ) -> None:
        """`wait_seconds` is how long after the start the work is done for the first time."""
        self._name = name
        self._work = work
        self._wait_seconds = wait_seconds
        self._outages = outages or Outages()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def close(self) -> None:
        """Stop the task."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        await asyncio.sleep(self._wait_seconds)
        while True:
            try:
                seconds = await self._work()
                self._outages.succeeded(self._name)
            except Exception as error:
                self._outages.report(self._name, error)
                seconds = RETRY_SECONDS
            await asyncio.sleep(seconds)


async def try_each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Call `work` for every item even if it fails for some. Raise the last failure."""
    failure: Exception | None = None
    for item in items:
        try:
            await work(item)
        except Exception as error:
            failure = error
    if failure is not None:
        raise failure
