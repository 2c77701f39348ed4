"""Ending leases that were not settled: those that have expired, and those of a consumer that returns or leaves.

Either is a failed attempt, so the number of deliveries stays bounded even for a match that crashes its consumers. An
expired match is due after the backoff of the subscription, a match that was taken over at once; after its last attempt
it is parked. Every function works under the lock of the subscription's row (`store.lock_subscription`). Times are
microseconds UTC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, select

from automation.prepared_statements import Prepared
from automation.subscriptions.delivery_rows import Changes, to_delivery_row, write_changes
from automation.subscriptions.store import LEASED
from automation.subscriptions.tables import subscription_delivery
from automation.subscriptions.values import LEASE_EXPIRED, parse_delivery_ids

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from automation.subscriptions.values import Subscription, TakeOver

EXPIRE_LIMIT: Final = 1_000
"""The most leases that expire in one step, so that its transaction stays short."""

_delivery = subscription_delivery.c


def expire(
    connection: Connection, subscription: Subscription, now: int, freed: set[int], since: int = 0
) -> tuple[bool, int]:
    """Expire the leases that end from `since` on, up to and including `now`.

    Return whether there may be more of them, and when the first of their matches is due again (0: none). Contacts whose
    next match may be unblocked are added to `freed`.
    """
    found = _EXPIRED.rows(connection, own=subscription.key, since=since, now=now, limit=EXPIRE_LIMIT)
    rows = [to_delivery_row(row) for row in found]
    changes = Changes()
    for row in rows:
        row.last_failure = LEASE_EXPIRED
        changes.fail(subscription, row, now + subscription.backoff.delay(row.attempt))
    freed |= write_changes(connection, subscription, changes, now)
    return len(rows) == EXPIRE_LIMIT, min((row.due_at for row in changes.changed.values()), default=0)


def take_over(
    connection: Connection, subscription: Subscription, request: TakeOver, now: int, freed: set[int]
) -> list[str]:
    """End the leases of a consumer, as the request says. Return the ids of the deliveries that it keeps.

    Contacts whose next match may be unblocked are added to `freed`.
    """
    query = select(subscription_delivery).where(
        _delivery.subscription_key == subscription.key,
        _delivery.consumer_id == request.consumer_id,
        _delivery.state == LEASED,
    )
    newest = request.newest_serial
    found = map(to_delivery_row, connection.execute(query))
    rows = {row.match_position: row for row in found if newest is None or row.serial <= newest}
    kept = []
    for delivery_id, lease in parse_delivery_ids(subscription, request.held_delivery_ids).items():
        position, serial = lease or (0, 0)
        if position in rows and rows[position].serial == serial:
            del rows[position]
            kept.append(delivery_id)
    changes = Changes()
    for row in rows.values():
        row.last_failure = LEASE_EXPIRED
        changes.fail(subscription, row, now)
    freed |= write_changes(connection, subscription, changes, now)
    return kept


_EXPIRED = Prepared(
    select(subscription_delivery)
    .where(
        _delivery.subscription_key == bindparam("own"),
        _delivery.state == LEASED,
        _delivery.due_at >= bindparam("since"),
        _delivery.due_at <= bindparam("now"),
    )
    .order_by(_delivery.due_at)
    .limit(bindparam("limit"))
)
