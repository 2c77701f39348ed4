"""The queue before the log: batches of all projects, bounded, and fair between projects.

Whose batch is next is decided by a `FairQueue` whose costs are microseconds of the writer, as the commits of that
project have taken lately: a project whose events match a thousand automations pays for that. Within a project, batches
leave in the order in which they came.

    a project's share   as much as is still free beside it: alone all of it (`Settings.queue_events`), two that flood
                        two thirds of that each, and so on. So nobody fills the queue, and there is room for whoever
                        sends now and then.
    a group             1,000 events while one project sends. While several do, as much as takes a few milliseconds:
                        whoever has just missed a commit waits for it, and for its own.
    a part              of a large independent batch, so that it does not make a long commit. A batch that is all or
                        nothing is one transaction, however large.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

from server.errors import QueueFull
from server.process.memory import usable_memory
from server.sharing.fair_queue import FairQueue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from server.ingest.draft import Batch

QUEUE_MEMORY_SHARE: Final = 4
HELD_PER_BYTE: Final = 12
"""The queue holds at most a quarter of the memory. An event in Python takes up to 12 times the bytes of its request."""

MIN_QUEUE_BYTES: Final = 64 * 1024 * 1024
"""Four of the largest requests, on machines of any size."""

GROUP_EVENTS: Final = 1_000
"""A commit takes no further batch once it holds this many events: while it is stored, the loop reads the next ones."""

GROUP_MICROSECONDS: Final = 50_000
"""Nor once it is likely to take this long, because the next batches wait for it."""

SHARED_GROUP_MICROSECONDS: Final = 6_000
"""The same while several projects send. Twice the time of a lone send: one that came too late waits for another one."""

SHARED_SECONDS: Final = 5.0
"""How long groups stay short after several projects were in the queue, because some projects send now and then."""

PART_EVENTS: Final = 250
"""The events in a part of an independent batch, fewer where these would take longer than a shared group."""

SMALL_EVENTS: Final = 8
SMALL_BYTES: Final = 16 * 1024
"""A project with nothing in the queue may always add a batch of this size."""

_UNIT_MICROSECONDS: Final = 10.0
"""The assumed cost of a unit of a batch, until commits of the project have been measured."""

_LEARN_UNITS: Final = 16
"""Commits of fewer units are not measured: most of their time does not depend on what they hold."""

_KEPT_PROJECTS: Final = 10_000


def queue_bytes() -> int:
    """Return the bytes of requests that the queue may hold, by the memory of this machine."""
    return max(MIN_QUEUE_BYTES, usable_memory() // QUEUE_MEMORY_SHARE // HELD_PER_BYTE)


class _Held:
    """The events and bytes of one project in the queue."""

    __slots__ = ("bytes", "events")

    def __init__(self) -> None:
        self.events = self.bytes = 0


_NOTHING: Final = _Held()


class _Waiter:
    """A batch that waits for room."""

    __slots__ = ("events", "room", "size")

    def __init__(self, events: int, size: int) -> None:
        self.events = events
        self.size = size
        self.room: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class CommitQueue:
    """Batches that wait for the commit task."""

    def __init__(self, events: int) -> None:
        self._max_events = 2 * events  # of which a project alone may have a half
        self._max_bytes = queue_bytes()
        self._queue: FairQueue[Batch] = FairQueue()
        self._held: dict[int, _Held] = {}
        self._waiters: dict[int, deque[_Waiter]] = {}
        self._costs: dict[int, float] = {}
        self._fixed = 0.0
        self._shared_until = 0.0
        self._refused = 0
        self.events = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def recordable(self) -> int:
        """The number of queued batches, or parts of them, of which not every event is refused."""
        return len(self._queue) - self._refused

    def push(self, batch: Batch) -> None:
        """Append a batch to those of its project. Raise QueueFull beyond the project's share.

        A batch larger than the share is accepted while the queue is empty.
        """
        project_pk, events = batch.snapshot.project_pk, len(batch.drafts)
        self.check_room(project_pk, events, batch.size)
        held = self._held.get(project_pk)
        if held is None:
            held = self._held[project_pk] = _Held()
        held.events += events
        held.bytes += batch.size
        self.events += events
        self.bytes += batch.size
        cost = self._cost(batch)
        if events <= SMALL_EVENTS:
            self._push(batch, cost)
            return
        for part in batch.split(max(1, min(PART_EVENTS, int(SHARED_GROUP_MICROSECONDS * events / cost)))):
            self._push(part, self._cost(part))

    def _push(self, batch: Batch, cost: float) -> None:
        batch.refused = batch.all_refused()
        self._refused += batch.refused
        self._queue.push(batch.snapshot.project_pk, batch, 1 + int(cost))

    def check_room(self, project_pk: int, events: int, size: int) -> None:
        """Raise QueueFull if a batch of a project does not fit into its share."""
        held = self._held.get(project_pk, _NOTHING)
        if not self._queue or (not held.events and events <= SMALL_EVENTS and size <= SMALL_BYTES):
            return
        # What the project would have must not be more than what would still be free.
        if held.events + self.events + 2 * events > self._max_events:
            raise QueueFull(f"{held.events:,} events")
        if held.bytes + self.bytes + 2 * size > self._max_bytes:
            raise QueueFull(f"{held.bytes:,} bytes of events")

    def take(self) -> list[Batch]:
        """Return the next group, without the batches whose callers were cancelled."""
        shared = self._shared()
        limit = GROUP_MICROSECONDS
        if shared:
            limit = max(SHARED_GROUP_MICROSECONDS, min(int(self._fixed), 2 * SHARED_GROUP_MICROSECONDS))
        batches: list[Batch] = []
        events, cost = 0, 0.0
        while self._queue and events < GROUP_EVENTS and cost < limit:
            # A long batch is a transaction of its own: the others of its group would wait for it.
            if batches and shared and self._cost(self._queue.first) > 2 * limit:
                break
            batch = self._pop()
            if batch.abandoned():
                batch.resolve()
                continue
            batches.append(batch)
            events += len(batch.drafts)
            cost += self._cost(batch)
        self._open_rooms()
        return batches

    def clear(self) -> list[Batch]:
        """Remove all batches and return them."""
        batches = [*self._drain()]
        self._open_rooms()
        return batches

    async def wait_for_room(self, project_pk: int, events: int, size: int, seconds: float) -> None:
        """After QueueFull: wait until there is likely to be room for a batch, for some seconds at most."""
        waiter = _Waiter(events, size)
        self._waiters.setdefault(project_pk, deque()).append(waiter)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await waiter.room

    def expected_seconds(self, batches: Iterable[Batch]) -> float:
        """Return how long a commit of batches should take."""
        return (self._fixed + sum([self._cost(batch) for batch in batches])) / 1e6

    def learn(self, project_pk: int, batches: Iterable[Batch], seconds: float) -> None:
        """Note how long the writer was busy with batches of a project."""
        units = sum([batch.units for batch in batches])
        if units < _LEARN_UNITS:
            return
        before = self._costs.get(project_pk, _UNIT_MICROSECONDS)
        if len(self._costs) > _KEPT_PROJECTS:
            self._costs.clear()
        self._costs[project_pk] = before + (1e6 * seconds / units - before) / 4

    def learn_fixed(self, seconds: float) -> None:
        """Note how long a commit took beside that, such as for the disk: where that is long, so are shared groups."""
        self._fixed += (1e6 * seconds - self._fixed) / 8

    def _cost(self, batch: Batch) -> float:
        return self._costs.get(batch.snapshot.project_pk, _UNIT_MICROSECONDS) * batch.units

    def _shared(self) -> bool:
        """Return whether several projects are in the queue, or were a short time ago."""
        now = monotonic()
        if self._queue.keys > 1:
            self._shared_until = now + SHARED_SECONDS
        return now < self._shared_until

    def _pop(self) -> Batch:
        batch = self._queue.pop()
        self._refused -= batch.refused
        project_pk, events = batch.snapshot.project_pk, len(batch.drafts)
        held = self._held[project_pk]
        held.events -= events
        held.bytes -= batch.size
        self.events -= events
        self.bytes -= batch.size
        if not held.events:
            # Of the bytes of a batch in parts, less than one for each part is left.
            self.bytes -= held.bytes
            del self._held[project_pk]
        return batch

    def _drain(self) -> Iterator[Batch]:
        while self._queue:
            yield self._pop()

    def _open_rooms(self) -> None:
        """Wake, in each project, the first waiters that fit into its share together."""
        for project_pk in [*self._waiters]:
            waiters = self._waiters[project_pk]
            events = size = 0
            while waiters:
                if not waiters[0].room.done():
                    events += waiters[0].events
                    size += waiters[0].size
                    try:
                        self.check_room(project_pk, events, size)
                    except QueueFull:
                        break
                    waiters[0].room.set_result(None)
                waiters.popleft()
            if not waiters:
                del self._waiters[project_pk]
