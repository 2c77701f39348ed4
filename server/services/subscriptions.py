"""The subscriptions of a project: created, read, changed, moved, and their parked matches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec import UNSET, UnsetType
from uuid_utils import uuid7

from automation.errors import SubscriptionNotFound
from automation.subscriptions import parked_matches, push_store, store
from automation.subscriptions.push import PushChanges, change_push, make_secret
from automation.subscriptions.values import SubscriptionStats
from registry.times.timestamps import now_micros
from server.audit.audited_changes import AuditedChanges, AuditedValues
from server.delivery.start_points import resolve_start
from server.delivery.subscription_status import ConsumerStatus, SubscriptionStatus
from server.errors import SubscriptionDoesNotPush, SubscriptionInUse
from server.storage.clock import transaction_time
from server.storage.projects.heads import lock_heads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from automation.subscriptions.push import Push, PushAttempt
    from automation.subscriptions.store import SubscriptionChanges
    from automation.subscriptions.values import ParkedMatch, ParkedSelection, Subscription
    from server.audit.audited_changes import AuditRecorder
    from server.delivery.dispatchers import Dispatchers
    from server.delivery.match_reader import MatchReader, UnreadableMatch
    from server.delivery.push.push_settings import PushSettings
    from server.delivery.recent_matches import LoadedMatch
    from server.delivery.start_points import StartPoint
    from server.paging import Page, PageRequest
    from server.storage.database import Database

T = TypeVar("T")

MAX_CONSUMERS: Final = 1_000
"""The number of consumers of a subscription that are listed."""


class Subscriptions:
    """Keeps subscriptions. A subscription is named by its id or name."""

    def __init__(
        self,
        database: Database,
        dispatchers: Dispatchers,
        reader: MatchReader,
        pushes: PushSettings,
        changes: AuditedChanges | None = None,
    ) -> None:
        self._database = database
        self._changes = changes or AuditedChanges(database)
        self._dispatchers = dispatchers
        self._reader = reader
        self._pushes = pushes

    async def create(
        self, project_pk: int, new: Subscription, start: StartPoint, push: Push | None = None
    ) -> SubscriptionStatus:
        """Create a subscription that begins at a start point in the match log. A secret is made if its push has none.

        Raise InvalidSubscription, SubscriptionAlreadyExists, CursorExpired, CursorInvalid, CursorRewound and
        PositionBeyondHead.
        """
        subscription_id = str(uuid7())
        made_secret = make_secret() if push is not None and not push.secrets else ""
        if push is not None:
            store.check_subscription(new)
            push = await self._pushes.check(replace(push, secrets=push.secrets or (made_secret,)))

        def create(connection: Connection, record: AuditRecorder) -> SubscriptionStatus:
            lock_heads(connection, [project_pk])
            now = now_micros()
            filled = replace(new, project_pk=project_pk, id=subscription_id, created_at=now, updated_at=now)
            store.check_subscription(filled)
            position = resolve_start(connection, project_pk, start)
            created = store.create_subscription(connection, replace(filled, read_position=position))
            if push is not None:
                created = push_store.write_push(connection, created, replace(push, paused_at=push.paused_at and now))
            record(connection, project_pk, None, _recorded(connection, created))
            return replace(self._status(connection, [created])[0], made_secret=made_secret)

        return await self._change("CreateSubscription", create)

    async def get(self, project_pk: int, subscription: str) -> tuple[SubscriptionStatus, Sequence[ConsumerStatus]]:
        """Return a subscription and its consumers, ordered by their ids. Raise SubscriptionNotFound."""

        def read(connection: Connection) -> tuple[SubscriptionStatus, Sequence[ConsumerStatus]]:
            current = store.get_subscription(connection, project_pk, subscription)
            leases = store.outstanding_counts(connection, current.key, MAX_CONSUMERS)
            consumers = {consumer_id: ConsumerStatus(consumer_id, count) for consumer_id, count in leases.items()}
            for stream in self._dispatchers.streams(current.key):
                consumers[stream.id] = ConsumerStatus(
                    stream.id, leases.get(stream.id, 0), stream.max_outstanding or 0, stream.connected_at
                )
            ordered = [consumers[consumer_id] for consumer_id in sorted(consumers)]
            return self._status(connection, [current])[0], ordered[:MAX_CONSUMERS]

        return await self._database.read(read, delivery=True)

    async def status(self, project_pk: int, subscription: str) -> SubscriptionStatus:
        """Return a subscription without its consumers, of which there may be many. Raise SubscriptionNotFound."""

        def read(connection: Connection) -> SubscriptionStatus:
            return self._status(connection, [store.get_subscription(connection, project_pk, subscription)])[0]

        return await self._database.read(read, delivery=True)

    async def list(self, project_pk: int, request: PageRequest) -> Page[SubscriptionStatus]:
        """List subscriptions, newest first."""
        limit, filters = request.limit(), ("subscriptions", project_pk)
        (before,) = request.cursor(filters, str) or (None,)

        def read(connection: Connection) -> Sequence[SubscriptionStatus]:
            return self._status(connection, store.list_subscriptions(connection, project_pk, limit + 1, before))

        statuses = await self._database.read(read)
        return request.page(statuses, filters, lambda status: (status.subscription.id,))

    async def update(
        self,
        project_pk: int,
        subscription: str,
        changes: SubscriptionChanges,
        etag: str,
        push: PushChanges | UnsetType | None = UNSET,
    ) -> SubscriptionStatus:
        """Change a subscription, and how it pushes; None clears that.

        Raise SubscriptionNotFound, SubscriptionAlreadyExists, InvalidSubscription and EtagMismatch.
        """
        made_secret = ""
        if isinstance(push, PushChanges):
            push, made_secret = await self._check_push(project_pk, subscription, push)

        def update(connection: Connection, record: AuditRecorder) -> SubscriptionStatus:
            lock_heads(connection, [project_pk])
            now = now_micros()
            before = _recorded(connection, _locked(connection, project_pk, subscription))
            updated = store.update_subscription(connection, project_pk, subscription, changes, etag, now)
            if push is not UNSET:
                updated = _change_push(connection, updated, push, now)
            record(connection, project_pk, before, _recorded(connection, updated))
            return replace(self._status(connection, [updated])[0], made_secret=made_secret)

        return await self._change("UpdateSubscription", update)

    async def ping(self, project_pk: int, subscription: str) -> PushAttempt:
        """Send a test request to the receiver. Raise SubscriptionNotFound and SubscriptionDoesNotPush."""
        current, push = await self._find_push(project_pk, subscription)
        if push is None:
            raise SubscriptionDoesNotPush(subscription)
        return await self._pushes.ping(current, push)

    async def _check_push(self, project_pk: int, subscription: str, changes: PushChanges) -> tuple[PushChanges, str]:
        """Check changes before they are written; return them, and the secret that was made for them.

        Hosts are resolved here, because that takes long.
        """
        _, push = await self._find_push(project_pk, subscription)
        made_secret = ""
        if changes.rotate_secret or (push is None and changes.secrets is UNSET):
            made_secret = make_secret()
            changes = replace(changes, new_secret=made_secret)
        after = change_push(push, changes, now_micros())
        if push is None or after.url != push.url:
            await self._pushes.check(after)
        return changes, made_secret

    async def _find_push(self, project_pk: int, subscription: str) -> tuple[Subscription, Push | None]:
        def find(connection: Connection) -> tuple[Subscription, Push | None]:
            current = store.get_subscription(connection, project_pk, subscription)
            return current, push_store.pushes_of(connection, [current.key]).get(current.key)

        return await self._database.read(find, brief=True)

    async def delete(self, project_pk: int, subscription: str, etag: str, *, force: bool) -> SubscriptionStatus:
        """Delete a subscription and end its consumers; refused while any are connected to this server, unless forced.

        Raise SubscriptionNotFound, SubscriptionInUse and EtagMismatch.
        """

        def delete(connection: Connection, record: AuditRecorder) -> SubscriptionStatus:
            current = _locked(connection, project_pk, subscription, readable=False)
            status = self._status(connection, [current])[0]
            if status.consumer_count and not force:
                raise SubscriptionInUse(subscription, status.consumer_count)
            before = _recorded(connection, current)
            store.delete_subscription(connection, project_pk, current.id, etag)
            record(connection, project_pk, before, None)
            return status

        return await self._change("DeleteSubscription", delete, lambda _: None)

    async def seek(self, project_pk: int, subscription: str, start: StartPoint, etag: str) -> SubscriptionStatus:
        """Move a subscription to another start point.

        Raise SubscriptionNotFound, EtagMismatch, CursorExpired, CursorInvalid, CursorRewound and PositionBeyondHead.
        """

        def seek(connection: Connection, record: AuditRecorder) -> SubscriptionStatus:
            # Retention deletes under this lock: no match after the position goes before the subscription protects it.
            lock_heads(connection, [project_pk])
            position = resolve_start(connection, project_pk, start)
            now = transaction_time(connection)
            before = _recorded(connection, _locked(connection, project_pk, subscription))
            moved = store.seek_subscription(connection, project_pk, subscription, position, etag, now)
            record(connection, project_pk, before, _recorded(connection, moved))
            return self._status(connection, [moved])[0]

        return await self._change("SeekSubscription", seek)

    async def find(self, project_pk: int, subscription: str) -> Subscription:
        """Return a subscription without its status. Raise SubscriptionNotFound."""
        return await self._database.read(
            lambda connection: store.get_subscription(connection, project_pk, subscription), brief=True
        )

    async def list_parked(
        self, project_pk: int, subscription: str, selection: ParkedSelection, request: PageRequest
    ) -> Page[tuple[ParkedMatch, LoadedMatch | UnreadableMatch]]:
        """List parked matches, the last parked first; a page may be short. Raise SubscriptionNotFound."""
        limit = request.limit()

        def read(connection: Connection) -> tuple[object, Sequence[ParkedMatch], tuple[int, int] | None]:
            current = store.get_subscription(connection, project_pk, subscription)
            filters = "parked", current.key, selection
            cursor = request.cursor(filters, int, int)
            before = (*cursor,) if cursor else None
            last_examined = parked_matches.last_examined_position(connection, current, selection, before)
            parked = parked_matches.list_parked(connection, current, selection, limit + 1, before, last_examined)
            return filters, parked, last_examined

        filters, parked, last_examined = await self._database.read(read)
        loaded = await self._reader.load(project_pk, [parked_match.match for parked_match in parked[:limit]])
        page = list(zip(parked, loaded, strict=False))
        return request.page(
            page,
            filters,
            lambda item: (item[0].parked_at, item[0].match.position),
            more=len(page) < len(parked) or last_examined is not None,
            resume=last_examined if len(page) == len(parked) else None,
        )

    async def replay_parked(
        self, project_pk: int, subscription: str, selection: ParkedSelection, *, dry_run: bool
    ) -> int:
        """Deliver parked matches again; return their number. Raise SubscriptionNotFound."""

        def replay(connection: Connection, current: Subscription) -> int:
            return parked_matches.replay_parked(connection, current.key, selection, transaction_time(connection))

        return await self._move_parked(
            project_pk, "ReplayParkedMatches", subscription, selection, replay, dry_run=dry_run
        )

    async def discard_parked(
        self, project_pk: int, subscription: str, selection: ParkedSelection, *, dry_run: bool
    ) -> int:
        """Discard parked matches for good; return their number. Raise SubscriptionNotFound."""

        def discard(connection: Connection, current: Subscription) -> int:
            return parked_matches.discard_parked(connection, current.key, selection)

        return await self._move_parked(
            project_pk, "DiscardParkedMatches", subscription, selection, discard, dry_run=dry_run
        )

    async def _move_parked(
        self,
        project_pk: int,
        action: str,
        subscription: str,
        selection: ParkedSelection,
        move: Callable[[Connection, Subscription], int],
        *,
        dry_run: bool,
    ) -> int:
        current = await self.find(project_pk, subscription)
        if dry_run:
            return await self._database.read(
                lambda connection: parked_matches.count_parked(connection, current, selection)
            )

        def work(connection: Connection, record: AuditRecorder) -> int:
            count = move(connection, current)
            moved = AuditedValues("subscription", current.id, {"name": current.name, "parkedMatchCount": count})
            record(connection, project_pk, None, moved if count else None)
            return count

        try:
            return await self._write_and_wake(action, work, lambda _: current.key)
        except SubscriptionNotFound:
            raise SubscriptionNotFound(subscription) from None

    async def _change(
        self,
        action: str,
        work: Callable[[Connection, AuditRecorder], SubscriptionStatus],
        push_of: Callable[[SubscriptionStatus], Push | None] = lambda status: status.push,
    ) -> SubscriptionStatus:
        """Change a subscription; before the response, apply the settings of its push and wake its dispatcher."""

        def apply(status: SubscriptionStatus) -> int:
            self._pushes.apply(status.subscription.key, push_of(status))
            return status.subscription.key

        return await self._write_and_wake(action, work, apply)

    async def _write_and_wake(
        self, action: str, work: Callable[[Connection, AuditRecorder], T], key_of: Callable[[T], int]
    ) -> T:
        """Change a subscription and wake its dispatcher.

        Without the wake, matches that the change makes available would wait for the next match.
        """
        return await self._changes.write(action, work, lambda result: self._dispatchers.wake(key_of(result)))

    def _status(self, connection: Connection, subscriptions: Sequence[Subscription]) -> Sequence[SubscriptionStatus]:
        stats = store.stats_of(connection, subscriptions)
        pushes = push_store.pushes_of(connection, [subscription.key for subscription in subscriptions])
        return [
            SubscriptionStatus(
                subscription,
                stats[subscription.key],
                len(self._dispatchers.streams(subscription.key)),
                self._pushes.with_attempts(subscription.key, push) if (push := pushes.get(subscription.key)) else None,
            )
            for subscription in subscriptions
        ]


def _locked(connection: Connection, project_pk: int, subscription: str, *, readable: bool = True) -> Subscription:
    """Read a subscription that nobody else changes until the transaction ends.

    Raise SubscriptionNotFound, and RowUnreadable, unless it need not be readable.
    """
    found = store.get_subscription(connection, project_pk, subscription)
    try:
        return store.lock_subscription(connection, found.key, readable=readable)
    except SubscriptionNotFound:
        raise SubscriptionNotFound(subscription) from None


def _recorded(connection: Connection, subscription: Subscription) -> SubscriptionStatus:
    """Return a subscription as the audit log has it, without the fields that deliveries change."""
    push = push_store.pushes_of(connection, [subscription.key]).get(subscription.key)
    return SubscriptionStatus(subscription, SubscriptionStats(0, 0, 0, 0, 0), 0, push)


def _change_push(
    connection: Connection, subscription: Subscription, changes: PushChanges | None, now: int
) -> Subscription:
    """Change or clear how a locked subscription pushes. Where nothing differs nothing is written."""
    push = push_store.pushes_of(connection, [subscription.key]).get(subscription.key)
    after = None if changes is None else change_push(push, changes, now)
    if after == push:
        return subscription
    return push_store.write_push(
        connection, replace(subscription, version=subscription.version + 1, updated_at=now), after
    )
