"""Bytes in memory that keys such as projects have in common, with a share for each.

    async with fair_bytes.held(project_pk, size):
        ...

A caller whose key has used up its share, or who comes while all bytes are held, waits. Waiting keys are served by a
`FairQueue`. Whoever is next waits until there are enough bytes for it, and is not overtaken meanwhile: so a large
request does not wait for ever while small ones pass.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from server.fair_queue import FairQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable


class FairBytes:
    """A number of bytes that can be held at the same time, of which one key holds at most `share`.

    More than a share counts as a share: such a request is alone with its key.
    """

    def __init__(self, total: int, share: int) -> None:
        self._free = total
        self._share = min(share, total)
        self._queue: FairQueue[_Waiter] = FairQueue()
        self._next: _Waiter | None = None  # taken from the queue, waits for enough bytes
        self._placed: Counter[Hashable] = Counter()  # of a key: bytes that are held, in the queue, or next
        self._beyond: dict[Hashable, deque[_Waiter]] = {}  # the waiters of keys whose share is used up

    @property
    def free(self) -> int:
        """The number of bytes that nobody holds."""
        return self._free

    @asynccontextmanager
    async def held(self, key: Hashable, size: int) -> AsyncIterator[None]:
        """Wait for bytes, and hold them while the context is open."""
        await self.acquire(key, size)
        try:
            yield
        finally:
            self.release(key, size)

    async def acquire(self, key: Hashable, size: int) -> None:
        """Wait for bytes. The caller gives them back with `release`, all at once or in parts of up to a share."""
        waiter = _Waiter(key, min(size, self._share))
        if key in self._beyond or self._placed[key] + waiter.size > self._share:
            self._beyond.setdefault(key, deque()).append(waiter)
        else:
            self._place(waiter)
            self._give()
        try:
            await waiter.given
        except asyncio.CancelledError:
            if waiter.given.done() and not waiter.given.cancelled():
                self.release(key, waiter.size)
            raise

    def release(self, key: Hashable, size: int) -> None:
        """Give bytes back, and pass them on."""
        size = min(size, self._share)
        self._free += size
        self._vacate(key, size)
        self._give()

    def _place(self, waiter: _Waiter) -> None:
        self._placed[waiter.key] += waiter.size
        self._queue.push(waiter.key, waiter, waiter.size)

    def _give(self) -> None:
        """Give free bytes to whoever is next."""
        while self._next is not None or self._queue:
            waiter = self._next = self._next or self._queue.pop()
            if waiter.given.done():
                self._vacate(waiter.key, waiter.size)
            elif waiter.size > self._free:
                return
            else:
                self._free -= waiter.size
                waiter.given.set_result(None)
            self._next = None

    def _vacate(self, key: Hashable, size: int) -> None:
        """Pass places of a key on to its next waiters beyond the share."""
        self._placed[key] -= size
        beyond = self._beyond.get(key)
        while beyond and (beyond[0].given.done() or self._placed[key] + beyond[0].size <= self._share):
            waiter = beyond.popleft()
            if not waiter.given.done():
                self._place(waiter)
        if not beyond:
            self._beyond.pop(key, None)
            if not self._placed[key]:
                del self._placed[key]


class _Waiter:
    """A caller that waits for bytes."""

    __slots__ = ("given", "key", "size")

    def __init__(self, key: Hashable, size: int) -> None:
        self.key = key
        self.size = size
        self.given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
