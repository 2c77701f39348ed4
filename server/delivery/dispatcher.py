"""Decides and grants the leases of the subscriptions that are in use on this server.

A subscription in use has one dispatcher with one task. It collects settlements and requests, and takes one step for
all of them, so that the acknowledgements of many consumers share a commit. The tables decide what is leased, so other
servers on the same database can do the same at the same time.

The task takes a step whenever one is due, and rests otherwise. Whether a step is due is computed from state alone:

    state                                                                    a step is due
    work: settlements, takeovers, a wake, a step that could not do it all    at once
    log may hold more: the initial state                                     as soon as a consumer has capacity
    log exhausted: no match is available for any consumer                    not for capacity
    next due time: a lease ends or a retry becomes due                       at that time, while consumers are attached
    shared database: other servers settle, seek, delete                      POLL_SECONDS after the last step, likewise

Only a step finds that the log is exhausted: it had capacity left over after it leased every available match. This holds
for the log as of the beginning of the step. A commit raises `_log_version`, also while a step runs, which invalidates
the finding of an older step; a seek or a replay requests a step by `wake`; a step that did not look, or failed, leaves
no finding. A request changes only the capacity of its consumer, so it does not matter whether it arrives before, during
or after a step: it is served from the log unless the log is known to be exhausted.

Every change of state sets `_changed`. The task clears it, and computes anew, before each rest: no wake-up is lost.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import structlog

from automation.errors import AutomationError
from automation.subscriptions import leasing
from automation.subscriptions.values import DueBounds, Release, TakeOver, Want
from registry.timestamps import now_micros
from server.errors import ConsumerReplaced, ServiceError, StorageRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Connection

    from automation.subscriptions.values import Delivery, Settle, SettleResult, StepResult, Subscription
    from server.delivery.match_notifier import MatchHub
    from server.storage.database import Database

log = structlog.get_logger()

T = TypeVar("T")

GROUP_DELIVERIES: Final = 5_000
"""A step takes no further settlement once it holds this many deliveries."""

POLL_SECONDS: Final = 1.0
"""The longest time until settlements, seeks and deletions by another server are noticed."""

MAX_REST_SECONDS: Final = 60.0
"""The longest rest with consumers attached: a due time is a time of the wall clock, which may be set forward."""

_MIN_REST_SECONDS: Final = 0.001
_HOUR: Final = 3_600.0


class Consumer:
    """A reader of a subscription: a stream, or a single pull, whose `max_outstanding` is None.

    `changed` is set on deliveries, a failure, another number of `outstanding` leases, or, for a pull, the end of a step
    that looked for matches. `capacity` is the number of matches requested and not yet delivered.
    """

    def __init__(self, consumer_id: str, max_outstanding: int | None = None) -> None:
        self.id = consumer_id
        self.max_outstanding = max_outstanding
        self.connected_at = now_micros()
        self.changed = asyncio.Event()
        self.deliveries: list[Delivery] = []
        self.outstanding = 0
        self.capacity = 0
        self.stopped = False
        self._failure: Exception | None = None

    @property
    def is_pull(self) -> bool:
        """True if the consumer is a single pull."""
        return self.max_outstanding is None

    @property
    def has_capacity(self) -> bool:
        """True if an available match would be delivered, by the number of leases after the last step."""
        return self.capacity > 0 and (self.max_outstanding is None or self.outstanding < self.max_outstanding)

    def take(self) -> list[Delivery]:
        """Remove and return the deliveries."""
        taken, self.deliveries = self.deliveries, []
        return taken

    def fail(self, failure: Exception) -> None:
        """Make `check` raise the failure."""
        self._failure = failure
        self.changed.set()

    def check(self) -> None:
        """Raise the failure that ended the consumer, if any."""
        if self._failure is not None:
            raise self._failure


class Step(Protocol):
    """The type of `automation.subscriptions.leasing.step`."""

    def __call__(
        self,
        connection: Connection,
        subscription_key: int,
        clock: Callable[[], int],
        settles: Sequence[Settle | Release],
        wants: Sequence[Want],
        take_overs: Sequence[TakeOver],
        bounds: DueBounds,
    ) -> StepResult:
        """Settle, take over, expire and lease."""
        ...


@dataclass(frozen=True, slots=True)
class _Settlement:
    settles: Sequence[Settle | Release]
    done: asyncio.Future[list[list[SettleResult]]]


@dataclass(frozen=True, slots=True)
class _PendingTakeOver:
    wanted: TakeOver
    done: asyncio.Future[list[str]]


class Dispatcher:
    """One subscription in use. Its task runs as long as it has users or work.

    `step` and `clock`, the time in microseconds UTC, are given in tests only.
    """

    def __init__(
        self,
        database: Database,
        hub: MatchHub,
        current: Subscription,
        *,
        step: Step = leasing.step,
        clock: Callable[[], int] = now_micros,
    ) -> None:
        self.current = current
        self.consumers: list[Consumer] = []
        self.users = 0
        self._database = database
        self._hub = hub
        self._take_step = step
        self._clock = clock
        self._settlements: list[_Settlement] = []
        self._take_overs: list[_PendingTakeOver] = []
        self._step_wanted = False
        self._log_version = 0
        self._exhausted_version: int | None = None
        self._next_due = 0
        self._bounds = DueBounds()
        self._poll_at = 0.0
        self._changed = asyncio.Event()

    @contextmanager
    def attached(self, consumer: Consumer) -> Iterator[None]:
        """Attach a consumer until the context is left; deliveries that it has not taken are then given back.

        A stream replaces an older stream with the same id.
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

        They are delivered in one batch as soon as any are available.
        """
        consumer.capacity = capacity
        if consumer.is_pull:
            # A pull that does not wait is answered only after a step has looked for it, even if the log is exhausted.
            self._log_version += 1
        if consumer.has_capacity and not self._exhausted:
            self._changed.set()

    def stop_delivering(self, consumer: Consumer) -> None:
        """Deliver nothing more to a consumer; deliveries that it has not taken are given back."""
        consumer.stopped, consumer.capacity = True, 0
        self._give_back(consumer.take())

    async def head_position(self) -> int:
        """Return the position of the newest match of the project."""
        return await self._hub.position(self.current.project_pk)

    def submit(self, settles: Sequence[Settle | Release]) -> asyncio.Future[list[list[SettleResult]]]:
        """Settle deliveries in the next step; the future has the results once they are durable."""
        done: asyncio.Future[list[list[SettleResult]]] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_mark_retrieved)
        self._settlements.append(_Settlement(settles, done))
        self._changed.set()
        return done

    async def take_over(self, consumer_id: str, held_delivery_ids: Sequence[str] = ()) -> list[str]:
        """End the leases of a consumer, except those that it holds, after all settlements submitted before.

        Return the ids of the deliveries that it keeps.
        """
        done: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_mark_retrieved)
        self._take_overs.append(_PendingTakeOver(TakeOver(consumer_id, held_delivery_ids), done))
        self._changed.set()
        return await done

    def wake(self) -> None:
        """Take a step: the subscription was changed by something other than a step."""
        self._step_wanted = True
        self._changed.set()

    def leave(self) -> None:
        """Count one user less; the task ends after the last one, once its work is done."""
        self.users -= 1
        self._changed.set()

    async def run(self, over: Callable[[], object]) -> None:
        """Take steps until there are neither users nor work; `over` is called at that moment."""
        following = asyncio.create_task(self._follow_log(), name="follow-match-log")
        try:
            while self.users or self._has_work:
                if self._step_due():
                    await self._step()
                else:
                    await self._rest()
        finally:
            over()
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    @property
    def _has_work(self) -> bool:
        return bool(self._settlements or self._take_overs)

    @property
    def _exhausted(self) -> bool:
        return self._exhausted_version == self._log_version

    def _step_due(self) -> bool:
        if self._has_work or self._step_wanted:
            return True
        if not self.consumers:
            return False
        if not self._exhausted and any(consumer.has_capacity for consumer in self.consumers):
            return True
        polled = self._database.shared and asyncio.get_running_loop().time() >= self._poll_at
        return polled or 0 < self._next_due <= self._clock()

    async def _rest(self) -> None:
        """Wait until the state changes, or a step is due by time."""
        # Nothing was awaited since `_step_due` was computed, so no change is cleared unseen.
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._rest_seconds()):
                await self._changed.wait()

    def _rest_seconds(self) -> float | None:
        if not self.consumers:
            return None
        seconds = MAX_REST_SECONDS
        if self._next_due:
            seconds = min(seconds, (self._next_due - self._clock()) / 1_000_000)
        if self._database.shared:
            seconds = min(seconds, self._poll_at - asyncio.get_running_loop().time())
        return max(seconds, _MIN_REST_SECONDS)

    async def _follow_log(self) -> None:
        """Note every growth of the match log."""
        project_pk, position = self.current.project_pk, 0
        while True:
            try:
                position = await self._hub.beyond(project_pk, position, _HOUR)
            except Exception as error:
                # If it persists, the steps report it to the consumers.
                log.warning("match_log_not_followed", cause=repr(error))
                await asyncio.sleep(POLL_SECONDS)
                continue
            self._log_version += 1
            self._changed.set()

    async def _step(self) -> None:
        settlements, take_overs, consumers = self._take_settlements(), self._take_overs, list(self.consumers)
        self._take_overs, self._step_wanted = [], False
        self._poll_at = asyncio.get_running_loop().time() + POLL_SECONDS
        log_version, self._exhausted_version = self._log_version, None
        work = partial(
            self._take_step,
            subscription_key=self.current.key,
            clock=self._clock,
            settles=[each for settlement in settlements for each in settlement.settles],
            wants=[Want(each.id, each.capacity, each.max_outstanding) for each in consumers],
            take_overs=[each.wanted for each in take_overs],
            bounds=self._bounds,
        )
        try:
            result = await self._database.write(work)
            self.current, self._next_due, self._bounds = result.subscription, result.next_due, result.bounds
            self._step_wanted = self._step_wanted or result.more
            if result.exhausted:
                self._exhausted_version = log_version
            results = iter(result.results)
            for settlement in settlements:
                _resolve(settlement.done, [next(results) for _ in settlement.settles])
            for taken, kept in zip(take_overs, result.kept, strict=True):
                _resolve(taken.done, kept)
            self._deliver(consumers, result)
        except Exception as error:
            self._fail(consumers, [*settlements, *take_overs], error)

    def _take_settlements(self) -> list[_Settlement]:
        """Take the settlements of one step, in their order; the rest is left for the next step."""
        count = 0
        for index, settlement in enumerate(self._settlements):
            if count >= GROUP_DELIVERIES:
                taken, self._settlements = self._settlements[:index], self._settlements[index:]
                return taken
            count += sum(len(each.delivery_ids) for each in settlement.settles)
        taken, self._settlements = self._settlements, []
        return taken

    def _deliver(self, consumers: Sequence[Consumer], result: StepResult) -> None:
        """Hand out the leases; those of consumers that have stopped or left meanwhile are given back."""
        for consumer, deliveries in zip(consumers, result.deliveries, strict=True):
            outstanding = result.outstanding[consumer.id]
            changed = outstanding != consumer.outstanding or (consumer.is_pull and not result.more)
            consumer.outstanding = outstanding
            if consumer not in self.consumers or consumer.stopped:
                self._give_back(deliveries)
            elif deliveries:
                consumer.deliveries += deliveries
                consumer.capacity = 0
            if deliveries or changed:
                consumer.changed.set()

    def _detach(self, consumer: Consumer) -> None:
        if consumer in self.consumers:
            self.consumers.remove(consumer)
            self._give_back(consumer.take())

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            self.submit([Release([each.id for each in deliveries])])

    def _fail(
        self, consumers: Sequence[Consumer], work: Sequence[_Settlement | _PendingTakeOver], error: Exception
    ) -> None:
        """End everything that a step was taken for; the cause of an internal error is logged, not returned."""
        if not isinstance(error, (AutomationError, ServiceError)):
            log.error("dispatch_failed", exc_info=error)
            error = StorageRefused()
        for each in work:
            if not each.done.done():
                each.done.set_exception(error)
        for consumer in consumers:
            if consumer in self.consumers:
                self._detach(consumer)
                consumer.fail(error)


class Dispatchers:
    """The dispatchers of the subscriptions in use."""

    def __init__(
        self,
        database: Database,
        hub: MatchHub,
        make: Callable[[Database, MatchHub, Subscription], Dispatcher] = Dispatcher,
    ) -> None:
        self._database = database
        self._hub = hub
        self._make = make
        self._by_key: dict[int, Dispatcher] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @contextmanager
    def used(self, current: Subscription) -> Iterator[Dispatcher]:
        """Use the dispatcher of a subscription until the context is left.

        A dispatcher without users finishes its work first, so that the next user finds it done.
        """
        dispatcher = self._by_key.get(current.key)
        if dispatcher is None:
            dispatcher = self._by_key[current.key] = self._make(self._database, self._hub, current)
            over = partial(self._by_key.pop, current.key)
            task = asyncio.create_task(dispatcher.run(over), name="dispatch-matches")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        dispatcher.users += 1
        try:
            yield dispatcher
        finally:
            dispatcher.leave()

    def streams(self, subscription_key: int) -> list[Consumer]:
        """Return the streams that are connected to this server."""
        dispatcher = self._by_key.get(subscription_key)
        return [each for each in dispatcher.consumers if not each.is_pull] if dispatcher else []

    def wake(self, subscription_key: int) -> None:
        """Wake the dispatcher of a subscription that something other than a step has changed."""
        if dispatcher := self._by_key.get(subscription_key):
            dispatcher.wake()

    async def close(self) -> None:
        """Wait until the steps that are in progress have ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)


def _resolve(done: asyncio.Future[list[T]], result: list[T]) -> None:
    if not done.done():
        done.set_result(result)


def _mark_retrieved(done: asyncio.Future[list[T]]) -> None:
    """Mark a failure as seen: whoever waited for it may have gone."""
    if not done.cancelled():
        done.exception()
