"""How many messages of a project are received at a time, by how large its latest ones were.

The size of a message is known only once it is received, and the gRPC library receives it in one go: 16 MiB hold the
interpreter for 5 to 20 ms, and take twice their size. Forty that arrived together held it for a second, and took a
gigabyte. So a project receives as many at a time as fit into WINDOW_BYTES if they are as large as its latest ones; the
flow control of its connections holds the others back.

    a project that is new      FIRST_BYTES are expected of each message
    a large message            its size is expected of the next ones
    a smaller one              lowers what is expected by an eighth: after some twenty the project is not limited
    a message that is slow     has its place for SLOW_SECONDS; `CallLimits.arriving` bounds the number of those

Sizes are learned for each method, so that large batches do not hold up single events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from server.sharing.fair_budget import FairBudget

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable

WINDOW_BYTES: Final = 32 * 1024 * 1024
"""As much as one project may have in work: more would only wait for that."""

FIRST_BYTES: Final = 8 * 1024 * 1024

MOST_AT_A_TIME: Final = 128
LEAST_AT_A_TIME: Final = 2

SLOW_SECONDS: Final = 0.5
"""A message that takes longer holds the interpreter once in a while. Its client may need half a minute to send it."""

_ANY_NUMBER: Final = 1 << 30

_KEPT_KINDS: Final = 10_000


class ReceiveLimits(FairBudget):
    """The messages that are being received. Their kind, which is the key, is a project and a method."""

    def __init__(self) -> None:
        super().__init__(_ANY_NUMBER)
        self._expected: dict[Hashable, int] = {}
        self._places: dict[asyncio.Task[Any], Hashable] = {}

    def share_of(self, key: Hashable) -> int:
        """Return how many messages of a kind are received at a time."""
        fitting = WINDOW_BYTES // self._expected.get(key, FIRST_BYTES)
        return max(LEAST_AT_A_TIME, min(fitting, MOST_AT_A_TIME))

    def limited(self, kind: Hashable) -> bool:
        """Return whether the next message of a kind may be large."""
        return self.share_of(kind) < MOST_AT_A_TIME

    def enter_at_once(self, task: asyncio.Task[Any], kind: Hashable) -> bool:
        """Return whether a task may receive a message without waiting."""
        entered = self.take(kind)
        if entered:
            self._places[task] = kind
        return entered

    async def enter(self, task: asyncio.Task[Any], kind: Hashable) -> None:
        """Wait until a task may receive a message."""
        await self.acquire(kind)
        self._places[task] = kind

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Release the place of a task, if it has one."""
        kind = self._places.pop(task, None)
        if kind is not None:
            self.give(kind)

    def received(self, kind: Hashable, size: int) -> None:
        """Note the size of a message."""
        expected = self._expected.get(kind, FIRST_BYTES)
        if size <= expected <= WINDOW_BYTES // MOST_AT_A_TIME:
            return
        if len(self._expected) > _KEPT_KINDS:
            self._expected.clear()
        self._expected[kind] = max(size, expected - expected // 8)
