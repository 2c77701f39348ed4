"""The rows of `subscription_delivery` in memory, and the statements that write their changes.

A step reads the rows that it settles or expires, changes them, and writes all changes at the end in a few statements.
Every function works under the lock of the subscription's row (`store.lock_subscription`). Times are microseconds UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import BigInteger, bindparam, delete, func, insert, literal_column, select, text, update

from automation.bulk import DIALECTS, among, between, execute_many, packed
from automation.match_log import matches_at
from automation.prepared_statements import Prepared
from automation.subscriptions.store import BLOCKED, WAITING
from automation.subscriptions.tables import subscription_delivery, subscription_parked
from automation.subscriptions.values import ParkingCause

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Connection, Table

    from automation.subscriptions.values import Subscription

_DENSE: Final = 4
"""A range of positions is dense if it is at most this many times as long as the number of its positions."""

_delivery = subscription_delivery.c
_parked = subscription_parked.c


class DeliveryRow(msgspec.Struct):
    """A row of `subscription_delivery`, by the names of its columns."""

    subscription_key: int
    match_position: int
    state: str
    serial: int
    attempt: int
    consumer_id: str
    due_at: int
    contact_key: int
    replayed: bool
    last_failure: str


@dataclass(slots=True)
class Changes:
    """The rows to write at the end of a settlement or expiry. A row may be changed first and settled later."""

    settled: list[DeliveryRow] = field(default_factory=list)
    parked: list[tuple[DeliveryRow, ParkingCause]] = field(default_factory=list)
    changed: dict[int, DeliveryRow] = field(default_factory=dict)

    def fail(self, subscription: Subscription, row: DeliveryRow, due_at: int) -> None:
        """End a lease whose attempt failed: the match waits for its retry, or is parked after its last attempt."""
        if row.attempt >= subscription.max_attempts:
            self.parked.append((row, ParkingCause.ATTEMPTS_EXHAUSTED))
            return
        row.state, row.due_at = WAITING, due_at
        self.changed[row.match_position] = row


def delivery_rows_at(connection: Connection, subscription_key: int, positions: Sequence[int]) -> dict[int, DeliveryRow]:
    """Return the rows at positions, by position."""
    if not positions:
        return {}
    statement = _READ_DENSE if _dense(positions) else _READ
    rows = statement.rows(connection, **_among(connection, subscription_key, positions))
    return {row[1]: to_delivery_row(row) for row in rows}


def delete_rows(connection: Connection, subscription_key: int, positions: Sequence[int]) -> None:
    """Delete the rows at positions."""
    statement = _DELETE_DENSE if _dense(positions) else _DELETE
    statement.run(connection, **_among(connection, subscription_key, positions))


def parked_among(connection: Connection, subscription_key: int, positions: Sequence[int]) -> set[int]:
    """Return the positions of parked matches."""
    if not positions:
        return set()
    return {row[0] for row in _READ_PARKED.rows(connection, **_among(connection, subscription_key, positions))}


def to_delivery_row(row: Any) -> DeliveryRow:
    """Convert a row of the database."""
    return DeliveryRow(*row)


def write_changes(connection: Connection, subscription: Subscription, changes: Changes, now: int) -> set[int]:
    """Write the changes of rows. Return the contacts whose next match may be unblocked (`unblocked_rows`)."""
    gone = [*changes.settled, *(row for row, _ in changes.parked)]
    if gone:
        delete_rows(connection, subscription.key, [row.match_position for row in gone])
    if changes.parked:
        _insert_parked(connection, subscription, changes.parked, now)
    if changes.changed:
        rows = [
            {
                "own": subscription.key,
                "at": row.match_position,
                "to": row.state,
                "times": row.attempt,
                "due": row.due_at,
                "why": row.last_failure,
            }
            for row in changes.changed.values()
        ]
        execute_many(connection, _CHANGE, rows)
    waiting = [row for row in changes.changed.values() if row.contact_key and row.state == WAITING]
    if waiting:
        execute_many(
            connection,
            _BLOCK,
            [{"own": subscription.key, "at": row.match_position, "contact": row.contact_key} for row in waiting],
        )
    return {row.contact_key for row in gone if row.contact_key}


def unblocked_rows(connection: Connection, subscription_key: int, contact_keys: Iterable[int]) -> list[DeliveryRow]:
    """Return the rows that are still stored as blocked although they are the earliest of their contacts.

    They have to be leased or made due before the transaction ends.
    """
    rows = _UNBLOCKED.rows(connection, own=subscription_key, contacts=packed(connection, [*contact_keys]))
    return [to_delivery_row(row) for row in rows]


def make_due(connection: Connection, subscription_key: int, rows: Iterable[DeliveryRow]) -> None:
    """Let unblocked matches wait for their next delivery, until the times of these rows."""
    execute_many(
        connection, _MAKE_DUE, [{"own": subscription_key, "at": row.match_position, "due": row.due_at} for row in rows]
    )


def _insert_parked(
    connection: Connection, subscription: Subscription, parked: Sequence[tuple[DeliveryRow, ParkingCause]], now: int
) -> None:
    matches = matches_at(connection, subscription.project_pk, [row.match_position for row, _ in parked])
    rows = [
        {
            "subscription_key": subscription.key,
            "match_position": row.match_position,
            "automation_key": matches[row.match_position].automation_key,
            "contact_key": row.contact_key,
            "cause": cause,
            "attempt_count": row.attempt,
            "last_failure": row.last_failure,
            "consumer_id": row.consumer_id,
            "parked_at": now,
        }
        for row, cause in parked
    ]
    execute_many(connection, _PARK, rows)


def _among(connection: Connection, subscription_key: int, positions: Sequence[int]) -> dict[str, Any]:
    """Return the parameters of the statements about rows at positions."""
    bounds = {"first": min(positions), "last": max(positions)}
    return {"own": subscription_key, "positions": packed(connection, positions), **bounds}


def _dense(positions: Sequence[int]) -> bool:
    """Return whether reading the whole range of the positions costs less than looking up every position."""
    return max(positions) - min(positions) <= _DENSE * len(positions)


def _at(table: Table, dialect: str) -> ColumnElement[bool]:
    own: ColumnElement[bool] = table.c.subscription_key == bindparam("own")
    return own & among(table.c.match_position, "positions", dialect)


_first, _last = bindparam("first", type_=BigInteger), bindparam("last", type_=BigInteger)
_within = between(_delivery.match_position, _first, _last)
_reads = [select(subscription_delivery).where(_at(subscription_delivery, dialect)) for dialect in DIALECTS]
_READ, _READ_DENSE = Prepared(*_reads), Prepared(*(read.where(_within) for read in _reads))
_READ_PARKED = Prepared(
    *(select(_parked.match_position).where(_at(subscription_parked, dialect)) for dialect in DIALECTS)
)
_deletes = [delete(subscription_delivery).where(_at(subscription_delivery, dialect)) for dialect in DIALECTS]
_DELETE, _DELETE_DENSE = Prepared(*_deletes), Prepared(*(statement.where(_within) for statement in _deletes))
_PARK = insert(subscription_parked)
_other = subscription_delivery.alias("other")
_FIRST_OF_CONTACT = (
    select(func.min(_other.c.match_position))
    .where(
        _other.c.subscription_key == bindparam("own"),
        _other.c.contact_key == bindparam("contact"),
        _other.c.contact_key != literal_column("0"),
    )
    .scalar_subquery()
)
_CHANGE = (
    update(subscription_delivery)
    .where(_delivery.subscription_key == bindparam("own"), _delivery.match_position == bindparam("at"))
    .values(state=bindparam("to"), attempt=bindparam("times"), due_at=bindparam("due"), last_failure=bindparam("why"))
)
_FIRSTS = """(SELECT min(match_position) FROM subscription_delivery
WHERE subscription_key = :own AND contact_key != 0 AND contact_key {among} GROUP BY contact_key)"""
_COLUMNS = ", ".join(column.name for column in subscription_delivery.columns)
_UNBLOCKED = Prepared(
    # With the plus, SQLite does not read all blocked rows.
    text(
        f"""
SELECT {_COLUMNS} FROM subscription_delivery WHERE subscription_key = :own AND +state = '{BLOCKED}'
AND match_position IN {_FIRSTS.format(among="IN (SELECT value FROM json_each(:contacts))")}
"""  # noqa: S608 - our own words
    ),
    text(
        f"""
SELECT {_COLUMNS} FROM subscription_delivery WHERE subscription_key = :own AND state = '{BLOCKED}'
AND match_position IN {_FIRSTS.format(among="= ANY (CAST(:contacts AS bigint[]))")}
"""  # noqa: S608 - as above
    ),
)
_MAKE_DUE = (
    update(subscription_delivery)
    .where(_delivery.subscription_key == bindparam("own"), _delivery.match_position == bindparam("at"))
    .values(state=WAITING, due_at=bindparam("due"))
)
# After a replay of an earlier one of its contact, a match that failed waits for that one.
_BLOCK = (
    update(subscription_delivery)
    .where(
        _delivery.subscription_key == bindparam("own"),
        _delivery.match_position == bindparam("at"),
        _delivery.match_position > _FIRST_OF_CONTACT,
    )
    .values(state=BLOCKED)
)
