"""The step that advances a subscription: settle deliveries, expire leases, lease the next matches.

    lock the row     store.lock_subscription
    read the clock   only now, see the invariants
    settle           settling.settle             acknowledge, nack, extend, return undelivered ones
    take over        expiry.take_over            end the leases of consumers that return or leave
    expire           expiry.expire               end the leases whose time is up
    lease            this module                 due retries and unblocked matches first, then matches of the log

Fast path: a step that writes no due time but its own new leases (only acknowledgements, no takeover, no other node)
searches for no due lease or retry while the last step knows that there is none yet (`DueSearch.skipped`).

One step serves all consumers that wait on one subscription, in one transaction under the lock of its row. Everything is
decided by the tables, so it does not matter which node takes the step, or which was killed before.

A match has a row in `subscription_delivery` from its first delivery until it is settled or parked:

    state      means                                 `due_at`            leaves it by
    (no row)   after the read position: not read yet                     its first lease, or being read after an
                                                                         unsettled match of its contact (blocked)
    leased     delivered to a consumer               the lease expires   ack, skip (settled), nack, expiry, takeover
    waiting    to be delivered again                 it may be leased    the next lease
    blocked    an earlier match of its contact is    its own retry, 0    the settlement or parking of that match:
               not settled; only in CONTACT order    if none             leased in the same step, else waiting
    (no row)   settled; or parked, with a row in `subscription_parked`   a replay, a seek

Invariants:

- Every row is at or before the read position. Every match up to and including the ack floor is settled or parked,
  except matches replayed later; the floor moves forward only, except in a seek.
- A lease has a serial of its own, which is part of the delivery's id. A settlement that names an older lease changes
  nothing. It is STALE, except that an ack of a match settled since is ACKNOWLEDGED.
- The clock is read only after the row is locked: no lease runs while its step waits for the step of another server.
- Leases expire before new ones are granted, so a match whose retry delay is 0 is delivered again in the same step. Each
  expiry counts as a failed attempt, so a match that crashes its consumers is parked after the last one.
- No step leaves the earliest match of a contact blocked. It is due at once, after everything that was due before, or
  when its own retry is.
- The cost of a step follows the rows that change, not the backlog: searches for due rows begin where the last search
  ended (`SearchBounds`), and counts of leases read the consumer's own leases above the ack floor.

Times are microseconds UTC.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import BigInteger, Integer, Text, any_, bindparam, func, select, text, union_all, update
from sqlalchemy.dialects.postgresql import ARRAY

from automation.bulk import between
from automation.match_log import matches_at
from automation.prepared_statements import Prepared, PreparedList
from automation.run_transitions import mark_running
from automation.subscriptions.delivery_rows import make_due, to_delivery_row, unblocked_rows
from automation.subscriptions.due_search import NEVER, DueSearch
from automation.subscriptions.expiry import expire, take_over
from automation.subscriptions.lease_rows import block, lease_again, lease_first, unpark
from automation.subscriptions.log_reading import read_log
from automation.subscriptions.settling import settle
from automation.subscriptions.store import LEASED, WAITING, lock_subscription
from automation.subscriptions.tables import REPLAYED, subscription_delivery
from automation.subscriptions.tables import subscription as subscription_table
from automation.subscriptions.values import Ack, Delivery, DeliveryOrder, SearchBounds, StepResult, delivery_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import ColumnElement, CompoundSelect, Connection

    from automation.subscriptions.delivery_rows import DeliveryRow
    from automation.subscriptions.log_reading import Reading, Recorded
    from automation.subscriptions.values import DeliveryRequest, Settlement, Subscription, TakeOver, Undelivered

NO_BOUNDS: Final = SearchBounds()

_delivery = subscription_delivery.c
_subscription = subscription_table.c


def step(
    connection: Connection,
    subscription_key: int,
    clock: Callable[[], int],
    settlements: Sequence[Settlement | Undelivered] = (),
    requests: Sequence[DeliveryRequest] = (),
    take_overs: Sequence[TakeOver] = (),
    bounds: SearchBounds = NO_BOUNDS,
    recorded: Recorded | None = None,
) -> StepResult:
    """Settle, take over, expire and lease. Leases last the subscription's ack deadline from the time of the step.

    `clock` is read once the row is locked. `bounds` are those of the last successful step on this node.

    Due matches go before first deliveries, which are in the order of positions, after the read position. Each consumer
    gets a consecutive share; the consumer with the most capacity gets the remainder. Raise SubscriptionNotFound.

    With `recorded`, the step is one part of a transaction that has recorded these matches, and that must not wait for
    another server: raise SubscriptionLocked, before anything is written, if it would.
    """
    subscription = lock_subscription(connection, subscription_key, wait=recorded is None or _alone(connection))
    now = clock()
    search = DueSearch.begin(
        subscription, bounds, now, writes_no_due_time=_alone(connection) and _only_acks(settlements) and not take_overs
    )
    freed: set[int] = set()
    results = settle(connection, subscription, settlements, now, freed)
    kept = [take_over(connection, subscription, request, now, freed) for request in take_overs]
    more, retry_due = (False, 0) if search.skipped else expire(connection, subscription, now, freed, search.leases_from)
    outstanding = _outstanding(connection, subscription, requests)
    capacities = [_capacity(request, outstanding[request.consumer_id]) for request in requests]
    capacity = sum(capacities)
    due: Sequence[DeliveryRow] = ()
    unblocked_due = NEVER
    # Matches that were unblocked without a consumer for them are due, whatever the search knows.
    if not search.skipped or subscription.order is DeliveryOrder.CONTACT:
        due = _due(connection, subscription, capacity, now, search.retries_from)
    if freed:
        due, unblocked_due = _with_unblocked(connection, subscription, due, freed, capacity, now)
    reading = read_log(connection, subscription, capacity - len(due), recorded)
    deliveries = _lease(
        connection, subscription, due, reading, _shares(capacities, len(due) + len(reading.leased)), requests, now
    )
    for batch in deliveries:
        for delivery in batch:
            outstanding[delivery.consumer_id] += 1
    leased = sum(map(len, deliveries))
    moved = _advance(connection, subscription, reading.read_position, subscription.last_serial + leased)
    lease_end = now + subscription.ack_deadline
    if search.skipped:
        search.note_written(lease_end if leased else NEVER, unblocked_due)
    else:
        written = [result.due_at for group in results for result in group] + [retry_due, unblocked_due, lease_end]
        search.find_next(connection, subscription, written, all_due=len(due) < capacity, all_expired=not more)
    more = more or reading.more
    exhausted = not more and leased < capacity
    bounds = search.bounds()
    return StepResult(moved, results, kept, deliveries, outstanding, more, exhausted, search.next_due, bounds)


def _alone(connection: Connection) -> bool:
    """Return whether no other node takes steps: an SQLite file has one server."""
    return connection.dialect.name == "sqlite"


def _only_acks(settlements: Sequence[Settlement | Undelivered]) -> bool:
    return all(isinstance(settlement, Ack) for settlement in settlements)


def _capacity(request: DeliveryRequest, outstanding: int) -> int:
    """Return the number of matches to lease for a request: no consumer gets more leases than `max_outstanding`."""
    if request.max_outstanding is None:
        return request.capacity
    return max(0, min(request.capacity, request.max_outstanding - outstanding))


def _shares(capacities: Sequence[int], count: int) -> list[int]:
    """Divide a count, at most the sum of the capacities, evenly among them."""
    shares = [0] * len(capacities)
    for done, index in enumerate(sorted(range(len(capacities)), key=capacities.__getitem__)):
        shares[index] = min(capacities[index], count // (len(capacities) - done))
        count -= shares[index]
    return shares


def _outstanding(
    connection: Connection, subscription: Subscription, requests: Sequence[DeliveryRequest]
) -> dict[str, int]:
    """Count the leases of the consumers: above the ack floor, and of replayed matches at or below it.

    PostgreSQL keeps rows of settled matches while a snapshot may need them; so only those above the floor are visited.
    """
    counts = dict.fromkeys((request.consumer_id for request in requests), 0)
    if not counts:
        return counts
    found = _OUTSTANDING.rows(
        connection,
        own=subscription.key,
        first=subscription.floor_position + 1,
        last=subscription.read_position,
        consumers=msgspec.json.encode([*counts]).decode() if connection.dialect.name == "sqlite" else [*counts],
    )
    for consumer, leases in found:
        counts[consumer] += leases
    return counts


def _due(connection: Connection, subscription: Subscription, limit: int, now: int, since: int) -> list[DeliveryRow]:
    """Read due retries: undelivered ones, which are due at 0, and then those due from `since` on."""
    if not limit:
        return []
    if since:
        rows = _DUE_SINCE.rows(connection, own=subscription.key, since=since, now=now, limit=limit)
    else:
        rows = _DUE.rows(connection, own=subscription.key, now=now, limit=limit)
    return [to_delivery_row(row) for row in rows]


def _with_unblocked(
    connection: Connection,
    subscription: Subscription,
    due: Sequence[DeliveryRow],
    freed: set[int],
    capacity: int,
    now: int,
) -> tuple[Sequence[DeliveryRow], int]:
    """Return the matches to lease, those that are unblocked included; the rest of these waits for its time.

    Return also the earliest of their times that is later than now, NEVER if there is none. What is leased at once is
    written once: with 1,000 contacts, half of all matches are blocked before their lease.
    """
    unblocked = unblocked_rows(connection, subscription.key, freed)
    for row in unblocked:
        row.due_at = max(row.due_at, now)
    candidates = sorted([*due, *(row for row in unblocked if row.due_at == now)], key=_due_order)
    leased = candidates[:capacity]
    positions = {row.match_position for row in leased}
    if left := [row for row in unblocked if row.match_position not in positions]:
        make_due(connection, subscription.key, left)
    return leased, min((row.due_at for row in left if row.due_at > now), default=NEVER)


def _due_order(row: DeliveryRow) -> tuple[int, int]:
    return row.due_at, row.match_position


def _lease(
    connection: Connection,
    subscription: Subscription,
    due: Sequence[DeliveryRow],
    reading: Reading,
    shares: Sequence[int],
    requests: Sequence[DeliveryRequest],
    now: int,
) -> list[list[Delivery]]:
    """Write the leases and the blocked matches, and return the deliveries of each request."""
    ends = now + subscription.ack_deadline
    consumers = (request.consumer_id for request, share in zip(requests, shares, strict=True) for _ in range(share))
    serials = range(subscription.last_serial + 1, subscription.last_serial + 1 + sum(shares))
    known = matches_at(connection, subscription.project_pk, [row.match_position for row in due]) if due else {}
    leases = [(known[row.match_position], row.attempt + 1, row.replayed, row.last_failure) for row in due]
    leases += [(match, 1, False, "") for match in reading.leased]
    tag = subscription.tag
    made = [
        Delivery(delivery_id(tag, match.position, serial), consumer, attempt, match, ends, replayed, failure)
        for (match, attempt, replayed, failure), serial, consumer in zip(leases, serials, consumers, strict=True)
    ]
    remaining = iter(made)
    by_request = [[next(remaining) for _ in range(share)] for share in shares]
    _write_leases(connection, subscription, by_request, len(due), reading)
    mark_running(
        connection,
        subscription.project_pk,
        sorted((delivery.match for delivery in made if delivery.attempt == 1), key=lambda match: match.run_number),
    )
    return by_request


def _write_leases(
    connection: Connection,
    subscription: Subscription,
    by_request: Sequence[Sequence[Delivery]],
    due: int,
    reading: Reading,
) -> None:
    """Write the leases of matches that are due again, `due` in number, then those of first deliveries."""
    again, first, left = [], [], due
    for deliveries in by_request:
        again.append(deliveries[:left])
        first.append(deliveries[left:])
        left = max(0, left - len(deliveries))
    lease_again(connection, subscription, again)
    read = [*reading.leased, *reading.blocked]
    unpark(connection, subscription, [match.position for match in read])
    lease_first(connection, subscription, first, subscription.last_serial + 1 + due)
    block(connection, subscription, reading.blocked)


def _advance(connection: Connection, subscription: Subscription, read_position: int, last_serial: int) -> Subscription:
    """Advance the read position, the ack floor and the last serial, and return the subscription."""
    # Only replayed matches are at or below the ack floor.
    positions = _UNSETTLED.row(connection, own=subscription.key, floor=subscription.floor_position)
    first = min((position for position in positions if position is not None), default=None)
    floor = max(subscription.floor_position, read_position if first is None else first - 1)
    moved = replace(subscription, read_position=read_position, floor_position=floor, last_serial=last_serial)
    if moved != subscription:
        _MOVE.run(connection, own=subscription.key, read=read_position, floor=floor, serial=last_serial)
    return moved


_own = _delivery.subscription_key == bindparam("own")


def _outstanding_counts(consumer: ColumnElement[bool]) -> CompoundSelect[Any]:
    leased = select(_delivery.consumer_id, func.count().label("leases")).where(
        _own, consumer, _delivery.state == LEASED
    )
    first, last = (bindparam(name, type_=BigInteger) for name in ("first", "last"))
    parts = (between(_delivery.match_position, first, last), REPLAYED & (_delivery.match_position < first))
    return union_all(*(leased.where(part).group_by(_delivery.consumer_id) for part in parts))


_consumers = func.json_each(bindparam("consumers")).table_valued("value").c.value
_OUTSTANDING = Prepared(
    _outstanding_counts(_delivery.consumer_id.in_(select(_consumers))),
    _outstanding_counts(_delivery.consumer_id == any_(bindparam("consumers", type_=ARRAY(Text)))),
)
_waiting = select(subscription_delivery).where(_own, _delivery.state == WAITING)
_due_at = _delivery.due_at
_limit = bindparam("limit", type_=Integer)
_in_order = (_due_at, _delivery.match_position)
_DUE = PreparedList(
    lambda _dialect: _waiting.where(_due_at >= 0, _due_at <= bindparam("now")).order_by(*_in_order).limit(_limit)
)
_due_parts = union_all(
    *(
        select(_waiting.where(part).order_by(*_in_order).limit(_limit).subquery())
        for part in ((_due_at >= 0) & (_due_at <= 0), (_due_at >= bindparam("since")) & (_due_at <= bindparam("now")))
    )
).subquery()
_DUE_SINCE = PreparedList(
    lambda _dialect: select(_due_parts).order_by(_due_parts.c.due_at, _due_parts.c.match_position).limit(_limit)
)
_first_unsettled = [
    select(func.min(_delivery.match_position)).where(_own, part).scalar_subquery()
    for part in (_delivery.match_position > bindparam("floor"), REPLAYED)
]
_UNSETTLED = Prepared(
    # SQLite would read all rows of the subscription in the order of the primary key.
    text(
        """
SELECT (SELECT min(match_position) FROM subscription_delivery
        WHERE subscription_key = :own AND match_position > :floor),
       (SELECT min(match_position) FROM subscription_delivery INDEXED BY delivery_replayed
        WHERE subscription_key = :own AND replayed)
"""
    ),
    select(*_first_unsettled),
)
_MOVE = Prepared(
    update(subscription_table)
    .where(_subscription.key == bindparam("own"))
    .values(read_position=bindparam("read"), floor_position=bindparam("floor"), last_serial=bindparam("serial"))
)
