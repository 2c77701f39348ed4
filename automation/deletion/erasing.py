"""The SQL that erases what runs and deliveries hold about a person.

Every function takes an open connection and neither begins nor ends a transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import bindparam, case, delete, func, select, union_all, update

from automation.bulk import DIALECTS, among, packed
from automation.runs import OPEN, RunStatus
from automation.subscriptions.delivery_rows import delete_rows
from automation.subscriptions.store import lock_row
from automation.subscriptions.tables import subscription, subscription_delivery, subscription_parked
from automation.tables import automation_match, hidden_from_planner, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection

REASON = "The contact was erased"
"""The reason of a run that an erasure cancelled."""

_run = run.c
_match = automation_match.c
_parked = subscription_parked.c


class ErasedRuns(NamedTuple):
    """The number of erased runs, and of those among them that were open."""

    runs: int = 0
    cancelled: int = 0


def runs_of_contact(connection: Connection, contact_key: int, after: int, limit: int) -> Sequence[int]:
    """Return the numbers of a contact's runs after a number, in their order."""
    query = select(_run.number).where(_run.contact_key == contact_key, _run.number > after)
    return connection.scalars(query.order_by(_run.number).limit(limit)).all()


def count_open_runs(connection: Connection, project_pk: int, numbers: Sequence[int]) -> int:
    """Return the number of runs that have not ended."""
    query = select(func.count()).where(_own_runs(connection), _run.status.in_([*OPEN]))
    return connection.scalar(query, _parameters(connection, project_pk, numbers)) or 0


def erase_runs(connection: Connection, project_pk: int, numbers: Sequence[int], head: int, now: int) -> ErasedRuns:
    """Cancel those of the runs that are open, and erase the data that engines have stored with the runs.

    `head` is the position of the newest event. The caller holds the lock of the project's head.
    """
    parameters = _parameters(connection, project_pk, numbers)
    # In one order: the steps of subscriptions change runs, too.
    locked = select(_run.status).where(_own_runs(connection)).order_by(_run.number).with_for_update()
    cancelled = sum(status in OPEN for status in connection.scalars(locked, parameters))
    is_open = _run.status.in_([*OPEN])
    at = case((_run.updated_at > now, _run.updated_at), else_=now)
    erased = {
        "reason": case((is_open, REASON), else_=""),
        "attributes": "{}",
        "wait_event": "",
        "wait_condition": "",
        "wait_from": 0,
        "timeout_at": 0,
        "version": _run.version + 1,
        "updated_at": at,
        "finished_at": case((is_open, at), else_=_run.finished_at),
        "finished_position": case((is_open, head), else_=_run.finished_position),
        "status": case((is_open, RunStatus.CANCELLED.value), else_=_run.status),
    }
    connection.execute(update(run).where(_own_runs(connection)).values(erased), parameters)
    return ErasedRuns(len(numbers), cancelled)


def _own_runs(connection: Connection) -> ColumnElement[bool]:
    return (_run.project_key == bindparam("project")) & among(_run.number, "numbers", connection.dialect.name)


def _parameters(connection: Connection, project_pk: int, numbers: Sequence[int]) -> dict[str, object]:
    return {"project": project_pk, "numbers": packed(connection, numbers)}


def deliveries_of_events(
    connection: Connection, project_pk: int, event_positions: Sequence[int]
) -> dict[int, list[int]]:
    """Return the positions of the matches of events that are being delivered or parked, by subscription."""
    parameters = {"project": project_pk, "events": packed(connection, event_positions)}
    found: dict[int, list[int]] = {}
    for subscription_key, position in connection.execute(_DELIVERIES[connection.dialect.name], parameters):
        found.setdefault(subscription_key, []).append(position)
    return found


def drop_deliveries(connection: Connection, project_pk: int, event_positions: Sequence[int]) -> int:
    """Drop the deliveries of the matches of events, whatever their state. Return their number.

    They count as settled: an acknowledgement that comes later is accepted, and a nack is stale, so that its reason is
    not stored. A match that is leased for the first time after this is settled when it is loaded.
    """
    dropped = 0
    for subscription_key, positions in sorted(deliveries_of_events(connection, project_pk, event_positions).items()):
        # Steps of other servers hold the lock while they change the same rows.
        if not lock_row(connection, subscription_key):
            continue
        delete_rows(connection, subscription_key, positions)
        parked = (_parked.subscription_key == subscription_key) & _parked.match_position.in_(positions)
        connection.execute(delete(subscription_parked).where(parked))
        dropped += len(positions)
    return dropped


_own = select(subscription.c.key).where(subscription.c.project_key == bindparam("project"))
_DELIVERIES = {
    dialect: union_all(
        *(
            select(table.c.subscription_key, table.c.match_position).where(
                table.c.subscription_key.in_(_own),
                table.c.match_position.in_(
                    select(_match.position).where(
                        hidden_from_planner(_match.project_key) == bindparam("project"),
                        among(_match.event_position, "events", dialect),
                    )
                ),
            )
            for table in (subscription_delivery, subscription_parked)
        )
    )
    for dialect in DIALECTS
}
