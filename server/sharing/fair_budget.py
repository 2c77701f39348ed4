"""A bounded amount of something, such as calls in progress or bytes in memory, shared fairly between projects.

A key, such as a project, may hold at most as much as stays free: a single key gets half of the total, each of two keys
a third. However many keys take all that they can get, something is left for the next one. A key that holds nothing may
take all that is free, so that an item larger than half is not refused for ever. With a `share`, that is the most that
one key holds.

`take` refuses an item that does not fit; `acquire` waits until it does. The waiters of a key are served in their order,
the keys in turn. A waiter for whom too little is free in all is not overtaken: a large item does not starve while small
ones pass.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable


class FairBudget:
    """An amount that keys hold parts of, each at most `share`."""

    def __init__(self, total: int, share: int | None = None) -> None:
        self.total = total
        self.used = 0
        self._share = total if share is None else min(share, total)
        self._held: Counter[Hashable] = Counter()
        self._waiting: OrderedDict[Hashable, deque[tuple[int, asyncio.Future[None]]]] = OrderedDict()

    def held_by(self, key: Hashable) -> int:
        """Return the amount that a key holds."""
        return self._held[key]

    def share_of(self, _key: Hashable) -> int:
        """Return the most that a key may hold."""
        return self._share

    def take(self, key: Hashable, cost: int = 1) -> bool:
        """Take an amount if nobody waits and the key may have it now; return whether it was taken.

        The caller gives it back with `give`.
        """
        if self._waiting or not self._fits(key, cost):
            return False
        self._hold(key, cost)
        return True

    async def acquire(self, key: Hashable, cost: int = 1) -> None:
        """Wait until the key may have an amount, and take it. Raise ValueError for more than the share of a key."""
        if cost > (share := self.share_of(key)):
            raise ValueError(f"{cost:,} can never be taken: a key may hold at most {share:,}")
        if self.take(key, cost):
            return
        given = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append((cost, given))
        self._serve()
        try:
            await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():
                self.give(key, cost)
            else:
                # The next waiter may be smaller.
                self._serve()
            raise

    def give(self, key: Hashable, cost: int = 1) -> None:
        """Release an amount."""
        self.used -= cost
        self._held[key] -= cost
        if not self._held[key]:
            del self._held[key]
        if self._waiting:
            self._serve()

    def _fits(self, key: Hashable, cost: int) -> bool:
        held = self._held.get(key, 0)
        # At least as much must stay free as the key holds already.
        return self.used + cost + held <= self.total and held + cost <= self.share_of(key)

    def _hold(self, key: Hashable, cost: int) -> None:
        self.used += cost
        self._held[key] += cost

    def _serve(self) -> None:
        """Serve waiters, the key that was served last coming last, until none of them can be served."""
        served = True
        while served:
            served = False
            for key in list(self._waiting):
                cost = self._first_cost(key)
                if cost is None:
                    continue
                if self._fits(key, cost):
                    self._serve_first(key)
                    served = True
                elif self.used + cost > self.total:
                    return

    def _first_cost(self, key: Hashable) -> int | None:
        """Return the cost of a key's first waiter, None if all have given up."""
        waiting = self._waiting[key]
        while waiting and waiting[0][1].done():
            waiting.popleft()
        if waiting:
            return waiting[0][0]
        del self._waiting[key]
        return None

    def _serve_first(self, key: Hashable) -> None:
        waiting = self._waiting[key]
        cost, given = waiting.popleft()
        self._hold(key, cost)
        given.set_result(None)
        if waiting:
            self._waiting.move_to_end(key)
        else:
            del self._waiting[key]
