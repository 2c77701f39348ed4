"""Reading and writing subscriptions: their SQL.

Every function takes an open connection and neither begins nor ends a transaction. A writer locks the subscription's
row, as every step of `automation.subscriptions.leasing` does; names are looked up before they are written, so the
caller lets only one transaction at a time create or rename the subscriptions of a project. Times are microseconds UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import and_, bindparam, delete, func, insert, or_, select, update

from automation.errors import InvalidSubscription, SubscriptionAlreadyExists, SubscriptionNotFound
from automation.match_log import log_end, matches_at
from automation.matches import MatchFilter
from automation.prepared_statements import Prepared
from automation.subscriptions.tables import subscription as subscription_table
from automation.subscriptions.tables import subscription_delivery, subscription_parked, subscription_push
from automation.subscriptions.values import Backoff, DeliveryOrder, Subscription, SubscriptionStats
from automation.unused_keys import unused_key
from registry.errors import Violation
from registry.etags import check_etag
from registry.names import given_name_problem
from registry.sql.text_columns import as_text
from registry.sql.unreadable_rows import UNREADABLE, UNREADABLE_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection, Row, Select

LEASED: Final = "leased"
WAITING: Final = "waiting"
"""It is delivered again when it is due."""
BLOCKED: Final = "held"
"""It waits for an earlier match of its contact. The stored word is older than the name."""

_SECOND: Final = 1_000_000
_HOUR: Final = 3_600 * _SECOND
MAX_ATTEMPTS: Final = 1_000
MAX_FILTER_NAMES: Final = 100
MAX_FILTER_LABELS: Final = 32

_subscription = subscription_table.c
_delivery = subscription_delivery.c
_parked = subscription_parked.c


@dataclass(frozen=True, slots=True)
class SubscriptionChanges:
    """The fields to change; UNSET leaves a field as it is."""

    name: str | UnsetType = UNSET
    ack_deadline: int | UnsetType = UNSET
    max_attempts: int | UnsetType = UNSET
    backoff: Backoff | UnsetType = UNSET


def create_subscription(connection: Connection, new: Subscription) -> Subscription:
    """Create a subscription that begins after its `read_position`, with a key that none had before.

    Raise InvalidSubscription and SubscriptionAlreadyExists.
    """
    check_subscription(new)
    _check_name_free(connection, new)
    created = replace(new, floor_position=new.read_position, last_serial=0, seek_serial=0, version=1)
    columns = _columns(created) | unused_key(connection, subscription_table)
    result = connection.execute(insert(subscription_table).values(columns).returning(_subscription.key))
    return replace(created, key=result.scalar_one())


def get_subscription(connection: Connection, project_pk: int, id_or_name: str) -> Subscription:
    """Read one subscription; an id goes before a name. Raise SubscriptionNotFound."""
    return _one(connection, select(*as_text(subscription_table)), project_pk, id_or_name)


def list_subscriptions(
    connection: Connection, project_pk: int, limit: int, before_id: str | None = None
) -> list[Subscription]:
    """List subscriptions, newest first, after an id."""
    query = select(*as_text(subscription_table)).where(_subscription.project_key == project_pk)
    if before_id is not None:
        query = query.where(_subscription.id < before_id)
    return [to_subscription(row) for row in connection.execute(query.order_by(_subscription.id.desc()).limit(limit))]


def lock_subscription(connection: Connection, key: int, *, wait: bool = True, readable: bool = True) -> Subscription:
    """Read a subscription by its key; nobody else changes it or its deliveries until the transaction ends.

    Raise SubscriptionNotFound, or without `wait`, SubscriptionLocked if it is missing or locked by another transaction;
    and RowUnreadable, unless it need not be readable.
    """
    row = (_LOCK if wait else _LOCK_FREE).row(connection, own=key)
    if row is None:
        raise SubscriptionNotFound(str(key)) if wait else SubscriptionLocked(str(key))
    subscription = to_subscription(row)
    if readable:
        subscription.check_readable()
    return subscription


def lock_row(connection: Connection, key: int) -> bool:
    """Lock a subscription as `lock_subscription` does, even if its row is unreadable. Return whether it exists."""
    return connection.scalar(_LOCK_ROW, {"own": key}) is not None


def update_subscription(
    connection: Connection, project_pk: int, id_or_name: str, changes: SubscriptionChanges, etag: str, now: int
) -> Subscription:
    """Change a subscription; leases and retries keep their times. Where nothing differs nothing is written.

    Raise SubscriptionNotFound, EtagMismatch, RowUnreadable, InvalidSubscription and SubscriptionAlreadyExists.
    """
    subscription = _locked(connection, project_pk, id_or_name, etag)
    subscription.check_readable()
    fields = {name: value for name in changes.__slots__ if (value := getattr(changes, name)) is not UNSET}
    changed = replace(subscription, **fields)
    if changed == subscription:
        return subscription
    check_subscription(changed, subscription.name)
    _check_name_free(connection, changed)
    return _write(connection, replace(changed, version=subscription.version + 1, updated_at=now))


def delete_subscription(connection: Connection, project_pk: int, id_or_name: str, etag: str) -> Subscription:
    """Delete a subscription and what it remembers. Raise SubscriptionNotFound and EtagMismatch."""
    subscription = _locked(connection, project_pk, id_or_name, etag)
    connection.execute(delete(subscription_delivery).where(_delivery.subscription_key == subscription.key))
    connection.execute(delete(subscription_parked).where(_parked.subscription_key == subscription.key))
    connection.execute(delete(subscription_push).where(subscription_push.c.subscription_key == subscription.key))
    connection.execute(delete(subscription_table).where(_subscription.key == subscription.key))
    return subscription


def set_pushes(connection: Connection, subscription: Subscription, *, pushes: bool) -> Subscription:
    """Store whether the server is the only consumer of a subscription, which the caller has locked."""
    return _write(connection, replace(subscription, pushes=pushes))


def seek_subscription(
    connection: Connection, project_pk: int, id_or_name: str, position: int, etag: str, now: int
) -> Subscription:
    """Continue after a position: leases end and retries are dropped, parked matches stay until they are read again.

    Raise SubscriptionNotFound, EtagMismatch and RowUnreadable.
    """
    subscription = _locked(connection, project_pk, id_or_name, etag)
    subscription.check_readable()
    connection.execute(delete(subscription_delivery).where(_delivery.subscription_key == subscription.key))
    moved = replace(
        subscription,
        read_position=position,
        floor_position=position,
        seek_serial=subscription.last_serial,
        version=subscription.version + 1,
        updated_at=now,
    )
    return _write(connection, moved)


def stats_of(connection: Connection, subscriptions: Sequence[Subscription]) -> dict[int, SubscriptionStats]:
    """Return the stats of subscriptions of one project, by their keys."""
    if not subscriptions:
        return {}
    project_pk, keys = subscriptions[0].project_pk, [subscription.key for subscription in subscriptions]
    head = log_end(connection, project_pk)
    unsettled = {row[0]: row[1:] for row in connection.execute(_unsettled_counts(keys))}
    parked = {row[0]: row[1] for row in connection.execute(_parked_counts(keys))}
    oldest = matches_at(connection, project_pk, [first for _, _, first in unsettled.values()])
    stats = {}
    for key in keys:
        outstanding, retrying, first = unsettled.get(key, (0, 0, 0))
        matched_at = oldest[first].matched_at if first else 0
        stats[key] = SubscriptionStats(head, outstanding, retrying, parked.get(key, 0), matched_at)
    return stats


def outstanding_counts(connection: Connection, subscription_key: int, limit: int) -> dict[str, int]:
    """Count the leases of consumers, by their ids, in that order."""
    query = select(_delivery.consumer_id, func.count()).group_by(_delivery.consumer_id).order_by(_delivery.consumer_id)
    query = query.where(_delivery.subscription_key == subscription_key, _delivery.state == LEASED)
    return {row[0]: row[1] for row in connection.execute(query.limit(limit))}


def check_subscription(subscription: Subscription, name_before: str = "") -> None:
    """Raise InvalidSubscription unless every setting is within its limits."""
    if violations := list(_violations(subscription, name_before)):
        raise InvalidSubscription(violations)


def _violations(subscription: Subscription, name_before: str) -> Iterator[Violation]:
    if fault := given_name_problem(subscription.name, name_before):
        yield Violation("subscription.name", "INVALID_NAME", f"The name of the subscription {fault}")
    if not _SECOND <= subscription.ack_deadline <= _HOUR:
        yield _out_of_range("ack_deadline", "ack_deadline must be 1 second to 1 hour")
    if not 1 <= subscription.max_attempts <= MAX_ATTEMPTS:
        yield _out_of_range("max_attempts", f"max_attempts must be 1 to {MAX_ATTEMPTS:,}")
    backoff = subscription.backoff
    if not 0 <= backoff.initial_delay <= _HOUR:
        yield _out_of_range("backoff.initial_delay", "backoff.initial_delay must be 0 to 1 hour")
    if not backoff.initial_delay <= backoff.max_delay <= 24 * _HOUR:
        yield _out_of_range(
            "backoff.max_delay", "backoff.max_delay must be at least initial_delay and at most 24 hours"
        )
    if not 1 <= backoff.multiplier <= 10:
        yield _out_of_range("backoff.multiplier", "backoff.multiplier must be 1 to 10")
    for field, most in (
        ("automation_ids", MAX_FILTER_NAMES),
        ("labels", MAX_FILTER_LABELS),
        ("event_names", MAX_FILTER_NAMES),
    ):
        if len(getattr(subscription.filter, field)) > most:
            yield Violation(f"subscription.filter.{field}", "TOO_LARGE", f"A filter may have at most {most} {field}")


def _out_of_range(field: str, message: str) -> Violation:
    return Violation(f"subscription.{field}", "OUT_OF_RANGE", message)


def _check_name_free(connection: Connection, subscription: Subscription) -> None:
    query = select(_subscription.id).where(_subscription.project_key == subscription.project_pk)
    if connection.scalar(query.where(_subscription.name == subscription.name, _subscription.id != subscription.id)):
        raise SubscriptionAlreadyExists(subscription.name)


def _one(connection: Connection, query: Select[Any], project_pk: int, id_or_name: str) -> Subscription:
    own = query.where(_subscription.project_key == project_pk)
    rows = connection.execute(own.where(or_(_subscription.id == id_or_name, _subscription.name == id_or_name))).all()
    if not rows:
        raise SubscriptionNotFound(id_or_name)
    return to_subscription(min(rows, key=lambda row: row.id != id_or_name))


def _locked(connection: Connection, project_pk: int, id_or_name: str, etag: str) -> Subscription:
    subscription = _one(connection, select(*as_text(subscription_table)).with_for_update(), project_pk, id_or_name)
    check_etag(etag, subscription.etag)
    return subscription


def _unsettled_counts(keys: list[int]) -> Select[Any]:
    """Select for each subscription the number of leases, the number of retries, and the earliest unsettled position."""
    retrying = and_(_delivery.state != LEASED, or_(_delivery.attempt > 0, _delivery.replayed))
    return (
        select(
            _delivery.subscription_key,
            func.count().filter(_delivery.state == LEASED),
            func.count().filter(retrying),
            func.min(_delivery.match_position),
        )
        .where(_delivery.subscription_key.in_(keys))
        .group_by(_delivery.subscription_key)
    )


def _parked_counts(keys: list[int]) -> Select[Any]:
    by_subscription = select(_parked.subscription_key, func.count()).group_by(_parked.subscription_key)
    return by_subscription.where(_parked.subscription_key.in_(keys))


def _write(connection: Connection, changed: Subscription) -> Subscription:
    connection.execute(update(subscription_table).where(_subscription.key == changed.key).values(_columns(changed)))
    return changed


def _columns(subscription: Subscription) -> dict[str, Any]:
    """Return every column but the key."""
    columns = subscription_table.columns
    names = [column.name for column in columns if column.name not in ("key", "project_key", "filter")]
    backoff = subscription.backoff
    values = {name: getattr(backoff if hasattr(backoff, name) else subscription, name) for name in names}
    match_filter = msgspec.json.encode(subscription.filter).decode()
    return values | {"project_key": subscription.project_pk, "filter": match_filter}


def to_subscription(row: Sequence[Any] | Row[Any]) -> Subscription:
    """Return the subscription of a row with the columns in their order."""
    key, project_pk, subscription_id, name, match_filter, order, ack_deadline, max_attempts, *backoff = row[:11]
    unreadable = ""
    try:
        rules = msgspec.json.decode(match_filter, type=MatchFilter), DeliveryOrder(order)
    except UNREADABLE as error:
        rules = MatchFilter(), DeliveryOrder.POSITION
        unreadable = UNREADABLE_ROWS.report("subscription", subscription_id, error)
    subscription = Subscription(
        key, project_pk, subscription_id, name, *rules, ack_deadline, max_attempts, Backoff(*backoff), *row[11:]
    )
    return replace(subscription, unreadable=unreadable) if unreadable else subscription


class SubscriptionLocked(Exception):
    """Another transaction has locked the subscription."""


_by_key = select(*as_text(subscription_table)).where(_subscription.key == bindparam("own"))
_LOCK_ROW = select(_subscription.key).where(_subscription.key == bindparam("own")).with_for_update()
_LOCK = Prepared(_by_key.with_for_update())
_LOCK_FREE = Prepared(_by_key.with_for_update(skip_locked=True))
