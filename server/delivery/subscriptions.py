"""The subscriptions of a project, and what is done to them outside of streams."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from uuid_utils import uuid7

from automation.errors import SubscriptionNotFound
from automation.subscriptions import store
from automation.subscriptions.values import Nack, NackAction, ParkingCause, Release
from registry.timestamps import now_micros
from server.delivery.dispatcher import Consumer
from server.delivery.match_reader import LoadedMatch, UnreadableMatch, log_unreadable
from server.delivery.start_points import resolve_start
from server.errors import Stopping, SubscriptionInUse
from server.storage.log import lock_heads
from server.storage.transactions import finished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Connection

    from automation.subscriptions.store import SubscriptionChanges
    from automation.subscriptions.values import (
        Delivery,
        ParkedMatch,
        ParkedSelection,
        Settle,
        SettleResult,
        Stats,
        Subscription,
    )
    from server.delivery.dispatcher import Dispatcher, Dispatchers
    from server.delivery.match_reader import Matches
    from server.delivery.start_points import StartPoint
    from server.paging import Page, PageRequest
    from server.storage.database import Database

T = TypeVar("T")

MAX_CONSUMERS: Final = 1_000
"""So many consumers of a subscription are listed."""


@dataclass(frozen=True, slots=True)
class Described:
    """A subscription with how far it is, and how many consumers are connected to this server."""

    subscription: Subscription
    stats: Stats
    consumer_count: int


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """A consumer that is connected or holds leases; `max_outstanding` and `connected_at` are 0 unless connected."""

    id: str
    outstanding_count: int
    max_outstanding: int = 0
    connected_at: int = 0


class Subscriptions:
    """Keeps subscriptions. Each is named by its id or name."""

    def __init__(self, database: Database, dispatchers: Dispatchers, matches: Matches, stopping: asyncio.Event) -> None:
        self._database = database
        self._dispatchers = dispatchers
        self._matches = matches
        self._stopping = stopping

    async def create(self, project_pk: int, wanted: Subscription, start: StartPoint) -> Described:
        """Create a subscription that begins at a place of the log.

        Raise InvalidSubscription, SubscriptionAlreadyExists, CursorExpired, CursorInvalid, CursorRewound and
        PositionBeyondHead.
        """
        subscription_id = str(uuid7())

        def create(connection: Connection) -> Described:
            lock_heads(connection, [project_pk])
            now = now_micros()
            filled = replace(wanted, project_pk=project_pk, id=subscription_id, created_at=now, updated_at=now)
            store.check_subscription(filled)
            position = resolve_start(connection, project_pk, start)
            created = store.create_subscription(connection, replace(filled, read_position=position))
            return self._described(connection, [created])[0]

        return await self._database.write(create)

    async def get(self, project_pk: int, subscription: str) -> tuple[Described, Sequence[ConsumerState]]:
        """Read a subscription and its consumers, ordered by their ids. Raises SubscriptionNotFound."""

        def read(connection: Connection) -> tuple[Described, Sequence[ConsumerState]]:
            current = store.get_subscription(connection, project_pk, subscription)
            leases = store.outstanding_counts(connection, current.key, MAX_CONSUMERS)
            states = {each: ConsumerState(each, count) for each, count in leases.items()}
            for one in self._dispatchers.streams(current.key):
                states[one.id] = ConsumerState(
                    one.id, leases.get(one.id, 0), one.max_outstanding or 0, one.connected_at
                )
            return self._described(connection, [current])[0], [states[each] for each in sorted(states)][:MAX_CONSUMERS]

        return await self._database.read(read)

    async def list(self, project_pk: int, request: PageRequest) -> Page[Described]:
        """List subscriptions, newest first."""
        limit = request.limit()
        (before,) = request.cursor(project_pk, str) or (None,)

        def read(connection: Connection) -> Sequence[Described]:
            return self._described(connection, store.list_subscriptions(connection, project_pk, limit + 1, before))

        found = await self._database.read(read)
        return request.page(found, project_pk, lambda each: (each.subscription.id,))

    async def update(self, project_pk: int, subscription: str, changes: SubscriptionChanges, etag: str) -> Described:
        """Change a subscription.

        Raises SubscriptionNotFound, SubscriptionAlreadyExists, InvalidSubscription and EtagMismatch.
        """

        def update(connection: Connection) -> Subscription:
            lock_heads(connection, [project_pk])
            return store.update_subscription(connection, project_pk, subscription, changes, etag, now_micros())

        return await self._change(update)

    async def delete(self, project_pk: int, subscription: str, etag: str, *, force: bool) -> Described:
        """Delete a subscription. Consumers of this server keep it from that, unless forced; then they are ended.

        Raises SubscriptionNotFound, SubscriptionInUse and EtagMismatch.
        """

        def delete(connection: Connection) -> Described:
            current = store.get_subscription(connection, project_pk, subscription)
            described = self._described(connection, [current])[0]
            if described.consumer_count and not force:
                raise SubscriptionInUse(subscription, described.consumer_count)
            store.delete_subscription(connection, project_pk, current.id, etag)
            return described

        return await self._write_and_wake(delete, lambda described: described.subscription.key)

    async def seek(self, project_pk: int, subscription: str, start: StartPoint, etag: str) -> Described:
        """Move a subscription to another place of the log.

        Raises SubscriptionNotFound, EtagMismatch, CursorExpired, CursorInvalid, CursorRewound and PositionBeyondHead.
        """

        def seek(connection: Connection) -> Subscription:
            # What is behind the position cannot go before the subscription is there to hold it.
            lock_heads(connection, [project_pk])
            position = resolve_start(connection, project_pk, start)
            return store.seek_subscription(connection, project_pk, subscription, position, etag, now_micros())

        return await self._change(seek)

    @contextmanager
    def used(self, current: Subscription, name: str) -> Iterator[Dispatcher]:
        """Use the dispatcher of a subscription; a SubscriptionNotFound names it as the caller does."""
        try:
            with self._dispatchers.used(current) as dispatcher:
                yield dispatcher
        except SubscriptionNotFound:
            raise SubscriptionNotFound(name) from None

    async def find(self, project_pk: int, subscription: str) -> Subscription:
        """Read a subscription alone. Raises SubscriptionNotFound."""
        return await self._database.read(
            lambda connection: store.get_subscription(connection, project_pk, subscription), brief=True
        )

    async def pull(
        self, project_pk: int, subscription: str, consumer_id: str, limit: int, wait_seconds: float
    ) -> tuple[Sequence[tuple[Delivery, LoadedMatch]], int]:
        """Lease matches, as many as fit an answer; the first one is waited for so long. Gives max_attempts beside them.

        Raises SubscriptionNotFound, and Stopping when the server shuts down meanwhile.
        """
        current = await self.find(project_pk, subscription)
        consumer = Consumer(consumer_id)
        stopping = asyncio.create_task(self._stopping.wait())
        stopping.add_done_callback(lambda _: consumer.fail(Stopping()))
        try:
            with self.used(current, subscription) as dispatcher, dispatcher.attached(consumer):
                latest = asyncio.get_running_loop().time() + wait_seconds
                while True:
                    consumer.changed.clear()
                    consumer.check()
                    dispatcher.request(consumer, limit)
                    await _first_delivery(consumer, latest)
                    taken = consumer.take()
                    loaded = await self.load(dispatcher, taken)
                    # If all deliveries are unreadable, later ones may be readable.
                    if loaded or not taken:
                        return loaded, dispatcher.current.max_attempts
        finally:
            stopping.cancel()

    async def load(
        self, dispatcher: Dispatcher, deliveries: Sequence[Delivery]
    ) -> Sequence[tuple[Delivery, LoadedMatch]]:
        """Load the first deliveries, as many as fit into a response; the rest is released, without counting an attempt.

        An unreadable match is parked.
        """
        if not deliveries:
            return []
        loaded: list[LoadedMatch | UnreadableMatch] = []
        try:
            matches = [each.match for each in deliveries]
            failures = [each.last_failure for each in deliveries]
            loaded = await self._matches.load(dispatcher.current.project_pk, matches, failures)
        finally:
            if rest := deliveries[len(loaded) :]:
                dispatcher.submit([Release([each.id for each in rest])])
        pairs = list(zip(deliveries, loaded, strict=False))
        if unreadable := [(each, found.reason) for each, found in pairs if isinstance(found, UnreadableMatch)]:
            await dispatcher.submit(_parking(unreadable))
        return [(each, found) for each, found in pairs if isinstance(found, LoadedMatch)]

    def park(self, dispatcher: Dispatcher, unreadable: Sequence[tuple[Delivery, str]]) -> None:
        """Park unreadable deliveries, each with the reason."""
        if unreadable:
            dispatcher.submit(_parking(unreadable))

    async def park_pulled(self, project_pk: int, subscription: str, unreadable: Sequence[tuple[Delivery, str]]) -> None:
        """Park unreadable pulled deliveries, each with the reason. Raises SubscriptionNotFound."""
        if unreadable:
            await self.settle(project_pk, subscription, _parking(unreadable))

    async def settle(self, project_pk: int, subscription: str, settles: Sequence[Settle]) -> Sequence[SettleResult]:
        """Settle and extend deliveries in one transaction. Raises SubscriptionNotFound."""
        current = await self.find(project_pk, subscription)
        with self.used(current, subscription) as dispatcher:
            return [each for results in await dispatcher.submit(settles) for each in results]

    async def list_parked(
        self, project_pk: int, subscription: str, selection: ParkedSelection, request: PageRequest
    ) -> Page[tuple[ParkedMatch, LoadedMatch | UnreadableMatch]]:
        """List parked matches, those parked last first. Raises SubscriptionNotFound."""
        limit, filters = request.limit(), (project_pk, subscription, selection)
        before = request.cursor(filters, int, int)

        def read(connection: Connection) -> Sequence[ParkedMatch]:
            current = store.get_subscription(connection, project_pk, subscription)
            return store.list_parked(connection, current, selection, limit + 1, (*before,) if before else None)

        found = await self._database.read(read)
        loaded = await self._matches.load(project_pk, [each.match for each in found[:limit]])
        page = list(zip(found, loaded, strict=False))
        return request.page(
            page,
            filters,
            lambda each: (each[0].parked_at, each[0].match.position),
            more=len(page) < len(found),
        )

    async def replay_parked(
        self, project_pk: int, subscription: str, selection: ParkedSelection, *, dry_run: bool
    ) -> int:
        """Deliver parked matches again; returns how many. Raises SubscriptionNotFound."""

        def replay(connection: Connection, current: Subscription) -> int:
            return store.replay_parked(connection, current.key, selection, now_micros())

        return await self._move_parked(project_pk, subscription, selection, replay, dry_run=dry_run)

    async def discard_parked(
        self, project_pk: int, subscription: str, selection: ParkedSelection, *, dry_run: bool
    ) -> int:
        """Give up parked matches for good; returns how many. Raises SubscriptionNotFound."""

        def discard(connection: Connection, current: Subscription) -> int:
            return store.discard_parked(connection, current.key, selection)

        return await self._move_parked(project_pk, subscription, selection, discard, dry_run=dry_run)

    async def _move_parked(
        self,
        project_pk: int,
        subscription: str,
        selection: ParkedSelection,
        move: Callable[[Connection, Subscription], int],
        *,
        dry_run: bool,
    ) -> int:
        current = await self.find(project_pk, subscription)
        if dry_run:
            return await self._database.read(lambda connection: store.count_parked(connection, current, selection))
        try:
            return await self._write_and_wake(lambda connection: move(connection, current), lambda _: current.key)
        except SubscriptionNotFound:
            raise SubscriptionNotFound(subscription) from None

    async def _change(self, change: Callable[[Connection], Subscription]) -> Described:
        return await self._write_and_wake(
            lambda connection: self._described(connection, [change(connection)])[0],
            lambda described: described.subscription.key,
        )

    async def _write_and_wake(self, work: Callable[[Connection], T], key_of: Callable[[T], int]) -> T:
        """Change a subscription and wake its dispatcher, even if the caller is cancelled while the change is written.

        Without the wake, matches that the change makes available would wait for the next match.
        """

        async def changed() -> T:
            result = await self._database.write(work)
            self._dispatchers.wake(key_of(result))
            return result

        return await finished(changed())

    def _described(self, connection: Connection, subscriptions: Sequence[Subscription]) -> Sequence[Described]:
        stats = store.stats_of(connection, subscriptions)
        return [Described(each, stats[each.key], len(self._dispatchers.streams(each.key))) for each in subscriptions]


def _parking(unreadable: Sequence[tuple[Delivery, str]]) -> list[Settle]:
    for delivery, reason in unreadable:
        log_unreadable(delivery.match, reason)
    return [
        Nack([delivery.id], NackAction.PARK, reason=reason, cause=ParkingCause.UNREADABLE)
        for delivery, reason in unreadable
    ]


async def _first_delivery(consumer: Consumer, latest: float) -> None:
    """Wait until one step has looked for matches, and then for a delivery until the loop's time `latest`."""
    await consumer.changed.wait()
    try:
        async with asyncio.timeout_at(latest):
            while not consumer.deliveries:
                consumer.check()
                consumer.changed.clear()
                await consumer.changed.wait()
    except TimeoutError:
        pass
    consumer.check()
