"""Reading and writing parked matches, which a subscription has put aside: their SQL.

A writer locks the row of the subscription, as in `automation.subscriptions.store`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, exists, false, func, insert, literal, select, tuple_, update

from automation.match_log import matches_at
from automation.subscriptions.store import BLOCKED, WAITING, lock_subscription
from automation.subscriptions.tables import subscription_delivery, subscription_parked
from automation.subscriptions.values import (
    DeliveryOrder,
    ParkedMatch,
    ParkedSelection,
    ParkingCause,
    Subscription,
)
from automation.tables import automation
from registry.log_ids import position_of
from registry.sql.bounded_pages import EXAMINED_ROWS

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

_delivery = subscription_delivery.c
_parked = subscription_parked.c
_PARKED_PLACE = tuple_(_parked.parked_at, _parked.match_position)


def list_parked(
    connection: Connection,
    subscription: Subscription,
    selection: ParkedSelection,
    limit: int,
    before: tuple[int, int] | None = None,
    last_examined: tuple[int, int] | None = None,
) -> list[ParkedMatch]:
    """List parked matches, the last parked first, after a (parked_at, position) up to `last_examined`."""
    query = select(subscription_parked).where(_selected(connection, subscription, selection))
    if before is not None:
        query = query.where(before > _PARKED_PLACE)
    if last_examined is not None:
        query = query.where(last_examined <= _PARKED_PLACE)
    query = query.order_by(_parked.parked_at.desc(), _parked.match_position.desc()).limit(limit)
    rows = connection.execute(query).all()
    matches = matches_at(connection, subscription.project_pk, [row.match_position for row in rows])
    return [
        ParkedMatch(
            matches[row.match_position],
            ParkingCause(row.cause),
            row.attempt_count,
            row.last_failure,
            row.consumer_id,
            row.parked_at,
        )
        for row in rows
    ]


def last_examined_position(
    connection: Connection, subscription: Subscription, selection: ParkedSelection, before: tuple[int, int] | None
) -> tuple[int, int] | None:
    """Return the last (parked_at, position) that a page after `before` may examine; None if it may examine all.

    Only automations have no index.
    """
    if not selection.automation_id:
        return None
    query = select(_parked.parked_at, _parked.match_position).where(_parked.subscription_key == subscription.key)
    if selection.parked_until is not None:
        query = query.where(_parked.parked_at < selection.parked_until)
    if before is not None:
        query = query.where(before > _PARKED_PLACE)
    query = query.order_by(_parked.parked_at.desc(), _parked.match_position.desc())
    row = connection.execute(query.limit(1).offset(EXAMINED_ROWS - 1)).one_or_none()
    return None if row is None else (row.parked_at, row.match_position)


def count_parked(connection: Connection, subscription: Subscription, selection: ParkedSelection) -> int:
    """Count the selected parked matches."""
    query = select(func.count()).select_from(subscription_parked)
    return connection.scalar(query.where(_selected(connection, subscription, selection))) or 0


def replay_parked(connection: Connection, subscription_key: int, selection: ParkedSelection, now: int) -> int:
    """Deliver parked matches again; return their number. Raise SubscriptionNotFound.

    A parked match after the read position, to which a seek went back, is delivered when it is read.
    """
    subscription = lock_subscription(connection, subscription_key)
    selected = _selected(connection, subscription, selection)
    again = {
        "subscription_key": _parked.subscription_key,
        "match_position": _parked.match_position,
        "state": literal(WAITING),
        "serial": literal(0),
        "attempt": literal(0),
        "consumer_id": literal(""),
        "due_at": literal(now, _delivery.due_at.type),
        "contact_key": _parked.contact_key,
        "replayed": literal(True),
        "last_failure": literal(""),
    }
    query = select(*again.values()).where(selected, _parked.match_position <= subscription.read_position)
    connection.execute(insert(subscription_delivery).from_select(list(again), query))
    if subscription.order is DeliveryOrder.CONTACT:
        _block_all(connection, subscription.key)
    return connection.execute(delete(subscription_parked).where(selected)).rowcount


def discard_parked(connection: Connection, subscription_key: int, selection: ParkedSelection) -> int:
    """Discard parked matches for good; return their number. Raise SubscriptionNotFound."""
    subscription = lock_subscription(connection, subscription_key)
    return connection.execute(
        delete(subscription_parked).where(_selected(connection, subscription, selection))
    ).rowcount


def _selected(connection: Connection, subscription: Subscription, selection: ParkedSelection) -> ColumnElement[bool]:
    """Return the condition of a selection; without filters, nothing is selected unless `all` is set."""
    filters: list[ColumnElement[bool]] = []
    if selection.match_ids:
        match_ids = set(selection.match_ids)
        positions = [position for match_id in match_ids if (position := position_of(match_id)) is not None]
        matches = matches_at(connection, subscription.project_pk, positions).values()
        filters.append(_parked.match_position.in_({match.position for match in matches if match.id in match_ids}))
    if selection.automation_id:
        named = select(automation.c.key).where(
            automation.c.project_key == subscription.project_pk, automation.c.id == selection.automation_id
        )
        filters.append(_parked.automation_key.in_(named))
    if selection.parked_until is not None:
        filters.append(_parked.parked_at < selection.parked_until)
    if not filters and not selection.all:
        return false()
    return and_(_parked.subscription_key == subscription.key, *filters)


def _block_all(connection: Connection, subscription_key: int) -> None:
    """Block waiting matches that have an unsettled earlier match of their contact."""
    earlier = subscription_delivery.alias()
    has_earlier = exists().where(
        earlier.c.subscription_key == subscription_key,
        earlier.c.contact_key == _delivery.contact_key,
        earlier.c.match_position < _delivery.match_position,
    )
    waiting = and_(_delivery.subscription_key == subscription_key, _delivery.state == WAITING)
    connection.execute(
        update(subscription_delivery).where(waiting, _delivery.contact_key > 0, has_earlier).values(state=BLOCKED)
    )
