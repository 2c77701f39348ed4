"""A thread for long computations, such as evaluating and compiling conditions.

There is one thread, because threads that compute share one interpreter anyway, and each takes time away from the event
loop and from commits. Long work is done in slices, and projects take turns: work of one project waits for at most one
slice of each other project. Work whose caller is cancelled ends with the slice that is running.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import thread_time
from typing import TYPE_CHECKING, Final, TypeVar

from server.process import runtime
from server.sharing.fair_queue import FairTurns
from server.sharing.small_work import WaitCredit

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")

SLICE_SECONDS: Final = 0.01
"""The time that one call of `proceed` should take."""


class WorkThread:
    """The thread, shared by all projects. It ends when the last reference to this object is gone."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "work")
        self._turns = FairTurns(1)
        self._wait_credit = WaitCredit()

    async def run(self, key: Hashable, work: Callable[[], T]) -> T:
        """Run short work for a key, such as a project, and return its result."""
        loop = asyncio.get_running_loop()
        with runtime.computing():
            async with self._turns.turn(key):
                while self._wait_credit.must_wait(key):
                    await self._wait_credit.wait()
                return await loop.run_in_executor(self._thread, self._run, work)

    def _run(self, work: Callable[[], T]) -> T:
        began = thread_time()
        try:
            return work()
        finally:
            self._wait_credit.add(thread_time() - began)

    def give_way(self, key: Hashable) -> None:
        """Wait for small work of other projects in the middle of a slice. Call it in the thread (`small_work`)."""
        while self._wait_credit.must_wait(key):
            self._wait_credit.wait_in_thread()

    async def run_in_slices(self, key: Hashable, proceed: Callable[[], bool]) -> None:
        """Call `proceed`, which works for about SLICE_SECONDS, until it returns true."""
        while not await self.run(key, proceed):
            pass
