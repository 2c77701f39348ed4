"""Small work of a project in portions, so that a round of the event loop stays short for the other projects.

A single send needs four or five rounds of the loop: it is accepted, received, stored and answered. Each of a hundred
sends of another project that are at the same stage takes 0.1 to 0.3 ms of a round, so that a round took 20 ms, and a
send 100. Here they enter each stage in portions:

    begin      now, or as soon as it is the project's turn; each project may begin one in every round
    a round    PORTION in all, projects in turn, each in the order in which they came
    alone      all at once, while no other project has begun small work for a second (`small_work`)

    a neighbour's send, 3,000 single sends in flight    all at once      portions of 8
    p50 and p99, in ms, medians of four rounds          546, 981         117, 411

Measured once, portions of 16 and of 32 took 168 and 335 ms at p50. With 64 sends in flight no difference was measured,
in the time of a neighbour's send or in sends a second.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from functools import partial
from typing import TYPE_CHECKING, Final

from server.sharing.small_work import others_expected

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

PORTION: Final = 8
"""The calls that begin in one round, about 2 ms of work. A round without work takes 0.05 ms."""


class Rounds:
    """Small work at one of its stages."""

    def __init__(self) -> None:
        self._begun: set[Hashable] = set()  # keys, in this round
        self._total = 0
        self._waiting: OrderedDict[Hashable, deque[Callable[[], object]]] = OrderedDict()
        self._counting = False

    def take(self, key: Hashable) -> bool:
        """Return whether work of a key may begin at once. If so, it is counted."""
        if key in self._waiting:
            return False
        if not self._waiting and not others_expected(key):
            return True
        if self._total >= PORTION and key in self._begun:
            return False
        self._count(key)
        return True

    def begin(self, key: Hashable, work: Callable[[], object]) -> None:
        """Call something at once, or when it is the key's turn."""
        if self.take(key):
            work()
        else:
            self._waiting.setdefault(key, deque()).append(work)
            self._count_rounds()

    async def wait(self, key: Hashable) -> None:
        """Wait for a turn of the key, after `take` has returned false."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.begin(key, partial(_grant, turn))
        await turn

    def _count(self, key: Hashable) -> None:
        self._begun.add(key)
        self._total += 1
        self._count_rounds()

    def _count_rounds(self) -> None:
        if not self._counting:
            self._counting = True
            asyncio.get_running_loop().call_soon(self._next_round)

    def _next_round(self) -> None:
        """Begin the next portion: one of each key that waits, and further ones in turn."""
        self._counting = False
        self._begun.clear()
        self._total = 0
        for key in [*self._waiting]:
            self._begin_first(key)
        while self._waiting and self._total < PORTION:
            self._begin_first(next(iter(self._waiting)))

    def _begin_first(self, key: Hashable) -> None:
        waiting = self._waiting[key]
        work = waiting.popleft()
        if waiting:
            self._waiting.move_to_end(key)
        else:
            del self._waiting[key]
        self._count(key)
        work()


def _grant(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
