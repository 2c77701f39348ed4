"""How far each subscription lags, and what it owes: of all of them, in one query whose time does not grow with the log.

Ends of the log are found by its primary key, and rows are counted by indexes, up to COUNTED of each kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import and_, func, or_, select

from automation.subscriptions.store import LEASED
from automation.subscriptions.tables import subscription, subscription_delivery, subscription_parked
from automation.tables import automation_match

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Select

COUNTED: Final = 10_000
"""Rows are counted up to this number: a subscription may have parked millions."""


class Backlog(NamedTuple):
    """The backlog of a subscription. `oldest_matched_at` is the time of the first match after its floor, or 0."""

    key: int
    project_pk: int
    name: str
    floor_position: int
    head_position: int
    oldest_matched_at: int
    outstanding: int
    retrying: int
    parked: int


def backlogs(connection: Connection) -> Sequence[Backlog]:
    """Return the backlogs of all subscriptions, in the order in which they were created."""
    return [Backlog(*row) for row in connection.execute(_BACKLOGS)]


def _backlogs() -> Select[Any]:
    match, delivery, parked = automation_match.c, subscription_delivery.c, subscription_parked.c
    of_project = match.project_key == subscription.c.project_key
    newest = select(match.position).where(of_project).order_by(match.position.desc()).limit(1)
    oldest = select(match.matched_at).where(of_project, match.position > subscription.c.floor_position)
    own = delivery.subscription_key == subscription.c.key
    retrying = and_(delivery.state != LEASED, or_(delivery.attempt > 0, delivery.replayed))
    return select(
        subscription.c.key,
        subscription.c.project_key,
        subscription.c.name,
        subscription.c.floor_position,
        func.coalesce(newest.scalar_subquery(), subscription.c.floor_position),
        func.coalesce(oldest.order_by(match.position).limit(1).scalar_subquery(), 0),
        _count(subscription_delivery, own & (delivery.state == LEASED)),
        _count(subscription_delivery, own & retrying),
        _count(subscription_parked, parked.subscription_key == subscription.c.key),
    ).order_by(subscription.c.key)


def _count(table: Any, condition: ColumnElement[bool]) -> ColumnElement[int]:
    rows = select(table.c.match_position).where(condition).correlate(subscription).limit(COUNTED).subquery()
    return select(func.count()).select_from(rows).scalar_subquery()


_BACKLOGS = _backlogs()
