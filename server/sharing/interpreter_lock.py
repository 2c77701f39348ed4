"""Large work on the event loop gives way to the database thread while that computes.

Only one thread at a time has the interpreter, so the loop loses nothing by waiting. If both compute, they hand it over
every 0.2 ms, and each time the processor begins anew with another one's data:

    batches of 500 events, 4 callers, two cores    both compute     the loop waits
    deciding on an event                           12 us of CPU     7 us
    events a second                                24,000           32,000

    take      by the thread: it begins to compute
    result    by the thread: it has a result that the loop is to hand out
    let go    by the thread: SQLite stores rows or syncs; by the loop: the result is handed out
    wait      by a slice of large work, before it begins; one that has begun ends with the event it is at

Small work does not wait: it takes less time than a hand-over. How long large work waits at most is decided as for small
work of other projects (`small_work`).

However small the work is, there may be so much of it that the loop never sleeps: requests without a key are enough. It
releases the interpreter with each call of the system, but takes it back before the thread is awake, and each attempt of
the thread begins its wait for a forced hand-over anew, so a shorter switch interval does not help. So a loop that did
not sleep while a transaction was awaited stops for a moment now and then, and for as long as the thread computes
(`LoopPauses`):

    a neighbour's send, 4 connections pipeline requests    no pauses    pauses
    p50 and p99, in ms; 6 and 11 without them              103, 271     8, 12
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager, suppress
from time import perf_counter, sleep, thread_time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_SECONDS: Final = 0.01
"""The longest wait at a time: more than a large batch is decided in."""

LOOK_SECONDS: Final = 0.001
"""The interval at which a busy loop checks whether it has slept. Most transactions of single sends take as long."""

CALM_LOOK_SECONDS: Final = 0.004
"""The interval for a loop that has slept, which each check wakes."""

BUSY_SHARE: Final = 0.8
"""A loop that used the processor for more than this share of an interval has not slept."""

PAUSE_SECONDS: Final = 0.002
"""The longest pause of the loop at a time: more than a transaction of single sends computes."""

NAP_SECONDS: Final = 0.000_1
"""The shortest pause: enough for the thread to wake up, if the interpreter is all that it waits for."""


class DatabaseThread:
    """Whether the database thread needs the interpreter."""

    def __init__(self) -> None:
        self.computes = False
        self._has_result = False
        self._waiters: deque[asyncio.Future[None]] = deque()

    def take(self) -> None:
        """Note that the thread needs the interpreter."""
        self._has_result = False
        self.computes = True

    def has_result(self) -> None:
        """Note that the thread is done, and that the loop has a result to hand out before it begins large work."""
        self._has_result = self.computes = True

    def pause(self) -> None:
        """Stop the loop for a moment, and while the thread computes, for PAUSE_SECONDS at most. Called by the loop.

        It does not stop while the thread has a result for it.
        """
        until = perf_counter() + PAUSE_SECONDS
        while not (self.computes and self._has_result):
            sleep(NAP_SECONDS)
            if not self.computes or perf_counter() >= until:
                return

    def let_go(self) -> None:
        """Note that the thread has stopped computing, and wake those who wait for that. Called from any thread."""
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


class LoopPauses:
    """Pauses of a busy event loop while a transaction is awaited."""

    def __init__(self) -> None:
        self._awaited = 0
        self._looking = False
        self._interval = CALM_LOOK_SECONDS

    @contextmanager
    def awaiting(self) -> Iterator[None]:
        """Pause now and then, if the loop does not sleep, while the context is open."""
        self._awaited += 1
        if not self._looking:
            self._look_later(asyncio.get_running_loop())
        try:
            yield
        finally:
            self._awaited -= 1

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._looking = True
        loop.call_later(self._interval, self._look, loop, perf_counter(), thread_time())

    def _look(self, loop: asyncio.AbstractEventLoop, since: float, used: float) -> None:
        self._looking = False
        if not self._awaited:
            return
        busy = thread_time() - used > BUSY_SHARE * (perf_counter() - since)
        self._interval = LOOK_SECONDS if busy else CALM_LOOK_SECONDS
        if busy:
            database_thread.pause()
        self._look_later(loop)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


database_thread: Final = DatabaseThread()
"""One for the whole process, as the interpreter is."""
