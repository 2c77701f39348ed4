"""Lookups of keys and projects, which calls share, and for which they wait a bounded time."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from server.errors import StorageLate

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

LATE_SECONDS: Final = 1.4
"""The longest time for which calls wait for the lookup of their key or project, as long as for a commit: it takes a
millisecond, but while a database does not respond, a driver takes half a minute to find out."""

_STALL_SECONDS: Final = 0.05
"""The time for a result that arrived while the event loop was held up, or the process stopped, to be seen."""


class Lookup(Generic[T]):
    """A read for callers that wait for it, for LATE_SECONDS after it has begun."""

    def __init__(self, read: Coroutine[Any, Any, T], name: str) -> None:
        self.task = asyncio.create_task(read, name=name)
        self._late_at = monotonic() + LATE_SECONDS

    async def result(self) -> T:
        """Return the result of the read. Raise its error, or StorageLate."""
        for seconds in (max(0.0, self._late_at - monotonic()), _STALL_SECONDS):
            if not self.task.done():
                await asyncio.wait({self.task}, timeout=seconds)
        if not self.task.done():
            raise StorageLate
        return self.task.result()
