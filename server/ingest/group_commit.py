"""One commit for all queued batches.

One commit is in progress at a time; meanwhile batches queue, and the next commit takes them all. So a lone event is
stored at once, and under load many senders share the cost of one durable write (one fsync).

    submit   a batch joins the queue (`commit_queue`); QueueFull beyond its project's share, Stopping after `close`
    wake     when the next group should begin (`commit_timer`): at once while few senders are active
    take     a group: batches of all projects in turn, up to the size that `commit_queue` allows, without those whose
             callers have gone; and steps of subscriptions (`piggyback`), alone or with batches
    commit   `server.ingest.commit` in one transaction, then the steps
    resolve  the steps and `Batch.done` of each batch, only once the transaction is durable

    on failure                                 what follows
    a batch must be prepared first (Deferral)  it is deferred, with its project (`deferred_batches`); the rest is
                                               committed again, and the steps are requeued
    a step fails                               it alone fails; the batches are committed again without steps
    the database is down (an outage)           all batches and steps of the group fail
    anything else                              the steps are requeued; of several batches each is committed on its own

What a commit caches (snapshot, contacts, end of the match log) is kept after the transaction and not before: a
transaction that is rolled back, or an attempt that is repeated, must leave no trace.
"""

from __future__ import annotations

import asyncio
from functools import partial
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING

import structlog

from registry.errors import SignalboxError
from server.errors import (
    AccessError,
    BatchTooCostly,
    InternalError,
    QueueFull,
    RequestError,
    Stopping,
    StorageLate,
    StorageUnavailable,
)
from server.ingest.commit_queue import SMALL_EVENTS, CommitQueue
from server.ingest.commit_timer import CommitTimer
from server.ingest.contacts import ContactCache
from server.ingest.deferred_batches import Deferral, DeferredBatches
from server.ingest.group_transaction import GroupTransaction
from server.ingest.piggyback import NoSteps
from server.ingest.pre_evaluation import PreEvaluator, estimated_cost, room_of
from server.ingest.quarantine import QuarantineLimits
from server.ingest.validate import validate_in_slices
from server.logs.outages import is_outage
from server.process import runtime
from server.sharing.loop_time import LoopTime
from server.sharing.rounds import Rounds
from server.storage.health import StorageHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from server.delivery.match_notifier import MatchNotifier
    from server.ingest.catalog import Catalog
    from server.ingest.commit import ProjectCommit
    from server.ingest.draft import Batch
    from server.ingest.piggyback import PiggybackedStep, StepSource
    from server.metrics import Metrics
    from server.storage.database import Database
    from server.tracing.tracer import Tracer

log = structlog.get_logger()

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
        self.steps: StepSource = NoSteps()
        self._database = database
        self._catalog = catalog
        self._notifier = notifier
        self._metrics = metrics
        self._loop_time = loop_time or LoopTime()
        self._health = health or StorageHealth(database)
        self._health.on_late(self._refuse_queued, self._answer_running)
        self._running: Sequence[Batch] = ()
        self._group: Sequence[Batch] = ()
        self._undecided: dict[Batch, list[Callable[[], object]]] | None = None
        self._answers = Rounds()
        self._queue = CommitQueue(queue_events)
        self._evaluator = PreEvaluator(database, catalog.thread)
        self._caches: dict[int, ContactCache] = {}
        self._wake = asyncio.Event()
        self._deferred = DeferredBatches(catalog, self._evaluator, self._loop_time, self._wake.set)
        self._commit_timer = CommitTimer(self._queue, self._wake.set)
        self._steps_next = False
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        metrics.commits.watch_queue(lambda: self._queue.events, lambda: self._queue.bytes)

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.create_task(self._run(), name="group-commit")

    async def close(self) -> None:
        """Refuse further batches, store the queued ones, and stop."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task

    def forget(self, project_pk: int) -> None:
        """Forget the contacts of a project that is deleted for good."""
        self._caches.pop(project_pk, None)

    def submit(self, batch: Batch) -> None:
        """Queue a batch; its `done` is resolved when it is decided and durable.

        Raise QueueFull, Stopping, and StorageLate while the database confirms nothing.
        """
        try:
            self._submit(batch)
        except QueueFull as error:
            self._metrics.refusals.count(error.reason)
            raise

    def is_costly(self, batch: Batch) -> bool:
        """Return whether conditions are likely to take too long for the commit. Raise BatchTooCostly."""
        try:
            return estimated_cost(batch) > room_of(batch)
        except BatchTooCostly as error:
            self._metrics.refusals.count(error.reason)
            raise

    async def pre_evaluate(self, batch: Batch) -> None:
        """Evaluate conditions before the commit. Raise BatchTooCostly."""
        try:
            await self._evaluator.evaluate(batch)
        except BatchTooCostly as error:
            self._metrics.refusals.count(error.reason)
            raise

    async def admit(self, project_pk: int, events: int, size: int) -> None:
        """Wait a short time for room for a batch, before work is spent on it. Raise as `submit` does."""
        attempt = partial(self._check, project_pk, events, size)
        await self._in_time(attempt, project_pk, events, size, PATIENCE_SECONDS)

    async def submit_in_time(self, batch: Batch) -> None:
        """Queue a batch as `submit` does, but wait up to PATIENCE_SECONDS for room. Raise QueueFull after that."""
        await self._submit_in(batch, PATIENCE_SECONDS)

    async def submit_patiently(self, batch: Batch) -> None:
        """Queue a batch as `submit` does, but wait for room without limit. Raise Stopping and StorageLate."""
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
                    self._metrics.refusals.count(error.reason)
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
        self._commit_timer.schedule(batch, at_once=self._stopping)

    def _check_open(self) -> None:
        if self._stopping:
            raise Stopping
        self._health.check_open()

    def _refuse_queued(self) -> None:
        """Refuse what is queued while the running commit does not end. Nothing of it is stored."""
        batches = self._queue.clear()
        if events := sum(len(batch.drafts) for batch in batches):
            self._health.outages.count("events refused", events)
            self._metrics.refusals.count(StorageLate.reason)
            _resolve(batches, StorageLate())

    def _answer_running(self) -> None:
        """Answer the senders of the running commit, which may or may not be stored."""
        _resolve(self._running, StorageUnavailable())

    def when_decided(self, batch: Batch, then: Callable[[], object]) -> None:
        """Call a function once a batch whose `done` is resolved or cancelled can no longer be stored.

        This is at once, unless a commit with the batch is in progress, whose caller has left or was answered because
        the commit is late.
        """
        if self._undecided is None:
            self._undecided = {each.whole: [] for each in self._group}
        if batch in self._undecided and not batch.succeeded():
            self._undecided[batch].append(then)
        else:
            then()

    def schedule_steps(self) -> None:
        """Wake the task at once because steps are due: they do not wait until the timer of the commits ends."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batches, steps = self._take()
            await self._commit_safely(batches, steps)
            if batches:
                self._commit_timer.committed()
            # The next group may come much later.
            del batches, steps
            if self._deferred.ready or self.steps.due:
                self._wake.set()
            elif self._queue:
                self._commit_timer.schedule(at_once=self._stopping)
            elif self._stopping and not self._deferred:
                return

    def _take(self) -> tuple[list[Batch], Sequence[PiggybackedStep]]:
        """Return the next group: its batches and its steps.

        Steps that are due get a group of their own if the last group of batches left them waiting, if no batch is
        queued, or while further batches are awaited.
        """
        waiting = bool(self._queue or self._deferred)
        if self.steps.due and (self._steps_next or self._commit_timer.waiting or not waiting):
            self._steps_next = False
            return [], self.steps.begin_due()
        if not waiting:
            return [], ()
        batches = self._take_batches()
        steps = self.steps.begin_light({batch.snapshot.project_pk for batch in batches})
        self._steps_next = self.steps.due
        return batches, steps

    def _take_batches(self) -> list[Batch]:
        """Return the next batches."""
        batches = self._queue.take()
        if self._deferred:
            batches = self._deferred.group(batches)
        self._commit_timer.took(batches)
        count = sum(len(batch.drafts) for batch in batches)
        runtime.favour_database_threads(large_batches=count > runtime.LARGE_BATCH_EVENTS * len(batches))
        return batches

    async def _commit(self, batches: Sequence[Batch], steps: Sequence[PiggybackedStep] = ()) -> None:
        invalidations, recent = self._catalog.invalidations, self._notifier.recent.version
        began = perf_counter()
        self._running = batches
        self._health.commit_began(self._queue.expected_seconds(batches))
        transaction = GroupTransaction(batches, self._caches, self.limits, steps)
        try:
            commits = await self._database.write(transaction)
        except Deferral as deferral:
            _undo(batches)
            self._health.commit_ended(deferral)
            _requeue(steps)
            for group in self._deferred.regroup(deferral, batches):
                await self._commit_again(group)
        except Exception as error:
            _undo(batches)
            if (broken := transaction.broken_by) is not None:
                self._health.commit_ended()
                broken.fail(error)
                _requeue(step for step in steps if step is not broken)
                await self._commit_again(batches)
            else:
                self._health.commit_ended(error)
                await self._failed(error, batches, steps)
        else:
            self._health.commit_ended()
            self._keep(commits, invalidations, recent)
            # First the deliveries: a consumer gets a match as soon as its sender gets the response.
            for step in steps:
                step.end()
            self._answer(batches)
            if batches:
                self._count(commits, perf_counter() - began - transaction.step_seconds)

    async def _failed(self, error: Exception, batches: Sequence[Batch], steps: Sequence[PiggybackedStep]) -> None:
        """End a group that failed. After an outage all of it fails; otherwise its batches are committed one by one."""
        outage = is_outage(error)
        if outage or not batches:
            _fail(steps, error)
        else:
            _requeue(steps)
        if len(batches) > 1 and not outage:
            await self._commit_apart(batches)
            return
        self._metrics.commits.count_failed()
        self._report(error, sum(len(batch.drafts) for batch in batches))
        self._answer(batches, error if isinstance(error, SignalboxError) else InternalError())

    def _answer(self, batches: Sequence[Batch], error: Exception | None = None) -> None:
        """Resolve batches that were committed, or failed; many small ones of a project in portions, if others send."""
        for batch in batches:
            # What follows a large one is done in slices.
            if len(batch.drafts) > SMALL_EVENTS:
                batch.resolve(error)
            else:
                self._answers.begin(batch.snapshot.project_pk, partial(batch.resolve, error))

    def _report(self, error: Exception, events: int) -> None:
        """Report a defect of a commit. Outages are reported by the storage health, refused requests not at all."""
        if not is_outage(error) and not isinstance(error, (AccessError, RequestError)):
            self._health.outages.report("commit", error, "commit_failed", events=events)

    def _count(self, commits: Sequence[ProjectCommit], seconds: float) -> None:
        matches = sum(len(project.matching.matches) for project in commits if project.matching is not None)
        self._metrics.commits.count(sum(project.stored for project in commits), matches, seconds)
        if matches:
            # Each match queues a run: a new one, or one that waited.
            self._metrics.count_runs("queued", matches)
        for project in commits:
            if project.quarantined.unkept:
                self._metrics.refusals.count_unkept(project.snapshot.project_id, project.quarantined.unkept)
            self._queue.learn(project.snapshot.project_pk, project.batches, project.seconds)
            if self._tracer is not None:
                _trace(self._tracer, project.batches, seconds)
        self._queue.learn_fixed(seconds - sum(project.seconds for project in commits))

    async def _commit_safely(self, batches: Sequence[Batch], steps: Sequence[PiggybackedStep]) -> None:
        """Commit a group. A defect is logged and fails the group, but does not end the task that all senders need."""
        if not batches and not steps:
            return
        self._group, self._undecided = batches, None
        try:
            await self._commit(batches, steps)
        except Exception:
            log.exception("group_failed")
            _resolve(batches, InternalError())
            _fail(steps, InternalError())
        finally:
            # The next group may come much later.
            self._running = ()
            self._end_group()

    def _end_group(self) -> None:
        undecided, self._group, self._undecided = self._undecided, (), None
        for waiting in (undecided or {}).values():
            for then in waiting:
                then()

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
        """Cache the results of a durable transaction: contacts, snapshots, recent matches and the ends of match logs.

        `invalidations` and `recent` are the counters of catalog and recent matches from before the transaction:
        whatever was invalidated since is not cached.
        """
        for project in commits:
            self._keep_contacts(project)
            self._catalog.keep(project.snapshot, invalidations)
            project_pk = project.snapshot.project_pk
            if self._notifier.followed(project_pk):
                self._notifier.recent.record(project_pk, project.recent(), recent)
            self._notifier.advance(project_pk, project.head.match_position)
            if project.matching is not None:
                self._metrics.commits.count_failed_conditions(project.snapshot.project_id, project.matching.failures)

    def _keep_contacts(self, project: ProjectCommit) -> None:
        """Cache the contacts of a commit; a commit that stored nothing leaves no event to check them by."""
        project_pk = project.snapshot.project_pk
        if not project.cache_valid:
            self._caches[project_pk] = ContactCache(project.snapshot.version)
        if project.stored and project_pk in self._caches:
            self._caches[project_pk].add(project.contacts.read, project.head.position, project.last_id)


def _resolve(batches: Sequence[Batch], error: Exception | None = None) -> None:
    for batch in batches:
        batch.resolve(error)


def _undo(batches: Iterable[Batch]) -> None:
    """Reset the decisions of a failed transaction: as far as is known, nothing of it is stored."""
    for batch in batches:
        for draft in batch.drafts:
            draft.event, draft.matches, draft.duplicate = None, (), False


def _requeue(steps: Iterable[PiggybackedStep]) -> None:
    for step in steps:
        step.requeue()


def _fail(steps: Iterable[PiggybackedStep], error: Exception) -> None:
    for step in steps:
        step.fail(error)


def _trace(tracer: Tracer, batches: Iterable[Batch], seconds: float) -> None:
    """Add the spans of batches that were committed."""
    for batch in batches:
        events = sum(draft.event is not None for draft in batch.drafts)
        tracer.committed(batch.traceparent, seconds, events, sum(len(draft.matches) for draft in batch.drafts))
