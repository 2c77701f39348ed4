"""Settling deliveries and ending leases: acknowledge, nack (retry, park, skip), extend, expire, take over.

Every function works under the lock of the subscription's row (`store.lock_subscription`) and writes only the rows that
it changes. Settlements of one step are applied in order to rows in memory, and written at the end in a few statements,
so that a delivery which is extended and then acknowledged in one step costs one write.

    the delivery's id names          result of an acknowledgement
    no lease of the subscription     UNKNOWN
    a lease before the last seek     STALE: the seek ended it
    a parked match                   STALE
    a match without a row            ACKNOWLEDGED: it is settled already, so repeating an acknowledgement is harmless
    an older lease, or one ended     STALE: the match is delivered again
    the current lease                ACKNOWLEDGED

Where an acknowledgement of a settled match is ACKNOWLEDGED, a nack or an extension is STALE: it cannot be undone.
Times are microseconds UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import BigInteger, bindparam, case, delete, func, insert, literal_column, select, update

from automation.bulk import among, between, execute_many, packed
from automation.match_log import matches_at
from automation.subscriptions.store import BLOCKED, LEASED, WAITING
from automation.subscriptions.tables import subscription_delivery, subscription_parked
from automation.subscriptions.values import (
    LEASE_EXPIRED,
    Ack,
    Extend,
    Nack,
    NackAction,
    ParkingCause,
    SettleOutcome,
    SettleResult,
    Undelivered,
    parse_delivery_id,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Table

    from automation.subscriptions.values import Settlement, Subscription, TakeOver

EXPIRE_LIMIT: Final = 1_000
"""The most leases that expire in one step, so that its transaction stays short."""

_DENSE: Final = 4

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
class _Changes:
    """The rows to write at the end. A row may be changed first and settled later."""

    settled: list[DeliveryRow] = field(default_factory=list)
    parked: list[tuple[DeliveryRow, ParkingCause]] = field(default_factory=list)
    changed: dict[int, DeliveryRow] = field(default_factory=dict)


def settle(
    connection: Connection, current: Subscription, settlements: Sequence[Settlement | Undelivered], now: int
) -> list[list[SettleResult]]:
    """Settle and extend deliveries, in the order given. Return a result for each delivery of each settle."""
    if not settlements:
        return []
    named = {each: parse_delivery_id(current, each) for one in settlements for each in one.delivery_ids}
    positions = sorted({each[0] for each in named.values() if each is not None})
    rows = unsettled_at(connection, current.key, positions)
    parked = parked_among(connection, current.key, [each for each in positions if each not in rows])
    settling = _Settling(current, named, rows, parked, now)
    results = [[settling.apply(each, one) for each in one.delivery_ids] for one in settlements]
    _write(connection, current, settling.changes, now)
    return results


class _Settling:
    """Applies settlements to the rows of the deliveries that they name."""

    def __init__(
        self,
        current: Subscription,
        named: Mapping[str, tuple[int, int] | None],
        rows: dict[int, DeliveryRow],
        parked: set[int],
        now: int,
    ) -> None:
        self.changes = _Changes()
        self._current, self._named, self._rows, self._parked, self._now = current, named, rows, parked, now

    def apply(self, delivery_id: str, settle: Settlement | Undelivered) -> SettleResult:
        """Settle or extend one delivery."""
        row = self._leased(delivery_id)
        if not isinstance(row, DeliveryRow):
            again = row is SettleOutcome.ACKNOWLEDGED and not isinstance(settle, Ack)
            return SettleResult(delivery_id, SettleOutcome.STALE if again else row)
        if isinstance(settle, Ack):
            return self._end(row, delivery_id, SettleOutcome.ACKNOWLEDGED)
        if isinstance(settle, Extend):
            return self._extend(row, delivery_id, settle)
        if isinstance(settle, Undelivered):
            return self._take_back(row, delivery_id)
        return self._give_back(row, delivery_id, settle)

    def _leased(self, delivery_id: str) -> DeliveryRow | SettleOutcome:
        """Return the row of a delivery, or the result of an acknowledgement if its lease is not the current one."""
        position, serial = self._named[delivery_id] or (0, 0)
        if not serial:
            return SettleOutcome.UNKNOWN
        if serial <= self._current.seek_serial or position in self._parked:
            return SettleOutcome.STALE
        if position > self._current.read_position:
            return SettleOutcome.UNKNOWN
        row = self._rows.get(position)
        if row is None:
            return SettleOutcome.ACKNOWLEDGED
        return row if row.serial == serial and row.state == LEASED else SettleOutcome.STALE

    def _end(self, row: DeliveryRow, delivery_id: str, outcome: SettleOutcome) -> SettleResult:
        del self._rows[row.match_position]
        self.changes.settled.append(row)
        return SettleResult(delivery_id, outcome)

    def _extend(self, row: DeliveryRow, delivery_id: str, settle: Extend) -> SettleResult:
        row.due_at = self._now + (self._current.ack_deadline if settle.duration is None else settle.duration)
        self.changes.changed[row.match_position] = row
        return SettleResult(delivery_id, SettleOutcome.EXTENDED, row.due_at)

    def _take_back(self, row: DeliveryRow, delivery_id: str) -> SettleResult:
        # Due before everything else, in the order of positions.
        row.attempt -= 1
        row.state, row.due_at = WAITING, 0
        self.changes.changed[row.match_position] = row
        return SettleResult(delivery_id, SettleOutcome.RETRYING, row.due_at)

    def _give_back(self, row: DeliveryRow, delivery_id: str, settle: Nack) -> SettleResult:
        if settle.action is NackAction.SKIP:
            return self._end(row, delivery_id, SettleOutcome.SKIPPED)
        row.last_failure = settle.reason
        if settle.action is NackAction.PARK:
            self.changes.parked.append((row, settle.cause))
        else:
            delay = self._current.backoff.delay(row.attempt) if settle.delay is None else settle.delay
            _fail(self._current, row, self._now + delay, self.changes)
        if row.state == WAITING:
            return SettleResult(delivery_id, SettleOutcome.RETRYING, row.due_at)
        del self._rows[row.match_position]
        self._parked.add(row.match_position)
        return SettleResult(delivery_id, SettleOutcome.PARKED)


def expire(connection: Connection, current: Subscription, now: int, since: int = 0) -> tuple[bool, int]:
    """Expire the leases that end from `since` on, up to and including `now`.

    Return whether there may be more of them, and when the first of their matches is due again (0: none).
    """
    query = select(subscription_delivery).where(
        _delivery.subscription_key == current.key,
        _delivery.state == LEASED,
        _delivery.due_at >= since,
        _delivery.due_at <= now,
    )
    rows = [to_unsettled(row) for row in connection.execute(query.order_by(_delivery.due_at).limit(EXPIRE_LIMIT))]
    changes = _Changes()
    for row in rows:
        row.last_failure = LEASE_EXPIRED
        _fail(current, row, now + current.backoff.delay(row.attempt), changes)
    _write(connection, current, changes, now)
    return len(rows) == EXPIRE_LIMIT, min((row.due_at for row in changes.changed.values()), default=0)


def take_over(connection: Connection, current: Subscription, wanted: TakeOver, now: int) -> list[str]:
    """End the leases of a consumer, except those that it holds. Return the ids of the deliveries that it keeps."""
    query = select(subscription_delivery).where(
        _delivery.subscription_key == current.key,
        _delivery.consumer_id == wanted.consumer_id,
        _delivery.state == LEASED,
    )
    rows = {row.match_position: to_unsettled(row) for row in connection.execute(query)}
    kept = []
    for each in dict.fromkeys(wanted.held_delivery_ids):
        position, serial = parse_delivery_id(current, each) or (0, 0)
        if position in rows and rows[position].serial == serial:
            del rows[position]
            kept.append(each)
    changes = _Changes()
    for row in rows.values():
        row.last_failure = LEASE_EXPIRED
        _fail(current, row, now, changes)
    _write(connection, current, changes, now)
    return kept


def unsettled_at(connection: Connection, subscription_key: int, positions: Sequence[int]) -> dict[int, DeliveryRow]:
    """Return the rows at positions."""
    if not positions:
        return {}
    statements = _READ_DENSE if _dense(positions) else _READ
    rows = connection.execute(statements[connection.dialect.name], _among(connection, subscription_key, positions))
    return {row[1]: to_unsettled(row) for row in rows}


def parked_among(connection: Connection, subscription_key: int, positions: Sequence[int]) -> set[int]:
    """Return the positions of parked matches."""
    if not positions:
        return set()
    parameters = _among(connection, subscription_key, positions)
    return set(connection.scalars(_READ_PARKED[connection.dialect.name], parameters))


def to_unsettled(row: Any) -> DeliveryRow:
    """Convert a row of the database."""
    return DeliveryRow(*row)


def _fail(current: Subscription, row: DeliveryRow, due_at: int, changes: _Changes) -> None:
    """End a lease whose attempt failed: the match waits for its retry, or is parked after its last attempt."""
    if row.attempt >= current.max_attempts:
        changes.parked.append((row, ParkingCause.ATTEMPTS_EXHAUSTED))
        return
    row.state, row.due_at = WAITING, due_at
    changes.changed[row.match_position] = row


def _write(connection: Connection, current: Subscription, changes: _Changes, now: int) -> None:
    gone = [*changes.settled, *(row for row, _ in changes.parked)]
    if gone:
        positions = [row.match_position for row in gone]
        statements = _DELETE_DENSE if _dense(positions) else _DELETE
        connection.execute(statements[connection.dialect.name], _among(connection, current.key, positions))
    if changes.parked:
        _insert_parked(connection, current, changes.parked, now)
    if changes.changed:
        rows = [
            {
                "own": current.key,
                "at": row.match_position,
                "to": row.state,
                "times": row.attempt,
                "due": row.due_at,
                "why": row.last_failure,
            }
            for row in changes.changed.values()
        ]
        execute_many(connection, _CHANGE, rows)
    if freed := {row.contact_key for row in gone if row.contact_key}:
        execute_many(connection, _UNBLOCK, [{"own": current.key, "contact": each, "now": now} for each in freed])
    waiting = [row for row in changes.changed.values() if row.contact_key and row.state == WAITING]
    if waiting:
        execute_many(
            connection,
            _BLOCK,
            [{"own": current.key, "at": row.match_position, "contact": row.contact_key} for row in waiting],
        )


def _insert_parked(
    connection: Connection, current: Subscription, parked: Sequence[tuple[DeliveryRow, ParkingCause]], now: int
) -> None:
    matches = matches_at(connection, current.project_pk, [row.match_position for row, _ in parked])
    rows = [
        {
            "subscription_key": current.key,
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
    """Return whether reading the range of the positions costs less than looking up each of them."""
    return max(positions) - min(positions) <= _DENSE * len(positions)


def _at(table: Table, dialect: str) -> ColumnElement[bool]:
    own: ColumnElement[bool] = table.c.subscription_key == bindparam("own")
    return own & among(table.c.match_position, "positions", dialect)


_DIALECTS = ("sqlite", "postgresql")
_first, _last = bindparam("first", type_=BigInteger), bindparam("last", type_=BigInteger)
_within = between(_delivery.match_position, _first, _last)
_READ = {each: select(subscription_delivery).where(_at(subscription_delivery, each)) for each in _DIALECTS}
_READ_DENSE = {each: _READ[each].where(_within) for each in _DIALECTS}
_READ_PARKED = {each: select(_parked.match_position).where(_at(subscription_parked, each)) for each in _DIALECTS}
_DELETE = {each: delete(subscription_delivery).where(_at(subscription_delivery, each)) for each in _DIALECTS}
_DELETE_DENSE = {each: _DELETE[each].where(_within) for each in _DIALECTS}
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
# The earliest match of a contact never stays blocked. It is due now, after everything that was due before.
_UNBLOCK = (
    update(subscription_delivery)
    .where(
        _delivery.subscription_key == bindparam("own"),
        _delivery.match_position == _FIRST_OF_CONTACT,
        _delivery.state == BLOCKED,
    )
    .values(
        state=WAITING,
        due_at=case((_delivery.due_at < bindparam("now"), bindparam("now")), else_=_delivery.due_at),
    )
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
