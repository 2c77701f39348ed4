"""Batches that a commit could not decide and deferred (`Deferral`), until they are committed or refused.

What happens to a deferred batch depends on the cause:

    cause                                    the batch is
    an error of the batch alone              refused with it; the rest of the group is committed again
    too many matches, INDEPENDENT            divided into parts, which are committed one after the other
    conditions cost more than its room       held, with its project: pre-evaluated, then committed
    a large catalog has changed              held, with its project: the catalog is loaded again off the loop, and the
                                             batches are validated again, then committed

While a project is held, its later batches wait, too, so that the batches of a project are stored in the order in which
they were queued. Those of other projects are committed meanwhile. A batch is prepared at most MAX_ROUNDS times, then
refused, so that no sender waits for ever while the automations keep changing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

import structlog

from registry.errors import SignalboxError
from server.current_call.context import as_server
from server.errors import AutomationsChanging, BatchTooCostly, InternalError, QueueFull
from server.ingest.pre_evaluation import estimated_cost, room_of
from server.ingest.validate import validate_in_slices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from server.ingest.catalog import Catalog
    from server.ingest.draft import Batch
    from server.ingest.pre_evaluation import PreEvaluator
    from server.sharing.loop_time import LoopTime

log = structlog.get_logger()

MAX_ROUNDS: Final = 3

HELD_EVENTS: Final = 50_000
"""The most events of a held project that wait here, in addition to its share of the queue. Beyond it: QUEUE_FULL."""

READY_EVENTS: Final = 250
"""A group takes no further batch that was deferred and is ready once it has this many events of such batches. They are
in addition to the batches that it takes from the queue."""

_PARTS: Final = 4


class Deferral(Exception):
    """Ends the transaction: batches of a project have to be prepared again before it is repeated.

    Without a `batch`, the project's catalog has changed and is large. Else the batch has to be pre-evaluated, or, if
    it is `divisible`, stored in parts; with an `error` it is refused.
    """

    def __init__(
        self,
        project_pk: int,
        batch: Batch | None = None,
        *,
        error: Exception | None = None,
        divisible: bool = False,
    ) -> None:
        super().__init__(project_pk)
        self.project_pk = project_pk
        self.batch = batch
        self.error = error
        self.divisible = divisible


class DeferredBatches:
    """The batches that were deferred. `wake` is called when some of them can be committed."""

    def __init__(
        self, catalog: Catalog, evaluator: PreEvaluator, loop_time: LoopTime, wake: Callable[[], None]
    ) -> None:
        self._catalog = catalog
        self._evaluator = evaluator
        self._loop_time = loop_time
        self._wake = wake
        self._held: dict[int, list[Batch]] = {}
        self._ready: deque[Batch] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        return bool(self._held or self._ready)

    @property
    def ready(self) -> bool:
        """Whether batches can be committed."""
        return bool(self._ready)

    def group(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return the group to commit: the batches that are ready, and those of the given ones that need not wait."""
        group: list[Batch] = []
        events = 0
        while self._ready and events < READY_EVENTS:
            batch = self._ready.popleft()
            if not batch.abandoned():
                group.append(batch)
                events += len(batch.drafts)
        before = {batch.snapshot.project_pk for batch in self._ready}
        for batch in batches:
            held = self._held.get(batch.snapshot.project_pk)
            if held is not None:
                self._wait(batch, held)
            elif batch.snapshot.project_pk in before:
                self._ready.append(batch)
            else:
                group.append(batch)
        return group

    def _wait(self, batch: Batch, held: list[Batch]) -> None:
        """Let a batch of a held project wait, within a limit."""
        if sum(len(other.drafts) for other in held) + len(batch.drafts) > HELD_EVENTS:
            batch.resolve(QueueFull())
        else:
            held.append(batch)

    def regroup(self, deferral: Deferral, batches: Sequence[Batch]) -> list[list[Batch]]:
        """Return the groups to commit now in place of a deferred one."""
        batch = deferral.batch
        if batch is not None and deferral.error is not None:
            batch.resolve(deferral.error)
            return [[other for other in batches if other is not batch]]
        if batch is not None and deferral.divisible:
            place = batches.index(batch)
            parts = batch.split(max(1, len(batch.drafts) // _PARTS))
            return [[*batches[:place]], *([part] for part in parts), [*batches[place + 1 :]]]
        own = [other for other in batches if other.snapshot.project_pk == deferral.project_pk]
        self._hold(deferral.project_pk, own, batch)
        return [[other for other in batches if other.snapshot.project_pk != deferral.project_pk]]

    def _hold(self, project_pk: int, batches: list[Batch], costly: Batch | None) -> None:
        self._held[project_pk] = batches
        task = asyncio.create_task(self._prepare(project_pk, [*batches], costly), name="deferred-batches")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prepare(self, project_pk: int, batches: Sequence[Batch], costly: Batch | None) -> None:
        as_server()
        try:
            snapshot = await self._catalog.current(batches[0].snapshot)
            for batch in batches:
                batch.snapshot = snapshot
                async with self._loop_time.slices(project_pk) as slices:
                    await validate_in_slices(batch, slices)
                await self._pre_evaluate(batch, costly=batch is costly)
        except Exception as error:
            if not isinstance(error, SignalboxError):
                log.exception("preparing_failed")
            for batch in batches:
                batch.resolve(error if isinstance(error, SignalboxError) else InternalError())
        self._ready.extend(self._held.pop(project_pk))
        self._wake()

    async def _pre_evaluate(self, batch: Batch, *, costly: bool) -> None:
        """Pre-evaluate a batch that needs it, or refuse it."""
        if batch.abandoned():
            return
        batch.rounds += 1
        try:
            if batch.rounds > MAX_ROUNDS:
                stale = batch.pre_evaluated_by is not batch.snapshot.automations
                raise AutomationsChanging if stale else BatchTooCostly.by_cost(room_of(batch))
            if costly or estimated_cost(batch) > room_of(batch):
                await self._evaluator.evaluate(batch)
        except SignalboxError as error:
            batch.resolve(error)
