"""Large work on the event loop gives way to the database thread while that computes.

Only one thread at a time has the interpreter, so the loop loses nothing by waiting. If both compute, they hand it over
every 0.2 ms, and each time the processor begins anew with another one's data:

    batches of 500 events, 4 callers, two cores    both compute     the loop waits
    deciding on an event                           12 us of CPU     7 us
    events a second                                24,000           32,000

    take      by the thread: it begins to compute, or has a result that the loop is to hand out
    let go    by the thread: SQLite stores rows or syncs; by the loop: the result is handed out
    wait      by a slice of large work, before it begins; one that has begun ends with the event it is at

Small work does not wait: it takes less time than a hand-over. How long large work waits at most is decided as for small
work of other projects (`small_work`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

WAIT_SECONDS: Final = 0.01
"""The longest wait at a time: more than a large batch is decided in."""


class DatabaseThread:
    """Whether the database thread needs the interpreter."""

    def __init__(self) -> None:
        self.computes = False
        self._waiters: deque[asyncio.Future[None]] = deque()

    def take(self) -> None:
        """Note that the thread needs the interpreter."""
        self.computes = True

    def let_go(self) -> None:
        """Note that it does not, and wake those who wait for that. Called from any thread."""
        self.computes = False
        while (waiter := self._next_waiter()) is not None:
            # The loop may have been closed by now.
            with suppress(RuntimeError):
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    async def wait(self) -> None:
        """Wait until the thread does not need the interpreter, for WAIT_SECONDS at most."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._waiters.append(waiter)
        # Only now: what was let go before has woken nobody.
        if not self.computes:
            return
        limit = loop.call_later(WAIT_SECONDS, _wake, waiter)
        try:
            await waiter
        finally:
            limit.cancel()

    def _next_waiter(self) -> asyncio.Future[None] | None:
        # Not asked whether there is one: the other thread may take it in between.
        try:
            return self._waiters.popleft()
        except IndexError:
            return None


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


database_thread: Final = DatabaseThread()
"""One for the whole process, as the interpreter is."""
