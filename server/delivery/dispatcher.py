"""Takes the steps of the subscriptions that are in use on this server: when, and for which consumers.

A subscription in use has one dispatcher with one task. Consumers hand it settlements and requests, and it takes one
step (`automation.subscriptions.leasing.step`), one transaction, for all of them: the acknowledgements of many consumers
share a commit, and no task is started for a delivery. What is leased is decided by the step, from the tables alone, so
several servers on one database can dispatch the same subscription at the same time.

    consumer   request(capacity), submit(settlements)          dispatcher collects, while a step runs too
    step       settle, take over, expire, lease                one transaction, under the lock of the subscription
    after it   results to the submitters, leases to the consumers; deliveries of a consumer that has left are returned

Settlements and takeovers wait in one queue. A step takes them in the order in which they were submitted, and leaves the
rest to the next step once it has GROUP_DELIVERIES; it settles before it takes over. So a takeover ends no lease that
was settled before the takeover was submitted. Returned deliveries are not queued: every step takes them all, so that a
takeover does not count an attempt for a delivery that its consumer never got.

The task takes a step whenever one is due, and waits otherwise. Whether a step is due is computed from state alone:

    state                                                                    a step is due
    work: settlements, returns, takeovers, a wake, the rest of a long step   at once
    log may hold more: the initial state                                     as soon as a consumer has capacity
    log exhausted: no match is available for any consumer                    not because of capacity, see the other rows
    next due time: a lease ends or a retry becomes due                       at that time, while consumers are attached
    shared database: other servers settle, seek, delete                      POLL_SECONDS after the last step began,
                                                                             while consumers are attached

Only a step finds that the log is exhausted: it had capacity left over after it leased every available match. This holds
as of the beginning of the step, so the finding is kept with the `_availability_version` of that time and holds while
the version is the same:

    a commit of matches    increments the version, also while a step runs
    a request of a pull    increments it as well, so that a step searches for this pull before it is answered
    a seek or a replay     requests a step by `wake`
    a step that begins     drops the finding; if it leaves matches unread, or fails, it makes no new one

The request of a stream changes only its capacity, so it does not matter whether it arrives before, during or after a
step: it makes a step due unless the log is known to be exhausted.

Where there is a group commit, steps are taken in its transactions (`server.ingest.piggyback`). A step that is due waits
for a group of steps (`StepScheduler`); on a shared database it takes a transaction of its own, beside the commits. And
a light step is taken, due or not, in the commit that records matches for consumers with capacity: if the log was
exhausted, it reads nothing, else a few matches. One step is in progress at a time (`_stepping`); a step whose
transaction was rolled back is requeued.

    commit     stores events and matches, then the step
    the loop   `GroupCommit._keep`, `end` of each step, then the senders are answered

Such a commit does not increment `_availability_version`: the step has read its matches, so the read position is the end
of the log already (`_follow_log`).

Every change of state sets `_changed`. The task clears it in `_wait`, right after it has computed that no step is due,
without awaiting in between: so no wake-up is lost.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import structlog

from automation.subscriptions import leasing
from automation.subscriptions.values import DeliveryRequest, SearchBounds, TakeOver, Undelivered
from registry.errors import SignalboxError
from server.current_call.context import as_server
from server.delivery.steps import PendingSettlements, PendingTakeOver, StepInProgress
from server.errors import ConsumerReplaced, InternalError, SubscriptionPushes
from server.process.futures import mark_retrieved
from server.storage.clock import database_now, transaction_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Connection

    from automation.subscriptions.log_reading import Recorded
    from automation.subscriptions.values import Delivery, Settlement, SettleResult, StepResult, Subscription
    from server.delivery.consumer import Consumer
    from server.delivery.match_notifier import MatchNotifier
    from server.delivery.steps import Step
    from server.metrics.subscriptions import DeliveryTimes
    from server.storage.database import Database

log = structlog.get_logger()

T = TypeVar("T")

PIGGYBACK_DELIVERIES: Final = 500
"""A step that names more deliveries is not taken in a commit of events, whose senders would wait for it."""

GROUP_DELIVERIES: Final = 5_000
"""A step takes nothing more from the queue once its settlements name this many deliveries, which bounds its time."""

POLL_SECONDS: Final = 1.0
"""The longest time until settlements, seeks and deletions by another server are noticed."""

MAX_WAIT_SECONDS: Final = 60.0
"""The longest wait while consumers are attached: the clock of the database may be set forward."""

_MIN_WAIT_SECONDS: Final = 0.001
_HOUR: Final = 3_600.0


class StepScheduler(Protocol):
    """Where the steps of a server that are due wait for a transaction."""

    async def take(self, dispatcher: Dispatcher) -> None:
        """Wait until a step of a dispatcher has begun with the next transaction."""
        ...


class Dispatcher:
    """One subscription in use. Its task runs as long as it has users or work."""

    def __init__(
        self,
        database: Database,
        notifier: MatchNotifier,
        subscription: Subscription,
        *,
        steps: StepScheduler | None = None,
        times: DeliveryTimes | None = None,
    ) -> None:
        self.subscription = subscription
        self.consumers: list[Consumer] = []
        self.users = 0
        self._database = database
        self._notifier = notifier
        self._take_step: Step = leasing.step
        self._clock = database_now
        self._clock_in = _transaction_clock
        self._group_deliveries = GROUP_DELIVERIES
        self._steps = steps
        self._times = times
        self._stepping = False
        self._queue: list[PendingSettlements | PendingTakeOver] = []
        self._returned: list[str] = []
        self._step_requested = False
        self._woken = 0
        self._availability_version = 0
        self._exhausted_version: int | None = None
        self._next_due = 0
        self._bounds = SearchBounds()
        self._poll_at = 0.0
        self._changed = asyncio.Event()

    @contextmanager
    def attached(self, consumer: Consumer) -> Iterator[None]:
        """Attach a consumer until the context is left; deliveries that it has not taken are returned then.

        A stream replaces an older stream with the same id: that one may belong to a connection which is broken, but not
        yet known to be.
        """
        for other in list(self.consumers):
            if not consumer.is_pull and not other.is_pull and other.id == consumer.id:
                self._detach(other)
                other.fail(ConsumerReplaced(other.id))
        self.consumers.append(consumer)
        self._changed.set()
        try:
            yield
        finally:
            self._detach(consumer)

    def request(self, consumer: Consumer, capacity: int) -> None:
        """Request up to `capacity` matches for a consumer, 0 to withdraw the request.

        They are delivered as soon as any are available: to a pull in one batch, to a stream in several ones, too.
        """
        consumer.capacity = capacity
        if consumer.is_pull:
            # A pull that does not wait is answered only after a step has searched for it, even if the log is exhausted.
            self._availability_version += 1
        if consumer.has_capacity and not self._exhausted:
            self._changed.set()

    def stop_delivering(self, consumer: Consumer) -> None:
        """Deliver nothing more to a consumer; deliveries that it has not taken are returned."""
        consumer.stopped, consumer.capacity = True, 0
        self.return_undelivered(consumer.take())

    async def head_position(self) -> int:
        """Return the position of the newest match of the project."""
        return await self._notifier.position(self.subscription.project_pk)

    def return_undelivered(self, deliveries: Sequence[Delivery]) -> None:
        """Return deliveries that were not sent to their consumer, in the next step and without counting an attempt."""
        if deliveries:
            self._returned += [delivery.id for delivery in deliveries]
            self._changed.set()

    def submit(self, settlements: Sequence[Settlement]) -> asyncio.Future[list[list[SettleResult]]]:
        """Settle deliveries in one of the next steps; the future has the results once they are durable."""
        done: asyncio.Future[list[list[SettleResult]]] = asyncio.get_running_loop().create_future()
        done.add_done_callback(mark_retrieved)
        self._queue.append(PendingSettlements(settlements, done))
        self._changed.set()
        return done

    async def take_over(self, request: TakeOver) -> list[str]:
        """End leases of a consumer, except those of the deliveries that it still holds.

        All settlements and returns submitted before are applied first. Return the ids of the deliveries that it keeps.
        If this is cancelled before a step has begun with it, nothing is ended: the consumer may have connected to
        another server meanwhile, while this one waited for the database.
        """
        done: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        done.add_done_callback(mark_retrieved)
        self._queue.append(PendingTakeOver(request, done))
        self._changed.set()
        return await done

    def wake(self) -> None:
        """Request a step, which searches everything: something other than a step has changed the subscription."""
        self._step_requested = True
        self._woken += 1
        self._bounds = SearchBounds()
        self._changed.set()

    def leave(self) -> None:
        """Count one user less; the task ends once there are neither users nor work."""
        self.users -= 1
        self._changed.set()

    async def run(self, on_end: Callable[[], object]) -> None:
        """Take steps until there are neither users nor work, then call `on_end`.

        Nothing is awaited in between, so nobody can begin to use a dispatcher that has ended.
        """
        as_server()
        following = asyncio.create_task(self._follow_log(), name="follow-match-log")
        try:
            while self.users or self._has_work or self._stepping:
                if self._step_due() and not self._stepping:
                    await self._step()
                else:
                    await self._wait()
        finally:
            on_end()
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    @property
    def _has_work(self) -> bool:
        return bool(self._queue or self._returned)

    @property
    def _exhausted(self) -> bool:
        return self._exhausted_version == self._availability_version

    def _step_due(self) -> bool:
        if self._has_work or self._step_requested:
            return True
        if not self.consumers:
            return False
        if not self._exhausted and any(consumer.has_capacity for consumer in self.consumers):
            return True
        polled = self._database.shared and asyncio.get_running_loop().time() >= self._poll_at
        return polled or 0 < self._next_due <= self._clock()

    async def _wait(self) -> None:
        """Wait until the state changes, or a step is due by time."""
        # Nothing was awaited since `_step_due` was computed, so no change is cleared unseen.
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait_seconds()):
                await self._changed.wait()

    def _wait_seconds(self) -> float | None:
        if not self.consumers or self._stepping:
            return None
        seconds = MAX_WAIT_SECONDS
        if self._next_due:
            seconds = min(seconds, (self._next_due - self._clock()) / 1_000_000)
        if self._database.shared:
            seconds = min(seconds, self._poll_at - asyncio.get_running_loop().time())
        return max(seconds, _MIN_WAIT_SECONDS)

    async def _follow_log(self) -> None:
        """Increment the availability version whenever the match log has grown, unless a step has read up to its end."""
        project_pk, position = self.subscription.project_pk, 0
        while True:
            try:
                position = await self._notifier.wait_beyond(project_pk, position, _HOUR)
            except Exception as error:
                # If the database stays away, the next step fails and reports it to the consumers.
                self._notifier.report(error)
                await asyncio.sleep(POLL_SECONDS)
                continue
            if position != self.subscription.read_position:
                self._availability_version += 1
                self._changed.set()

    async def _step(self) -> None:
        """Take a step, in a transaction of its own or with others."""
        if self._steps is not None:
            await self._steps.take(self)
            return
        step = self.begin()
        try:
            await self._database.write(step.run_alone)
        except Exception as error:
            step.fail(error)
        else:
            step.end()

    @property
    def can_piggyback(self) -> bool:
        """True if a step with the matches of a commit is light, and of use to a consumer."""
        if self._stepping or self._step_requested:
            return False
        return self._light and (bool(self._queue) or any(consumer.has_capacity for consumer in self.consumers))

    @property
    def _light(self) -> bool:
        named = sum(
            len(settlement.delivery_ids)
            for pending in self._queue
            if isinstance(pending, PendingSettlements)
            for settlement in pending.settlements
        )
        return named <= PIGGYBACK_DELIVERIES

    def begin(self) -> StepInProgress:
        """Begin a step: with all consumers, and with the part of the queue that one step takes."""
        pending, returned, consumers = self._take_pending(), self._take_returned(), list(self.consumers)
        requests = [DeliveryRequest(consumer.id, consumer.capacity, consumer.max_outstanding) for consumer in consumers]
        self._step_requested = False
        self._poll_at = asyncio.get_running_loop().time() + POLL_SECONDS
        availability_version, self._exhausted_version = self._availability_version, None
        self._stepping = True
        return StepInProgress(
            self, pending, returned, consumers, requests, self._bounds, availability_version, self._woken
        )

    def end(self, step: StepInProgress, result: StepResult) -> None:
        """Hand out the results of a step, once it is durable."""
        self._over()
        self.subscription, self._next_due = result.subscription, result.next_due
        # The step may have begun before the change that it was woken for.
        self._bounds = result.bounds if self._woken == step.woken else SearchBounds()
        self._step_requested = self._step_requested or result.more
        if result.exhausted:
            self._exhausted_version = step.availability_version
        results = iter(result.results[len(step.returned) :])
        for group in step.submitted:
            settled = [next(results) for _ in group.settlements]
            if self._times is not None:
                self._times.settled(settled)
            _resolve(group.done, settled)
        for take_over, kept in zip(step.take_overs, result.kept, strict=True):
            _resolve(take_over.done, kept)
        if result.subscription.pushes:
            self._end_others()
        self._deliver(step.consumers, step.requests, result)

    def requeue(self, step: StepInProgress) -> None:
        """Take a step again that was not committed, with what it had taken from the queue."""
        self._over()
        self._queue[:0] = step.pending
        self._returned[:0] = [name for returned in step.returned for name in returned.delivery_ids]
        self._step_requested = True

    def fail(self, step: StepInProgress, error: Exception) -> None:
        """Report an error to the consumers and submitters whose work a step took."""
        self._over()
        self._bounds = SearchBounds()
        self._fail(step.consumers, step.pending, error)

    def run_step(self, connection: Connection, step: StepInProgress, recorded: Recorded | None) -> StepResult:
        """Take a step in a transaction, which has `recorded` matches if it is a group commit."""
        with_recorded = {} if recorded is None else {"recorded": recorded}
        return self._take_step(
            connection,
            subscription_key=self.subscription.key,
            clock=self._clock_in(connection),
            settlements=[*step.returned, *(each for group in step.submitted for each in group.settlements)],
            requests=step.requests,
            take_overs=[take_over.take_over for take_over in step.take_overs],
            bounds=step.bounds,
            **with_recorded,
        )

    def _over(self) -> None:
        self._stepping = False
        self._changed.set()

    def _take_pending(self) -> list[PendingSettlements | PendingTakeOver]:
        """Remove and return the part of the queue that the next step takes, without takeovers that were cancelled."""
        count, queue = 0, [pending for pending in self._queue if not _is_cancelled(pending)]
        for index, pending in enumerate(queue):
            if count >= self._group_deliveries:
                self._queue = queue[index:]
                return queue[:index]
            if isinstance(pending, PendingSettlements):
                count += sum(len(settlement.delivery_ids) for settlement in pending.settlements)
        self._queue = []
        return queue

    def _take_returned(self) -> list[Undelivered]:
        """Remove and return the returned deliveries: all of them, they are at most as many as a step has leased."""
        returned, self._returned = self._returned, []
        return [Undelivered(returned)] if returned else []

    def _deliver(self, consumers: Sequence[Consumer], requests: Sequence[DeliveryRequest], result: StepResult) -> None:
        """Hand out the leases. Those of consumers that have stopped or left during the step are returned."""
        for consumer, request, deliveries in zip(consumers, requests, result.deliveries, strict=True):
            outstanding = result.outstanding[consumer.id]
            # A pull may request its matches while a step is in progress, which then has not looked for them.
            looked = request.capacity > 0 and not result.more
            changed = outstanding != consumer.outstanding or (consumer.is_pull and looked)
            consumer.outstanding = outstanding
            if consumer not in self.consumers or consumer.stopped:
                self.return_undelivered(deliveries)
            elif deliveries:
                consumer.deliver(deliveries)
                if self._times is not None:
                    self._times.leased(deliveries, self._clock())
            if deliveries or changed:
                consumer.changed.set()

    def _end_others(self) -> None:
        """End all consumers but the server's own: it has begun to push since they connected."""
        for consumer in [consumer for consumer in self.consumers if not consumer.pushes]:
            self._detach(consumer)
            consumer.fail(SubscriptionPushes(self.subscription.name))

    def _detach(self, consumer: Consumer) -> None:
        if consumer in self.consumers:
            self.consumers.remove(consumer)
            self.return_undelivered(consumer.take())

    def _fail(
        self, consumers: Sequence[Consumer], work: Sequence[PendingSettlements | PendingTakeOver], error: Exception
    ) -> None:
        """Report an error to the consumers and submitters of a step. The cause of an internal error is only logged.

        Whether the step was committed is not known. Clients settle again, which is harmless, and consumers that connect
        again take their leases over.
        """
        if not isinstance(error, SignalboxError):
            log.error("dispatch_failed", exc_info=error)
            error = InternalError()
        for pending in work:
            if not pending.done.done():
                pending.done.set_exception(error)
        for consumer in consumers:
            if consumer in self.consumers:
                self._detach(consumer)
                consumer.fail(error)


def _is_cancelled(pending: PendingSettlements | PendingTakeOver) -> bool:
    """Return whether the consumer of a takeover has gone. Settlements are applied even if nobody awaits the results."""
    return isinstance(pending, PendingTakeOver) and pending.done.cancelled()


def _resolve(done: asyncio.Future[list[T]], result: list[T]) -> None:
    if not done.done():
        done.set_result(result)


def _transaction_clock(connection: Connection) -> Callable[[], int]:
    return partial(transaction_time, connection)
