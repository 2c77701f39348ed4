"""Time on the event loop for large requests, in slices and shared fairly between projects.

All requests share one event loop. A request of thousands of events would hold it for seconds, and a project that sends
many of them would hold it for good. So work that grows with a request is done in slices of a few milliseconds, and
between them the loop serves everybody else:

    async with loop_time.slices(project_pk) as slices:
        for event in events:
            convert(event)
            await slices.pause()

One large request has a turn at a time. After SLICE_SECONDS the next project gets it, by `FairTurns`, at a cost of the
time that was used. The requests of one project are finished in the order in which they came: a thousand that advanced
side by side would all be answered after the last one is read, or given up by their clients. Small requests need no
turn, and a slice waits while small work of another project is in progress (`small_work`), and while the database thread
computes (`interpreter_lock`).
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from contextvars import ContextVar
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Final

from server.sharing.fair_queue import FairTurns
from server.sharing.interpreter_lock import database_thread
from server.sharing.small_work import WaitCredit, others_expected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Iterable

SLICE_SECONDS: Final = 0.002
"""The length of a slice. A single send returns to the loop four or five times, and may wait for a slice each time."""

MANY_WAITING: Final = 8
"""With more large requests than this waiting for a turn, the acceptance of calls goes before their slices."""

MANY_ARRIVING: Final = 100
"""With more calls a second than this, and MANY_WAITING large requests, the loop has more work than it can do."""

RATE_SECONDS: Final = 0.05
"""The rate of arriving calls is measured over this time."""

GAP_SECONDS: Final = 0.001
"""While calls arrive, the loop is left free for this long at a time: accepting a call takes it and another thread."""

ARRIVAL_SHARE: Final = 2
"""Arriving calls keep a slice waiting for at most this many times as long as the last one took."""

_orders = count(1)
_order: ContextVar[int] = ContextVar("order")


def begin_request() -> None:
    """Note that the current task works on a new request from now on: its work comes after that of earlier ones."""
    _order.set(next(_orders))


class LoopTime:
    """The loop's time for large requests."""

    def __init__(self) -> None:
        self.turns = FairTurns(1)
        self.wait_credit = WaitCredit()
        self.arrivals = 0
        """The number of calls that have arrived. While they do, further ones are let in between slices."""
        self._seen = 0
        self._counted, self._counted_at, self._rate = 0, perf_counter(), 0.0

    @asynccontextmanager
    async def slices(self, key: Hashable) -> AsyncIterator[Slices]:
        """Wait for a turn of a key, such as a project, and work in slices while the context is open."""
        slices = Slices(self, key)
        await slices.begin()
        try:
            yield slices
        finally:
            slices.end()

    async def round(self, key: Hashable, cost: int) -> None:
        """Wait for a turn of a key, at a cost in microseconds, for work that cannot be done in slices.

        The work is what is done in this round of the event loop. While small work of other projects is expected, the
        loop is left free afterwards for as long as the work took: such work needs several rounds.
        """
        turn = Slices(self, key)
        await turn.begin(cost)
        asyncio.get_running_loop().call_soon(turn.end_round)

    def _overrun(self) -> bool:
        """Return whether the loop has more work than it can do: many large requests wait, and many calls arrive."""
        now = perf_counter()
        if (passed := now - self._counted_at) > RATE_SECONDS:
            self._rate = (self.arrivals - self._counted) / passed
            self._counted, self._counted_at = self.arrivals, now
        return self.turns.waiting > MANY_WAITING and self._rate > MANY_ARRIVING

    async def give_way(self, key: Hashable) -> None:
        """Wait for the database and others' small work, unless many large requests wait and many calls arrive.

        In that case every call waits for the large requests before it is even accepted, so these are finished first.
        """
        while self.wait_credit.must_wait(key) and not self._overrun():
            await self.wait_credit.wait()

    async def serve_others(self, used: float) -> None:
        """After a slice of `used` seconds, let the loop serve others: for one round, or longer while many calls arrive.

        Accepting calls takes rounds of the loop and another thread. With a slice in every round, it took two seconds
        until 400 large calls had been accepted one by one, and all other calls waited for that.
        """
        await asyncio.sleep(0)
        until = perf_counter() + ARRIVAL_SHARE * used
        while self.turns.waiting > MANY_WAITING and self.arrivals != self._seen and perf_counter() < until:
            self._seen = self.arrivals
            await asyncio.sleep(GAP_SECONDS)


class Slices:
    """The slices of one piece of work."""

    def __init__(self, loop_time: LoopTime, key: Hashable) -> None:
        self._loop_time = loop_time
        self._turns = loop_time.turns
        self._key = key
        self._order = _order.get(0) or next(_orders)
        self._holds_turn = False
        self._ends_at = 0.0

    async def begin(self, cost: int = 1) -> None:
        """Wait for the first turn, or for the next one at a cost in microseconds."""
        await self._turns.acquire(self._key, cost, self._order)
        self._holds_turn = True
        try:
            await self._loop_time.give_way(self._key)
        except BaseException:
            self._release()
            raise
        self._ends_at = perf_counter() + SLICE_SECONDS

    def end(self) -> None:
        """Give the turn back."""
        if self._holds_turn:
            self._end(self._used())

    def end_round(self) -> None:
        """Give the turn back, after a pause of the time that was used while others' small work is expected."""
        if not self._holds_turn:
            return
        used = self._used()
        if others_expected(self._key):
            asyncio.get_running_loop().call_later(used, self._end, used)
        else:
            self._end(used)

    def _used(self) -> float:
        return max(0.0, perf_counter() - self._ends_at + SLICE_SECONDS)

    def _end(self, used: float) -> None:
        self._loop_time.wait_credit.add(used)
        self._release()

    def _release(self) -> None:
        self._holds_turn = False
        self._turns.release(self._key)

    def used_up(self) -> bool:
        """Return whether it is time for a pause. Loops over events ask this first: `pause` takes 0.2 us more."""
        return perf_counter() >= self._ends_at or (database_thread.computes and self._loop_time.wait_credit.available)

    async def run(self, work: Iterable[object]) -> None:
        """Advance an iterator that works to its end, with pauses between its items."""
        for _ in work:
            if self.used_up():
                await self.pause()

    async def pause(self) -> None:
        """If the slice is used up, let the loop serve others, and wait for the next turn."""
        if not self.used_up():
            return
        used = self._used()
        # While the turn is still held: the next holder would use it at once, in the same round of the loop.
        await self._loop_time.serve_others(used)
        self._end(used)
        await self.begin(round(used * 1e6))
