"""Moves the subscriptions that are in use on this server.

Each has one task, which gathers what waits and takes one step for all of it: so the acknowledgements of many consumers
share a commit. The tables decide what is leased, so other servers on the same database do the same beside it.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from automation.errors import AutomationError
from automation.leasing import step
from automation.settling import take_over
from automation.subscriptions import Release, Want
from registry.timestamps import now_micros
from server.errors import ConsumerReplaced, ServiceError, StorageRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Connection

    from automation.subscriptions import Delivery, Settle, SettleResult, StepResult, Subscription
    from server.match_hub import MatchHub
    from server.storage.database import Database

log = structlog.get_logger()

T = TypeVar("T")

GROUP_DELIVERIES: Final = 5_000
"""A step settles no further request once it holds so many deliveries."""

POLL_SECONDS: Final = 1.0
"""How long what another server settles, seeks or deletes may go unnoticed."""

_HOUR: Final = 3_600.0


class Consumer:
    """Who waits for deliveries of a subscription: a stream, or a single pull, whose `max_outstanding` is None.

    `changed` is set when there is something to look at: `deliveries`, `failure`, or the count of `outstanding` leases
    as a step found it.
    """

    def __init__(self, consumer_id: str, max_outstanding: int | None = None) -> None:
        self.id = consumer_id
        self.max_outstanding = max_outstanding
        self.connected_at = now_micros()
        self.changed = asyncio.Event()
        self.deliveries: list[Delivery] = []
        self.outstanding = 0
        self.room = 0
        self.refusing = False
        self._failure: Exception | None = None

    @property
    def waiting(self) -> bool:
        """Whether a match would be delivered if there were one."""
        return self.room > 0 and (self.max_outstanding is None or self.outstanding < self.max_outstanding)

    def take(self) -> list[Delivery]:
        """Take what was delivered."""
        taken, self.deliveries = self.deliveries, []
        return taken

    def fail(self, failure: Exception) -> None:
        """Have `check` raise."""
        self._failure = failure
        self.changed.set()

    def check(self) -> None:
        """Raise what ended the consumer, if something did."""
        if self._failure is not None:
            raise self._failure


@dataclass(frozen=True, slots=True)
class _Settling:
    settles: Sequence[Settle | Release]
    done: asyncio.Future[list[list[SettleResult]]]


@dataclass(frozen=True, slots=True)
class _TakeOver:
    consumer_id: str
    held_delivery_ids: Sequence[str]
    done: asyncio.Future[list[str]]


class Dispatcher:
    """One subscription in use. Its task runs while somebody has joined or something is submitted."""

    def __init__(self, database: Database, hub: MatchHub, current: Subscription) -> None:
        self.current = current
        self.consumers: list[Consumer] = []
        self.users = 0
        self._database = database
        self._hub = hub
        self._settlings: list[_Settling] = []
        self._take_overs: list[_TakeOver] = []
        self._exhausted = False
        self._next_due = 0
        self._wake = asyncio.Event()

    @contextmanager
    def joined(self, consumer: Consumer) -> Iterator[None]:
        """Have a consumer take part. A stream ends an older one of its id; what nobody took is given back."""
        for other in list(self.consumers):
            if consumer.max_outstanding is not None and other.max_outstanding is not None and other.id == consumer.id:
                self._leave(other)
                other.fail(ConsumerReplaced(other.id))
        self.consumers.append(consumer)
        try:
            yield
        finally:
            self._leave(consumer)

    def ask(self, consumer: Consumer, room: int) -> None:
        """Have a consumer delivered at most so many matches, once, as soon as there are some."""
        consumer.room = room
        if consumer.waiting and not self._exhausted:
            self._wake.set()

    def refuse(self, consumer: Consumer) -> None:
        """Deliver nothing more to a consumer; what it has not taken goes back."""
        consumer.refusing, consumer.room = True, 0
        self._give_back(consumer.take())

    async def head_position(self) -> int:
        """Give the position of the newest match of the project."""
        return await self._hub.position(self.current.project_key)

    def submit(self, settles: Sequence[Settle | Release]) -> asyncio.Future[list[list[SettleResult]]]:
        """Settle deliveries with the next step; the results come when they are durable."""
        done: asyncio.Future[list[list[SettleResult]]] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_note_failure)
        self._settlings.append(_Settling(settles, done))
        self._wake.set()
        return done

    async def take_over(self, consumer_id: str, held_delivery_ids: Sequence[str] = ()) -> list[str]:
        """End the leases of a consumer but those named, behind all that was submitted; gives those that it keeps."""
        done: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_note_failure)
        self._take_overs.append(_TakeOver(consumer_id, held_delivery_ids, done))
        self._wake.set()
        return await done

    def stir(self) -> None:
        """Look again: something else than a step has changed the subscription, or the log goes on."""
        self._exhausted = False
        self._wake.set()

    async def run(self, over: Callable[[], object]) -> None:
        """Step until nobody needs it any more; says so by `over`, in the moment in which it looks no more."""
        following = asyncio.create_task(self._follow(), name="follow-match-log")
        try:
            while self._needed():
                await self._rest()
                if self._needed():
                    await self._step()
        finally:
            over()
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    def _needed(self) -> bool:
        return bool(self.users or self._settlings or self._take_overs)

    async def _rest(self) -> None:
        """Wait for something to do: a word of a consumer, a match, or the time of a lease or retry."""
        seconds = None
        if self.consumers:
            seconds = (self._next_due - now_micros()) / 1_000_000 if self._next_due else None
            if self._database.shared:
                seconds = POLL_SECONDS if seconds is None else min(seconds, POLL_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds if seconds is None else max(seconds, 0)):
                await self._wake.wait()
        self._wake.clear()

    async def _follow(self) -> None:
        """Look again whenever the match log goes on."""
        project_key, position = self.current.project_key, 0
        while True:
            try:
                position = await self._hub.beyond(project_key, position, _HOUR)
            except Exception as error:
                self._fail(self.consumers, error)
                await asyncio.sleep(POLL_SECONDS)
            self._exhausted = False
            if any(each.waiting for each in self.consumers):
                self._wake.set()

    async def _step(self) -> None:
        settlings, take_overs, consumers = self._take_group(), self._take_overs, list(self.consumers)
        self._take_overs = []
        wants = [Want(each.id, each.room, each.max_outstanding) for each in consumers]
        settles = [each for one in settlings for each in one.settles]

        def work(connection: Connection) -> tuple[StepResult, list[list[str]]]:
            key = self.current.key
            result = step(connection, key, now_micros, settles, wants)
            return result, [
                take_over(connection, key, each.consumer_id, each.held_delivery_ids, now_micros())
                for each in take_overs
            ]

        try:
            result, kept = await self._database.write(work)
        except Exception as error:
            self._fail(consumers, error, [*settlings, *take_overs])
            return
        self.current, self._next_due = result.subscription, result.next_due
        results = iter(result.results)
        for one in settlings:
            _resolve(one.done, [next(results) for _ in one.settles])
        for taken, held in zip(take_overs, kept, strict=True):
            _resolve(taken.done, held)
        self._deliver(consumers, result)
        if result.more or take_overs:
            self.stir()

    def _take_group(self) -> list[_Settling]:
        """Take what was submitted, in its order; the rest is for the next step."""
        count = 0
        for index, one in enumerate(self._settlings):
            if count >= GROUP_DELIVERIES:
                group, self._settlings = self._settlings[:index], self._settlings[index:]
                self._wake.set()
                return group
            count += sum(len(each.delivery_ids) for each in one.settles)
        group, self._settlings = self._settlings, []
        return group

    def _deliver(self, consumers: Sequence[Consumer], result: StepResult) -> None:
        """Hand out what was leased; what is for somebody who has left goes back."""
        self._exhausted = False
        for consumer, deliveries in zip(consumers, result.deliveries, strict=True):
            consumer.outstanding = result.outstanding[consumer.id]
            if consumer not in self.consumers or consumer.refusing:
                self._give_back(deliveries)
            elif deliveries:
                consumer.deliveries += deliveries
                consumer.room = 0
            elif consumer.waiting:
                # It got nothing, so there is nothing for anybody.
                self._exhausted = not result.more
            if deliveries or not result.more:
                consumer.changed.set()

    def _leave(self, consumer: Consumer) -> None:
        if consumer in self.consumers:
            self.consumers.remove(consumer)
            self._give_back(consumer.take())

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            self.submit([Release([each.id for each in deliveries])])

    def _fail(
        self, consumers: Sequence[Consumer], error: Exception, waiting: Sequence[_Settling | _TakeOver] = ()
    ) -> None:
        """Tell everybody who waited what went wrong; a defect is logged and not told."""
        if not isinstance(error, (AutomationError, ServiceError)):
            log.error("dispatch_failed", exc_info=error)
            error = StorageRefused()
        for each in waiting:
            if not each.done.done():
                each.done.set_exception(error)
        for consumer in list(consumers):
            if consumer in self.consumers:
                self._leave(consumer)
                consumer.fail(error)


class Dispatchers:
    """The subscriptions in use."""

    def __init__(self, database: Database, hub: MatchHub) -> None:
        self._database = database
        self._hub = hub
        self._by_key: dict[int, Dispatcher] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @contextmanager
    def used(self, current: Subscription) -> Iterator[Dispatcher]:
        """Give the dispatcher of a subscription.

        One that nobody uses stays until it has done what was submitted, so that who comes next finds it done.
        """
        dispatcher = self._by_key.get(current.key)
        if dispatcher is None:
            dispatcher = self._by_key[current.key] = Dispatcher(self._database, self._hub, current)
            over = partial(self._by_key.pop, current.key)
            task = asyncio.create_task(dispatcher.run(over), name="dispatch-matches")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        dispatcher.users += 1
        try:
            yield dispatcher
        finally:
            dispatcher.users -= 1
            if not dispatcher.users:
                dispatcher.stir()

    def streams(self, subscription_key: int) -> list[Consumer]:
        """Name the consumers that are connected to this server."""
        dispatcher = self._by_key.get(subscription_key)
        consumers = dispatcher.consumers if dispatcher else []
        return [each for each in consumers if each.max_outstanding is not None]

    def stir(self, subscription_key: int) -> None:
        """Have a subscription looked at again that was changed otherwise than by a step."""
        if dispatcher := self._by_key.get(subscription_key):
            dispatcher.stir()

    async def close(self) -> None:
        """Finish the steps under way."""
        if self._tasks:
            await asyncio.wait(self._tasks)


def _resolve(done: asyncio.Future[list[T]], result: list[T]) -> None:
    if not done.done():
        done.set_result(result)


def _note_failure(done: asyncio.Future[list[T]]) -> None:
    """Take note of a failure that nobody may be left to hear."""
    if not done.cancelled():
        done.exception()
