"""A thread for work that takes long without waiting for anything, such as evaluating and compiling conditions.

One thread, because threads that compute take turns with the interpreter anyway, and each of them takes time away from
the event loop and from the commits. Projects have turns of a few milliseconds: long work is done in slices, so that the
short work of others waits for one slice of each project at most.

    work that is cancelled ends with the slice that is running
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import thread_time
from typing import TYPE_CHECKING, Final, TypeVar

from server import runtime
from server.sharing.fair_queue import FairTurns
from server.sharing.small_work import GivingWay

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")

SLICE_SECONDS: Final = 0.01
"""How long a slice should take."""


class WorkThread:
    """The thread. It ends when nobody refers to it any more."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "work")
        self._turns = FairTurns(1)
        self._giving_way = GivingWay()

    async def run(self, key: Hashable, work: Callable[[], T]) -> T:
        """Run short work for a key, such as a project, and return its result."""
        loop = asyncio.get_running_loop()
        with runtime.computing():
            async with self._turns.turn(key):
                while self._giving_way.due(key):
                    await self._giving_way.wait()
                return await loop.run_in_executor(self._thread, self._run, work)

    def _run(self, work: Callable[[], T]) -> T:
        began = thread_time()
        try:
            return work()
        finally:
            self._giving_way.worked(thread_time() - began)

    def give_way(self, key: Hashable) -> None:
        """Wait in the middle of a slice, in the thread, as before each slice (`small_work`)."""
        while self._giving_way.due(key):
            self._giving_way.wait_in_thread()

    async def run_in_slices(self, key: Hashable, proceed: Callable[[], bool]) -> None:
        """Call `proceed`, which works for SLICE_SECONDS, until it returns true."""
        while not await self.run(key, proceed):
            pass
