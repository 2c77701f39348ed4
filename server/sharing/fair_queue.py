"""Fair queues: who is next at a resource that all projects use, such as the writer or the event loop.

`FairQueue` decides who is next, by start-time fair queueing. In virtual time, an item starts when the previous item of
its key is finished, and is finished after its cost. The item that starts first is the next one, and virtual time
advances to its start. So:

- keys that wait receive equal cost, up to their largest items, whatever the sizes and numbers of their items;
- a key that asks seldom waits for one item of each other key;
- time in which a key asks for nothing is not saved up.

`FairTurns` grants a fixed number of turns, such as the use of connections, in that order.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import Counter, deque
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count
from operator import attrgetter, itemgetter
from time import perf_counter
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable

T = TypeVar("T")

_ORDER: Final = itemgetter(0)
_WAITER_ORDER: Final = attrgetter("order")

_FORGET_KEYS: Final = 1_000
"""With finish times of more keys than this, those that virtual time has passed are dropped."""


class FairQueue(Generic[T]):
    """Items of many keys, each with a cost. Within one key they leave in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[tuple[int, int, T]]] = {}  # by key: order, cost and item
        # For each key with items: the start of its first item, and a number that keeps keys with equal starts in order.
        self._first: list[tuple[int, int, Hashable]] = []
        self._numbers = count()
        self._finish: dict[Hashable, int] = {}
        self._now = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def keys(self) -> int:
        """The number of keys that have items."""
        return len(self._waiting)

    def push(self, key: Hashable, item: T, cost: int = 1, order: int = 0) -> None:
        """Add an item to those of its key, after the ones of the same or a lower order."""
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = deque()
            self._rank(key, max(self._now, self._finish.get(key, 0)))
        if waiting and order < waiting[-1][0]:
            insort(waiting, (order, cost, item), key=_ORDER)
        else:
            waiting.append((order, cost, item))
        self._length += 1

    @property
    def first(self) -> T:
        """The next item. Raise IndexError if there is none."""
        return self._waiting[self._first[0][2]][0][2]

    def pop(self) -> T:
        """Remove the next item and return it. Raise IndexError if there is none."""
        self._now, _, key = heappop(self._first)
        waiting = self._waiting[key]
        _, cost, item = waiting.popleft()
        self._finish[key] = self._now + cost
        self._length -= 1
        if waiting:
            self._rank(key, self._finish[key])
        else:
            self._forget(key)
        return item

    def _rank(self, key: Hashable, start: int) -> None:
        heappush(self._first, (start, next(self._numbers), key))

    def _forget(self, key: Hashable) -> None:
        """Drop the state of a key without items, but its finish time only once virtual time has passed it."""
        del self._waiting[key]
        if not self._waiting:
            # Nobody waits, so no key has a claim to be served first.
            self._finish.clear()
        elif len(self._finish) > _FORGET_KEYS + 2 * len(self._waiting):
            self._finish = {key: finish for key, finish in self._finish.items() if finish > self._now}


class FairTurns:
    """A number of turns that can be held at the same time, of which one key holds at most `share`.

    Keys that wait get turns in the order of a `FairQueue`. A caller that is cancelled while it waits costs its key
    nothing.
    """

    def __init__(self, turns: int, share: int | None = None) -> None:
        self.size = turns
        self.waits = 0
        """How many callers have waited, and `waited_seconds` is for how long in all."""
        self.waited_seconds = 0.0
        self._free = turns
        self._share = turns if share is None else share
        self._queue: FairQueue[_Waiter] = FairQueue()
        self._places: Counter[Hashable] = Counter()  # by key: turns held and waiters in the queue, together a share
        self._beyond: dict[Hashable, deque[_Waiter]] = {}  # by key: waiters beyond the share, not in the queue yet

    @property
    def waiting(self) -> int:
        """The number of callers that wait."""
        return len(self._queue) + sum(map(len, self._beyond.values()))

    @property
    def held(self) -> int:
        """The number of turns that are held."""
        return self.size - self._free

    @asynccontextmanager
    async def turn(self, key: Hashable, cost: int = 1) -> AsyncIterator[None]:
        """Wait for a turn, and hold it while the context is open."""
        await self.acquire(key, cost)
        try:
            yield
        finally:
            self.release(key)

    async def acquire(self, key: Hashable, cost: int = 1, order: int = 0) -> None:
        """Wait for a turn, before waiters of the key with a higher order. The caller gives it back with `release`."""
        if self._places[key] >= self._share:
            waiter = _Waiter(key, cost, order)
            insort(self._beyond.setdefault(key, deque()), waiter, key=_WAITER_ORDER)
        else:
            self._places[key] += 1
            if self._free:
                self._free -= 1
                return
            waiter = _Waiter(key, cost, order)
            self._queue.push(key, waiter, cost, order)
        self.waits += 1
        began = perf_counter()
        try:
            await waiter.given
        except asyncio.CancelledError:
            if waiter.given.done() and not waiter.given.cancelled():
                self.release(key)
            raise
        finally:
            self.waited_seconds += perf_counter() - began

    def release(self, key: Hashable) -> None:
        """Give a turn back, and pass it on."""
        self._free += 1
        self._vacate(key)
        while self._free and self._queue:
            waiter = self._queue.pop()
            if waiter.given.done():
                self._vacate(waiter.key)
            else:
                self._free -= 1
                waiter.given.set_result(None)

    def _vacate(self, key: Hashable) -> None:
        """Pass a place of a key on to its first waiter beyond the share, or give it up."""
        beyond = self._beyond.get(key)
        while beyond:
            waiter = beyond.popleft()
            if not waiter.given.done():
                self._queue.push(key, waiter, waiter.cost, waiter.order)
                return
        self._beyond.pop(key, None)
        self._places[key] -= 1
        if not self._places[key]:
            del self._places[key]


class _Waiter:
    """A caller that waits for a turn."""

    __slots__ = ("cost", "given", "key", "order")

    def __init__(self, key: Hashable, cost: int, order: int) -> None:
        self.key = key
        self.cost = cost
        self.order = order
        self.given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
