"""A shutdown, as the calls in progress see it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from server.errors import Stopping

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shutdown:
    """`stopping` is set when the shutdown begins; calls then have `grace_seconds` to end."""

    stopping: asyncio.Event
    grace_seconds: float


async def until(event: asyncio.Event, work: Awaitable[T]) -> T:
    """Await work and return its result. Raise Stopping if the event is set first.

    Work that has not ended is cancelled, also when the caller is, and its end is awaited: nothing that it holds, such
    as a stream of requests or the leases of a consumer, is used any more when this returns. Work that ends at the same
    moment as the event is set wins, so that nothing it did is lost.
    """
    working = asyncio.ensure_future(work)
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Stopping
        return await working
    finally:
        working.cancel()
        waiting.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)
