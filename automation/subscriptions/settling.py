"""Settling deliveries: acknowledge, nack (retry, park, skip), extend, return undelivered ones.

Settlements of one step are applied in order to rows in memory, and written at the end in a few statements, so that a
delivery which is extended and then acknowledged in one step costs one write. Where all of them acknowledge current
leases, their rows are deleted without being read. Leases that are not settled end in `expiry.py`.

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

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import text

from automation.bulk import packed_pairs, spans
from automation.prepared_statements import Prepared
from automation.subscriptions.delivery_rows import (
    Changes,
    DeliveryRow,
    delete_rows,
    delivery_rows_at,
    parked_among,
    write_changes,
)
from automation.subscriptions.store import LEASED, WAITING
from automation.subscriptions.values import (
    Ack,
    DeliveryOrder,
    Extend,
    Nack,
    NackAction,
    SettleOutcome,
    SettleResult,
    Undelivered,
    parse_delivery_ids,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from automation.subscriptions.values import Settlement, Subscription


def settle(
    connection: Connection,
    subscription: Subscription,
    settlements: Sequence[Settlement | Undelivered],
    now: int,
    freed: set[int],
) -> list[list[SettleResult]]:
    """Settle and extend deliveries, in the order given. Return a result for each delivery of each settlement.

    Contacts whose next match may be unblocked are added to `freed`.
    """
    if not settlements:
        return []
    leases = parse_delivery_ids(subscription, [name for settlement in settlements for name in settlement.delivery_ids])
    if all(isinstance(settlement, Ack) for settlement in settlements) and _end_all(
        connection, subscription, leases, freed
    ):
        return [
            [SettleResult(name, SettleOutcome.ACKNOWLEDGED) for name in settlement.delivery_ids]
            for settlement in settlements
        ]
    positions = sorted({lease[0] for lease in leases.values() if lease is not None})
    rows = delivery_rows_at(connection, subscription.key, positions)
    parked = parked_among(connection, subscription.key, [position for position in positions if position not in rows])
    settling = _Settling(subscription, leases, rows, parked, now)
    results = [[settling.apply(name, settlement) for name in settlement.delivery_ids] for settlement in settlements]
    freed |= write_changes(connection, subscription, settling.changes, now)
    return results


def _end_all(
    connection: Connection, subscription: Subscription, leases: Mapping[str, tuple[int, int] | None], freed: set[int]
) -> bool:
    """Settle these deliveries if each names a current lease. Return whether they are settled.

    On SQLite only: where reading the rows takes the interpreter from the event loop for each row.
    """
    named = sorted(lease for lease in leases.values() if lease is not None)
    if connection.dialect.name != "sqlite" or not named or len(named) < len(leases):
        return False
    if subscription.order is DeliveryOrder.POSITION and (found := spans(named)):
        # If this settles some deliveries but not all, the caller finds these settled when it looks at each.
        return sum(_END_SPAN.run(connection, own=subscription.key, **span._asdict()) for span in found) == len(named)
    count, contacts = _CURRENT.row(connection, own=subscription.key, **packed_pairs(connection, named))
    if count < len(named):
        return False
    delete_rows(connection, subscription.key, [position for position, _ in named])
    if subscription.order is DeliveryOrder.CONTACT:
        freed.update(contact for contact in msgspec.json.decode(contacts) if contact)
    return True


class _Settling:
    """Applies settlements to the rows of the deliveries that they name."""

    def __init__(
        self,
        subscription: Subscription,
        leases: Mapping[str, tuple[int, int] | None],
        rows: dict[int, DeliveryRow],
        parked: set[int],
        now: int,
    ) -> None:
        self.changes = Changes()
        self._subscription, self._leases, self._rows, self._parked, self._now = subscription, leases, rows, parked, now

    def apply(self, delivery_id: str, settlement: Settlement | Undelivered) -> SettleResult:
        """Settle or extend one delivery."""
        row = self._leased(delivery_id)
        if not isinstance(row, DeliveryRow):
            too_late = row is SettleOutcome.ACKNOWLEDGED and not isinstance(settlement, Ack)
            return SettleResult(delivery_id, SettleOutcome.STALE if too_late else row)
        if isinstance(settlement, Ack):
            return self._end(row, delivery_id, SettleOutcome.ACKNOWLEDGED)
        if isinstance(settlement, Extend):
            return self._extend(row, delivery_id, settlement)
        if isinstance(settlement, Undelivered):
            return self._return_undelivered(row, delivery_id)
        return self._nack(row, delivery_id, settlement)

    def _leased(self, delivery_id: str) -> DeliveryRow | SettleOutcome:
        """Return the row of a delivery, or the result of an acknowledgement if its lease is not the current one."""
        position, serial = self._leases[delivery_id] or (0, 0)
        if not serial:
            return SettleOutcome.UNKNOWN
        if serial <= self._subscription.seek_serial or position in self._parked:
            return SettleOutcome.STALE
        if position > self._subscription.read_position:
            return SettleOutcome.UNKNOWN
        row = self._rows.get(position)
        if row is None:
            return SettleOutcome.ACKNOWLEDGED
        return row if row.serial == serial and row.state == LEASED else SettleOutcome.STALE

    def _end(self, row: DeliveryRow, delivery_id: str, outcome: SettleOutcome) -> SettleResult:
        del self._rows[row.match_position]
        self.changes.settled.append(row)
        return SettleResult(delivery_id, outcome)

    def _extend(self, row: DeliveryRow, delivery_id: str, settlement: Extend) -> SettleResult:
        row.due_at = self._now + (
            self._subscription.ack_deadline if settlement.duration is None else settlement.duration
        )
        self.changes.changed[row.match_position] = row
        return SettleResult(delivery_id, SettleOutcome.EXTENDED, row.due_at)

    def _return_undelivered(self, row: DeliveryRow, delivery_id: str) -> SettleResult:
        # Due before everything else, in the order of positions.
        row.attempt -= 1
        row.state, row.due_at = WAITING, 0
        self.changes.changed[row.match_position] = row
        return SettleResult(delivery_id, SettleOutcome.RETRYING, row.due_at)

    def _nack(self, row: DeliveryRow, delivery_id: str, settlement: Nack) -> SettleResult:
        if settlement.action is NackAction.SKIP:
            return self._end(row, delivery_id, SettleOutcome.SKIPPED)
        row.last_failure = settlement.reason
        if settlement.action is NackAction.PARK:
            self.changes.parked.append((row, settlement.cause))
        else:
            delay = self._subscription.backoff.delay(row.attempt) if settlement.delay is None else settlement.delay
            self.changes.fail(self._subscription, row, self._now + delay)
        if row.state == WAITING:
            return SettleResult(delivery_id, SettleOutcome.RETRYING, row.due_at)
        del self._rows[row.match_position]
        self._parked.add(row.match_position)
        return SettleResult(delivery_id, SettleOutcome.PARKED)


# The number of leases that are current, and the contacts of their matches. SQLite reorders no CROSS JOIN: it would read
# all leases for each one that is named.
_CURRENT = Prepared(
    text(
        """
SELECT count(*), json_group_array(DISTINCT contact_key) FROM json_each(:pairs) AS named
CROSS JOIN subscription_delivery ON subscription_key = :own AND match_position = json_extract(named.value, '$[0]')
WHERE serial = json_extract(named.value, '$[1]') AND state = 'leased'
"""
    )
)
# With the plus, SQLite does not read all leases in the order of another index.
_END_SPAN = Prepared(
    text(
        """
DELETE FROM subscription_delivery WHERE subscription_key = :own AND match_position BETWEEN :first AND :last
AND serial = match_position + :offset AND +state = 'leased'
"""
    )
)
