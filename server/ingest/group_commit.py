"""One commit for all queued batches.

One commit is in progress at a time; meanwhile batches queue, and the next commit takes them all. So a lone event is
stored at once, and under load many senders share the cost of one durable write (one fsync).

    submit   a batch joins the queue (`CommitQueue`); QueueFull beyond its project's share, Stopping after `close`
    wake     when a group has gathered (`gathering`): at once while few senders are active
    take     a group: batches of all projects in turn, as many as the queue finds right, without those whose callers
             are gone
    commit   `server.ingest.commit` in one transaction; on failure of one batch's data, each batch on its own
    resolve  `Batch.done` of each, only once the transaction is durable

What a commit caches (snapshot, contacts, end of the match log) is kept after the transaction and not before: a
transaction that is rolled back, or an attempt that is repeated, must leave no trace.
"""

from __future__ import annotations

import asyncio
from functools import partial
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Final

import structlog

from automation.subscriptions.log_reading import Recorded
from server import runtime
from server.errors import (
    AccessError,
    BatchTooCostly,
    QueueFull,
    RequestError,
    ServiceError,
    Stopping,
    StorageLate,
    StorageRefused,
    StorageUnavailable,
)
from server.ingest.commit import commit
from server.ingest.commit_queue import CommitQueue
from server.ingest.contacts import ContactCache
from server.ingest.deferred_batches import Deferral, DeferredBatches
from server.ingest.gathering import Gathering
from server.ingest.pre_evaluation import PreEvaluator
from server.ingest.quarantine import QuarantineLimits
from server.ingest.riders import NoRiders
from server.ingest.validate import validate_batch, validate_in_slices
from server.outages import is_outage
from server.sharing.loop_time import LoopTime
from server.storage.health import StorageHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy import Connection

    from server.delivery.match_notifier import MatchNotifier
    from server.ingest.catalog import Catalog
    from server.ingest.commit import ProjectCommit
    from server.ingest.draft import Batch
    from server.ingest.riders import Rider, Riders
    from server.metrics import Metrics
    from server.storage.database import Database
    from server.tracing.tracer import Tracer

log = structlog.get_logger()

_NOTHING_RECORDED: Final = Recorded()

PATIENCE_SECONDS = 2.0
"""How long a batch waits for room before it is refused. A client without patience sends it again at once: four hundred
such calls, refused as they come, keep the server busy with calls, and it accepts them one after the other."""


class GroupCommit:
    """The queue before the log, and the task that commits it."""

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        notifier: MatchNotifier,
        metrics: Metrics,
        queue_events: int,
        loop_time: LoopTime | None = None,
        health: StorageHealth | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self.limits = QuarantineLimits()
        self.riders: Riders = NoRiders()
        self._database = database
        self._catalog = catalog
        self._notifier = notifier
        self._metrics = metrics
        self._loop_time = loop_time or LoopTime()
        self._health = health or StorageHealth(database)
        self._health.on_late(self._refuse_queued, self._answer_running)
        self._running: Sequence[Batch] = ()
        self._queue = CommitQueue(queue_events)
        self._evaluator = PreEvaluator(database, catalog.thread)
        self._caches: dict[int, ContactCache] = {}
        self._wake = asyncio.Event()
        self._deferred = DeferredBatches(catalog, self._evaluator, self._loop_time, self._wake.set)
        self._gathering = Gathering(self._queue, self._wake.set)
        self._steps_next = False
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        metrics.watch_queue(lambda: self._queue.events, lambda: self._queue.bytes)

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.create_task(self._run(), name="group-commit")

    async def close(self) -> None:
        """Refuse further batches, store the queued ones, and stop."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task

    def submit(self, batch: Batch) -> None:
        """Queue a batch; its `done` is resolved when it is decided and durable.

        Raise QueueFull, Stopping, and StorageLate while the database confirms nothing.
        """
        try:
            self._submit(batch)
        except QueueFull as error:
            self._metrics.count_refused(error.reason)
            raise

    async def pre_evaluate_if_costly(self, batch: Batch) -> None:
        """Evaluate conditions before the commit if that is likely to take long. Raise BatchTooCostly."""
        try:
            await self._evaluator.pre_evaluate_if_costly(batch)
        except BatchTooCostly as error:
            self._metrics.count_refused(error.reason)
            raise

    async def admit(self, project_pk: int, events: int, size: int) -> None:
        """Wait a short time for room for a batch, before work is spent on it. Raise as `submit` does."""
        attempt = partial(self._check, project_pk, events, size)
        await self._in_time(attempt, project_pk, events, size, PATIENCE_SECONDS)

    async def submit_in_time(self, batch: Batch) -> None:
        """Queue a batch as `submit` does, but wait a short time for room."""
        await self._submit_in(batch, PATIENCE_SECONDS)

    async def submit_patiently(self, batch: Batch) -> None:
        """Queue a batch as soon as its project's share of the queue has room. Raise Stopping and StorageLate."""
        await self._submit_in(batch, inf)

    async def _submit_in(self, batch: Batch, patience: float) -> None:
        attempt = partial(self._submit, batch)
        await self._in_time(attempt, batch.snapshot.project_pk, len(batch.drafts), batch.size, patience)

    async def _in_time(
        self, attempt: Callable[[], None], project_pk: int, events: int, size: int, patience: float
    ) -> None:
        """Repeat an attempt whenever there may be room, until it succeeds or the patience has ended."""
        clock = asyncio.get_running_loop().time
        until = clock() + patience
        while True:
            try:
                attempt()
            except QueueFull as error:
                if (left := until - clock()) <= 0:
                    self._metrics.count_refused(error.reason)
                    raise
                await self._queue.wait_for_room(project_pk, events, size, min(left, PATIENCE_SECONDS))
            else:
                return

    def _check(self, project_pk: int, events: int, size: int) -> None:
        self._check_open()
        self._queue.check_room(project_pk, events, size)

    def _submit(self, batch: Batch) -> None:
        self._check_open()
        self._queue.push(batch)
        self._gathering.schedule(batch, at_once=self._stopping)

    def _check_open(self) -> None:
        if self._stopping:
            raise Stopping
        self._health.check_open()

    def _refuse_queued(self) -> None:
        """Refuse what is queued while the running commit does not end. Nothing of it is stored."""
        batches = self._queue.clear()
        if events := sum(len(batch.drafts) for batch in batches):
            self._health.outages.count("events refused", events)
            self._metrics.count_refused(StorageLate.reason)
            _resolve(batches, StorageLate())

    def _answer_running(self) -> None:
        """Answer the senders of the running commit, which may or may not be stored."""
        _resolve(self._running, StorageUnavailable())

    def schedule_steps(self) -> None:
        """Wake the task for the steps that are due; they do not wait for the batches that are expected."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batches, riders = self._take()
            await self._commit_safely(batches, riders)
            if batches:
                self._gathering.committed()
            # The next group may come much later.
            del batches, riders
            if self._deferred.ready or self.riders.due:
                self._wake.set()
            elif self._queue:
                self._gathering.schedule(at_once=self._stopping)
            elif self._stopping and not self._deferred:
                return

    def _take(self) -> tuple[list[Batch], Sequence[Rider]]:
        """Return the next group with its riders.

        Steps that are due get a group of their own if they could not ride with the last batches, if no batch is queued,
        or while further batches are awaited.
        """
        waiting = bool(self._queue or self._deferred)
        if self.riders.due and (self._steps_next or self._gathering.waiting or not waiting):
            self._steps_next = False
            return [], self.riders.board_due()
        if not waiting:
            return [], ()
        batches = self._take_batches()
        riders = self.riders.board({batch.snapshot.project_pk for batch in batches})
        self._steps_next = self.riders.due
        return batches, riders

    def _take_batches(self) -> list[Batch]:
        """Return the next batches."""
        batches = self._queue.take()
        if self._deferred:
            batches = self._deferred.group(batches)
        self._gathering.took(batches)
        count = sum(len(batch.drafts) for batch in batches)
        runtime.favour_database_threads(large_batches=count > runtime.LARGE_BATCH_EVENTS * len(batches))
        return batches

    async def _commit(self, batches: Sequence[Batch], riders: Sequence[Rider] = ()) -> None:
        invalidations, recent = self._catalog.invalidations, self._notifier.recent.version
        began = perf_counter()
        self._running = batches
        self._health.commit_began(self._queue.expected_seconds(batches))
        attempts = _Attempts(batches, self._caches, self.limits, riders)
        try:
            commits = await self._database.write(attempts)
        except Deferral as deferral:
            self._health.commit_ended(deferral)
            _put_back(riders)
            for group in self._deferred.regroup(deferral, batches):
                await self._commit_again(group)
        except Exception as error:
            if attempts.broken_by is not None:
                self._health.commit_ended()
                attempts.broken_by.fail(error)
                _put_back(rider for rider in riders if rider is not attempts.broken_by)
                await self._commit_again(batches)
                return
            self._health.commit_ended(error)
            if is_outage(error) or not batches:
                _fail(riders, error)
            else:
                _put_back(riders)
            if len(batches) > 1 and not is_outage(error):
                await self._commit_apart(batches)
                return
            self._metrics.count_failed_commit()
            self._report(error, sum(len(batch.drafts) for batch in batches))
            _resolve(batches, error if isinstance(error, ServiceError) else StorageRefused())
        else:
            self._health.commit_ended()
            self._keep(commits, invalidations, recent)
            # First the deliveries: a consumer gets a match as soon as its sender gets the response.
            for rider in riders:
                rider.end()
            _resolve(batches)
            if batches:
                self._count(commits, perf_counter() - began - attempts.rider_seconds)

    def _report(self, error: Exception, events: int) -> None:
        """Report a defect of a commit. Outages are reported by the storage health, refused requests not at all."""
        if not is_outage(error) and not isinstance(error, (AccessError, RequestError)):
            self._health.outages.report("commit", error, "commit_failed", events=events)

    def _count(self, commits: Sequence[ProjectCommit], seconds: float) -> None:
        matches = sum(len(each.matching.matches) for each in commits if each.matching is not None)
        self._metrics.count_commit(sum(each.stored for each in commits), matches, seconds)
        if matches:
            # Each match queues a run: a new one, or one that waited.
            self._metrics.count_runs("queued", matches)
        for each in commits:
            if each.quarantined.unkept:
                self._metrics.count_unkept(each.snapshot.project_id, each.quarantined.unkept)
            self._queue.learn(each.snapshot.project_pk, each.batches, each.seconds)
            if self._tracer is not None:
                _trace(self._tracer, each.batches, seconds)
        self._queue.learn_fixed(seconds - sum(each.seconds for each in commits))

    async def _commit_safely(self, batches: Sequence[Batch], riders: Sequence[Rider]) -> None:
        """Commit a group. A defect is logged and fails the group, but does not end the task that all senders need."""
        if not batches and not riders:
            return
        try:
            await self._commit(batches, riders)
        except Exception:
            log.exception("group_failed")
            _resolve(batches, StorageRefused())
            _fail(riders, StorageRefused())
        finally:
            # The next group may come much later.
            self._running = ()

    async def _commit_apart(self, batches: Sequence[Batch]) -> None:
        """Store batches one by one, so that one which the database refuses does not fail the others."""
        for batch in batches:
            await self._commit_again([batch])

    async def _commit_again(self, batches: Sequence[Batch]) -> None:
        """Commit batches after a failed attempt: it left its decisions in the drafts, so they are validated again."""
        for batch in batches:
            async with self._loop_time.slices(batch.snapshot.project_pk) as slices:
                await validate_in_slices(batch, slices)
        if batches:
            await self._commit(batches)

    def _keep(self, commits: Sequence[ProjectCommit], invalidations: int, recent: int) -> None:
        for project in commits:
            self._keep_contacts(project)
            self._catalog.keep(project.snapshot, invalidations)
            project_pk = project.snapshot.project_pk
            if self._notifier.followed(project_pk):
                self._notifier.recent.record(project_pk, project.recent(), recent)
            self._notifier.advance(project_pk, project.head.match_position)
            if project.matching is not None:
                self._metrics.count_failures(project.snapshot.project_id, project.matching.failures)

    def _keep_contacts(self, project: ProjectCommit) -> None:
        """Cache the contacts of a commit; a commit that stored nothing leaves no event to check them by."""
        project_pk = project.snapshot.project_pk
        if not project.cache_valid:
            self._caches[project_pk] = ContactCache(project.snapshot.version)
        if project.stored:
            self._caches[project_pk].add(project.contacts.read, project.head.position, project.last_id)


class _Attempts:
    """The transaction of a group commit, which the database may run again.

    A failed attempt left its decisions in the drafts, so each later one validates them again.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        caches: dict[int, ContactCache],
        limits: QuarantineLimits,
        riders: Sequence[Rider] = (),
    ) -> None:
        self._batches = batches
        self._caches = caches
        self._limits = limits
        self._riders = riders
        self._begun = False
        self.rider_seconds = 0.0
        self.broken_by: Rider | None = None

    def __call__(self, connection: Connection) -> list[ProjectCommit]:
        if self._begun:
            for batch in self._batches:
                validate_batch(batch)
        self._begun = True
        commits = commit(connection, self._batches, self._caches, self._limits) if self._batches else []
        began = perf_counter()
        recorded = {project.snapshot.project_pk: project.recorded for project in commits}
        for rider in self._riders:
            self.broken_by = rider
            rider.run(connection, recorded.get(rider.project_pk, _NOTHING_RECORDED))
        self.broken_by = None
        self.rider_seconds = perf_counter() - began
        return commits


def _resolve(batches: Sequence[Batch], error: Exception | None = None) -> None:
    for batch in batches:
        batch.resolve(error)


def _put_back(riders: Iterable[Rider]) -> None:
    for rider in riders:
        rider.put_back()


def _fail(riders: Iterable[Rider], error: Exception) -> None:
    for rider in riders:
        rider.fail(error)


def _trace(tracer: Tracer, batches: Iterable[Batch], seconds: float) -> None:
    """Add the spans of batches that were committed."""
    for batch in batches:
        events = sum(draft.event is not None for draft in batch.drafts)
        tracer.committed(batch.traceparent, seconds, events, sum(len(draft.matches) for draft in batch.drafts))
