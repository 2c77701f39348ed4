"""The statements that write leases into `subscription_delivery`, for many matches at once."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from sqlalchemy import text

from automation.bulk import packed, packed_pairs, spans
from automation.prepared_statements import Prepared
from automation.subscriptions.store import BLOCKED, LEASED
from automation.subscriptions.tables import subscription_delivery
from automation.subscriptions.values import DeliveryOrder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from automation.matches import Match
    from automation.subscriptions.values import Delivery, Subscription

_delivery = subscription_delivery.c


def lease_first(
    connection: Connection, subscription: Subscription, shares: Sequence[Sequence[Delivery]], serial: int
) -> None:
    """Write first deliveries, in one statement for each consumer; the leases are numbered from `serial` on."""
    for deliveries in shares:
        if deliveries:
            matches = [delivery.match for delivery in deliveries]
            lease = deliveries[0]
            _insert(connection, subscription, matches, LEASED, serial, 1, lease.consumer_id, lease.lease_expires_at)
            serial += len(deliveries)


def block(connection: Connection, subscription: Subscription, matches: Sequence[Match]) -> None:
    """Write matches that wait for an earlier one of their contact."""
    if matches:
        _insert(connection, subscription, matches, BLOCKED, 0, 0, "", 0)


def lease_again(connection: Connection, subscription: Subscription, shares: Sequence[Sequence[Delivery]]) -> None:
    """Write the leases of matches that were delivered before; they are numbered on from the last serial."""
    serial = subscription.last_serial + 1
    for deliveries in shares:
        if deliveries:
            _LEASE_AGAIN.run(
                connection,
                own=subscription.key,
                serial=serial,
                consumer=deliveries[0].consumer_id,
                due=deliveries[0].lease_expires_at,
                positions=packed(connection, [delivery.match.position for delivery in deliveries]),
            )
            serial += len(deliveries)


def unpark(connection: Connection, subscription: Subscription, positions: Sequence[int]) -> None:
    """Delete parked matches that are delivered because a seek went back to before them."""
    if positions and subscription.seek_serial:
        _UNPARK.run(
            connection,
            own=subscription.key,
            low=min(positions),
            high=max(positions),
            positions=packed(connection, positions),
        )


def _insert(
    connection: Connection,
    subscription: Subscription,
    matches: Sequence[Match],
    state: str,
    serial: int,
    attempt: int,
    consumer_id: str,
    due_at: int,
) -> None:
    """Insert rows whose leases are numbered from `serial` on, unless that is 0."""
    common = {"own": subscription.key, "state": state, "attempt": attempt, "consumer": consumer_id, "due": due_at}
    by_contact = subscription.order is DeliveryOrder.CONTACT
    alike = connection.dialect.name == "sqlite" and serial and not by_contact
    if alike and (found := spans(zip([match.position for match in matches], count(serial), strict=False))):
        for span in found:
            _INSERT_SPAN.run(connection, project=subscription.project_pk, **common, **span._asdict())
        return
    pairs = [(match.position, match.contact_key if by_contact else 0) for match in matches]
    step = 1 if serial else 0
    _INSERT.run(connection, serial=serial, step=step, **common, **packed_pairs(connection, pairs))


_INSERT = Prepared(
    text(
        """
INSERT INTO subscription_delivery (subscription_key, match_position, state, serial, attempt, consumer_id, due_at,
                                   contact_key, replayed, last_failure)
SELECT :own, json_extract(value, '$[0]'), :state, :serial + :step * key, :attempt, :consumer, :due,
       json_extract(value, '$[1]'), 0, '' FROM json_each(:pairs)
"""
    ),
    text(
        """
INSERT INTO subscription_delivery (subscription_key, match_position, state, serial, attempt, consumer_id, due_at,
                                   contact_key, replayed, last_failure)
SELECT CAST(:own AS bigint), at, CAST(:state AS text),
       CAST(:serial AS bigint) + CAST(:step AS bigint) * (number - 1), CAST(:attempt AS integer),
       CAST(:consumer AS text), CAST(:due AS bigint), contact, false, ''
FROM unnest(CAST(:first AS bigint[]), CAST(:second AS bigint[])) WITH ORDINALITY AS rows (at, contact, number)
"""
    ),
)
_INSERT_SPAN = Prepared(
    text(
        """
INSERT INTO subscription_delivery (subscription_key, match_position, state, serial, attempt, consumer_id, due_at,
                                   contact_key, replayed, last_failure)
SELECT :own, position, :state, position + :offset, :attempt, :consumer, :due, 0, 0, ''
FROM automation_match WHERE project_key = :project AND position BETWEEN :first AND :last
"""
    )
)
# SQLite reads a list that an UPDATE names once for each of its rows, or all rows of the table; so the rows are inserted
# and found to exist.
_LEASE_AGAIN = Prepared(
    text(
        """
INSERT INTO subscription_delivery (subscription_key, match_position, state, serial, attempt, consumer_id, due_at,
                                   contact_key, replayed, last_failure)
SELECT :own, value, 'leased', :serial + key, 1, :consumer, :due, 0, 0, '' FROM json_each(:positions) WHERE true
ON CONFLICT (subscription_key, match_position)
DO UPDATE SET state = excluded.state, serial = excluded.serial, attempt = attempt + 1,
              consumer_id = excluded.consumer_id, due_at = excluded.due_at
"""
    ),
    text(
        """
UPDATE subscription_delivery AS delivery
SET state = 'leased', serial = CAST(:serial AS bigint) + number - 1, attempt = attempt + 1,
    consumer_id = CAST(:consumer AS text), due_at = CAST(:due AS bigint)
FROM unnest(CAST(:positions AS bigint[])) WITH ORDINALITY AS rows (at, number)
WHERE delivery.subscription_key = CAST(:own AS bigint) AND delivery.match_position = at
"""
    ),
)
_UNPARK = Prepared(
    text(
        """
DELETE FROM subscription_parked WHERE subscription_key = :own AND match_position BETWEEN :low AND :high
AND match_position IN (SELECT value FROM json_each(:positions))
"""
    ),
    text(
        """
DELETE FROM subscription_parked WHERE subscription_key = :own AND match_position BETWEEN :low AND :high
AND match_position = ANY (CAST(:positions AS bigint[]))
"""
    ),
)
