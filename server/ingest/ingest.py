"""The operations that send events, called by every API."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from server.errors import InternalError
from server.ingest.commit_queue import SMALL_BYTES, SMALL_EVENTS
from server.ingest.draft import Batch, BatchMode
from server.ingest.refusal_log import RefusalLog
from server.ingest.validate import validate_batch, validate_in_slices
from server.metrics import Metrics
from server.sharing.current_project import SERVER
from server.sharing.loop_time import LoopTime
from server.sharing.small_work import SmallWork
from server.tracing.context import current_trace

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from server.ingest.catalog import Catalog, CatalogSnapshot
    from server.ingest.draft import Draft, OnRelease
    from server.ingest.group_commit import GroupCommit
    from server.ingest.quotas import Admitted, Quotas
    from server.model import Event, Quota
    from server.tracing.tracer import Tracer


class Ingest:
    """Records events. An event that is returned is durable; where an error is raised, nothing was stored.

    The one exception is StorageUnavailable: the connection broke before the database confirmed. `size` is the number of
    bytes of the request, for the bounds of the queue; without it, it is estimated.
    """

    def __init__(
        self,
        catalog: Catalog,
        queue: GroupCommit,
        quotas: Quotas,
        loop_time: LoopTime | None = None,
        tracer: Tracer | None = None,
        refusals: RefusalLog | None = None,
    ) -> None:
        self._tracer = tracer
        self._catalog = catalog
        self._queue = queue
        self._quotas = quotas
        self._loop_time = loop_time or LoopTime()
        self._refusals = refusals or RefusalLog(Metrics())

    async def send(self, project_pk: int, draft: Draft, size: int = 0) -> Event:
        """Record one event and return it; it is set in the draft, too.

        Raise the error that the draft is refused with, an error of the quota, QueueFull, Stopping or StorageError.
        """
        snapshot = self._catalog.cached(project_pk) or await self._catalog.load(project_pk)
        admitted = await self._quotas.enter(snapshot, 1) if snapshot.quota.limited else None
        batch: Batch | None = None
        try:
            batch = await self._validated(snapshot, (draft,), BatchMode.INDEPENDENT, size)
            if batch.worth_storing():
                with SmallWork(_small_work_of(batch)):
                    self._queue.submit(batch)
                    await batch.done
        finally:
            self._leave(admitted, (draft,), batch)
        if draft.event is None:
            self._refusals.note(batch)
            raise draft.error or InternalError
        return draft.event

    async def admit(self, project_pk: int, events: int, size: int) -> None:
        """Wait a short time for room for a batch that is about to be read.

        So batches that are refused in a flood cost no more than a look. Raise ProjectRateExceeded, QueueFull, Stopping,
        StorageLate.
        """
        snapshot = self._catalog.cached(project_pk)
        if snapshot is not None:
            await self._quotas.check(snapshot, events)
        await self._queue.admit(project_pk, events, size)

    async def send_batch(self, project_pk: int, drafts: Sequence[Draft], mode: BatchMode, size: int = 0) -> None:
        """Record events; each draft has its `event` or `error` set.

        They are stored in one transaction if the mode is ALL_OR_NOTHING, else perhaps in several: where one of these
        fails, its drafts have that error.

        Raise BatchRejected if the mode is ALL_OR_NOTHING and a draft is refused, an error of the quota, QueueFull,
        Stopping or StorageError.
        """
        snapshot = self._catalog.cached(project_pk) or await self._catalog.load(project_pk)
        admitted = await self._quotas.enter(snapshot, len(drafts)) if snapshot.quota.limited else None
        batch: Batch | None = None
        try:
            batch = await self._validated(snapshot, drafts, mode, size)
            await self._store(batch)
        finally:
            self._leave(admitted, drafts, batch)
        self._refusals.note(batch)
        batch.check()

    async def _store(self, batch: Batch) -> None:
        """Queue a batch and wait until it is decided, unless nothing of it could be stored."""
        if batch.worth_storing():
            with SmallWork(_small_work_of(batch)):
                await self._queue.submit_in_time(batch)
                await batch.done

    async def quota(self, project_pk: int) -> Quota:
        """Return how many events a project may send."""
        snapshot = self._catalog.cached(project_pk) or await self._catalog.load(project_pk)
        return snapshot.quota

    async def reingest(
        self, project_pk: int, drafts: Sequence[Draft], size: int, on_release: OnRelease, within: float
    ) -> None:
        """Record events that were refused before, as `send_batch` does with independent ones.

        Each that is recorded leaves the quarantine in the same transaction. Raise ProjectRateExceeded if half of the
        rate does not allow them within a number of seconds.
        """
        snapshot = self._catalog.cached(project_pk) or await self._catalog.load(project_pk)
        admitted: Admitted | None = None
        if snapshot.quota.limited:
            admitted = await self._quotas.enter(snapshot, len(drafts), again_within=within)
        batch: Batch | None = None
        try:
            batch = await self._validated(snapshot, drafts, BatchMode.INDEPENDENT, size, on_release=on_release)
            await self._store(batch)
        finally:
            self._leave(admitted, drafts, batch)

    async def validated(self, project_pk: int, drafts: Sequence[Draft], size: int) -> Batch:
        """Validate drafts by the current catalog. Return them as a batch that is not queued."""
        snapshot = self._catalog.cached(project_pk) or await self._catalog.load(project_pk)
        batch = await self._validated(snapshot, drafts, BatchMode.INDEPENDENT, size)
        current = await self._catalog.current(batch.snapshot)
        if current is not batch.snapshot:
            batch.snapshot = current
            await self._validate(batch)
        return batch

    async def enqueue(self, project_pk: int, drafts: Sequence[Draft], mode: BatchMode, size: int = 0) -> Batch:
        """Queue a batch, waiting while the queue is full. Batches are stored in the order of the calls.

        It waits for the rate of the project's quota, too. After its `done`, the result is that of `send_batch`: call
        `check`, then read the drafts.
        """
        snapshot = self._catalog.cached(project_pk) or await self._catalog.load(project_pk)
        limited = snapshot.quota.limited
        admitted = await self._quotas.enter(snapshot, len(drafts), patiently=True) if limited else None
        queued = False
        try:
            batch = await self._validated(snapshot, drafts, mode, size)
            batch.done.add_done_callback(partial(self._note, batch))
            if not batch.worth_storing():
                batch.done.set_result(None)
                return batch
            await self._queue.submit_patiently(batch)
            queued = True
        finally:
            if not queued:
                self._leave(admitted, drafts)
        if admitted is not None:
            batch.done.add_done_callback(lambda _: self._leave(admitted, drafts, batch))
        return batch

    def _leave(self, admitted: Admitted | None, drafts: Sequence[Draft], batch: Batch | None = None) -> None:
        """Count what was recorded of admitted events once that is known, even if nobody waits for their batch."""
        if admitted is None:
            return
        leave = partial(admitted.leave, drafts)
        if batch is None:
            leave()
        else:
            self._queue.when_decided(batch, leave)

    def _note(self, batch: Batch, done: asyncio.Future[None]) -> None:
        """Record the refused events of a decided batch, unless the batch failed."""
        if not done.cancelled() and done.exception() is None:
            self._refusals.note(batch)

    async def _validated(
        self,
        snapshot: CatalogSnapshot,
        drafts: Sequence[Draft],
        mode: BatchMode,
        size: int = 0,
        *,
        on_release: OnRelease | None = None,
    ) -> Batch:
        done = asyncio.get_running_loop().create_future()
        batch = Batch(snapshot, drafts, mode, done, size, on_release=on_release)
        await self._validate(batch)
        worth_storing = batch.worth_storing()
        if not worth_storing and not all(draft.invalid is not None for draft in drafts):
            # A commit would have noticed an outdated snapshot; this batch reaches none.
            batch.snapshot = await self._catalog.current(snapshot)
            if batch.snapshot is not snapshot:
                await self._validate(batch)
                worth_storing = batch.worth_storing()
        if batch.snapshot.automations and self._queue.is_costly(batch):
            await self._queue.pre_evaluate(batch)
        if self._tracer is None:
            batch.traceparent = current_trace()
        elif worth_storing:
            batch.traceparent = self._tracer.begin_ingest(len(drafts), batch.done)
        return batch

    async def _validate(self, batch: Batch) -> None:
        if _is_small(batch):
            validate_batch(batch)
            return
        async with self._loop_time.slices(batch.snapshot.project_pk) as slices:
            await validate_in_slices(batch, slices)


def _is_small(batch: Batch) -> bool:
    return len(batch.drafts) <= SMALL_EVENTS and batch.size <= SMALL_BYTES


def _small_work_of(batch: Batch) -> Hashable:
    """Return the project whose small work a batch is, SERVER if it is large or refused."""
    return batch.snapshot.project_pk if _is_small(batch) and not batch.all_refused() else SERVER
