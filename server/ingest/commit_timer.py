"""When the next group commit begins: how long it waits for further batches.

    of few senders       at once
    of many              when as many batches are queued as the last group had, less one, or GATHER_SECONDS after the
                         first of them
    of a newcomer        at once: a project that was not in the last group does not wait for the senders of that
    refused              with the next batches that may be recorded. If none comes, after GATHER_SECONDS where there are
                         many senders; else at once, but commits of refused events alone get a fifth of the time

After a group of n batches, n - 1 are expected: each sender usually sends again at once; without waiting, the first to
do so would get a commit to itself. When senders leave, the number falls with every group, so the others do not wait for
them for long.

Batches of which every event is refused, and kept in quarantine, are not among those that are expected, and seldom have
a commit to themselves: others would wait for it. With 16 senders and 1,000 refused events a second, each commit waited
for refused events that did not come. Where nothing was recorded for RECENT_SECONDS, nobody waits for them.
"""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from server.ingest.commit_queue import CommitQueue
    from server.ingest.draft import Batch

GATHER_BATCHES = 4
"""After a group of at most this size the next commit does not wait: with few senders that costs more than it saves."""

GATHER_SECONDS = 0.020
"""The longest time that a commit waits for the expected batches. A commit costs as much as several events."""

RECENT_SECONDS: Final = 1.0
"""How long after a commit that may have recorded events refused events wait for the next such commit."""

REST: Final = 4
"""After a commit of refused events alone, the next one waits this many times as long as it took, but no longer than
GATHER_SECONDS."""


class CommitTimer:
    """Wakes the task that commits when the next group should begin."""

    def __init__(self, queue: CommitQueue, wake: Callable[[], None]) -> None:
        self._queue = queue
        self._wake = wake
        self._latest: set[int] = set()
        self._expected = 1
        self._timer: asyncio.TimerHandle | None = None
        self._began = self._recorded = self._rests_until = -inf
        self._only_refused = False

    @property
    def waiting(self) -> bool:
        """Whether further batches are awaited."""
        return self._timer is not None

    def schedule(self, batch: Batch | None = None, *, at_once: bool = False) -> None:
        """Wake the task when it is time. `batch` has just been queued."""
        newcomer = batch is not None and not batch.refused and batch.snapshot.project_pk not in self._latest
        if newcomer or at_once or self._queue.recordable >= self._expected:
            self._expire()
        elif self._timer is None:
            seconds = GATHER_SECONDS if self._queue.recordable else self._refused_wait()
            if seconds > 0:
                self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)
            else:
                self._wake()

    def took(self, batches: Sequence[Batch]) -> None:
        """Note the batches of the group that is about to be committed, and how many are expected after them."""
        self._end_wait()
        recordable = [batch for batch in batches if not batch.refused]
        senders = len({id(batch.whole) for batch in recordable})
        self._latest = {batch.snapshot.project_pk for batch in recordable}
        self._expected = senders - 1 if senders > GATHER_BATCHES else 1
        self._only_refused = not recordable
        self._began = monotonic()
        if recordable:
            self._recorded = self._began

    def committed(self) -> None:
        """Note that the commit of the group has ended."""
        if self._only_refused:
            now = monotonic()
            self._rests_until = now + min(REST * (now - self._began), GATHER_SECONDS)

    def _refused_wait(self) -> float:
        """Return how long a commit of refused events alone has to wait."""
        now = monotonic()
        if now > self._recorded + RECENT_SECONDS:
            return 0
        return GATHER_SECONDS if self._expected > 1 else self._rests_until - now

    def _expire(self) -> None:
        """Wake the task, and wait for no further batches."""
        self._end_wait()
        self._wake()

    def _end_wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
