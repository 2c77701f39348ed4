"""The step that advances a subscription: settle deliveries, expire leases, lease the next matches.

    lock the row     store.lock_subscription     only then is the clock read
    settle           settling.settle             acknowledge, nack, extend, return undelivered ones
    take over        expiry.take_over            end the leases of consumers that return or leave
    expire           expiry.expire               end the leases whose time is up
    lease            this module                 due retries first, then matches of the log

One step serves all consumers that wait on one subscription, in one transaction under the lock of its row. Everything is
decided by the tables, so it does not matter which node takes the step, or which was killed before.

A match has a row in `subscription_delivery` from its first delivery until it is settled or parked:

    state      means                                 `due_at`            leaves it by
    (no row)   after the read position: not read yet                     its first lease, or being read after an
                                                                         unsettled match of its contact (blocked)
    leased     delivered to a consumer               the lease expires   ack, skip (settled), nack, expiry, takeover
    waiting    to be delivered again                 it may be leased    the next lease
    blocked    an earlier match of its contact is    its own retry, 0    the settlement or parking of that match
               not settled; only in CONTACT order    if none
    (no row)   settled; or parked, with a row in `subscription_parked`   a replay, a seek

Invariants:

- Every row is at or before the read position. Every match up to and including the ack floor is settled or parked,
  except matches replayed later; the floor moves forward only, except in a seek.
- A lease has a serial of its own, which is part of the delivery's id. A settlement that names an older lease changes
  nothing. It is STALE, except that an ack of a match settled since is ACKNOWLEDGED.
- The clock is read only after the row is locked: no lease runs while its step waits for the step of another server.
- Leases expire before new ones are granted, so a match whose retry delay is 0 is delivered again in the same step. Each
  expiry counts as a failed attempt, so a match that crashes its consumers is parked after the last one.
- The cost of a step follows the rows that change, not the backlog: searches for due rows begin where the last search
  ended (`SearchBounds`), and counts of leases read the consumer's own leases above the ack floor.

Times are microseconds UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, bindparam, delete, func, insert, literal, literal_column, select, union_all, update

from automation.bulk import between, execute_many
from automation.match_log import filtered, matches_at, to_match
from automation.run_store import mark_running
from automation.subscriptions.delivery_rows import to_delivery_row
from automation.subscriptions.expiry import expire, take_over
from automation.subscriptions.settling import settle
from automation.subscriptions.store import BLOCKED, LEASED, WAITING, lock_subscription
from automation.subscriptions.tables import REPLAYED, subscription_delivery, subscription_parked
from automation.subscriptions.tables import subscription as subscription_table
from automation.subscriptions.values import Delivery, DeliveryOrder, SearchBounds, StepResult, delivery_id
from automation.tables import automation_match

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from automation.matches import Match
    from automation.subscriptions.delivery_rows import DeliveryRow
    from automation.subscriptions.values import DeliveryRequest, Settlement, Subscription, TakeOver, Undelivered

BOUNDS_MARGIN: Final = 2_000_000
"""The difference between the clocks of two nodes, in microseconds, up to which a due match is found at once."""
FULL_SEARCH_PERIOD: Final = 10_000_000
"""If the clocks differ by more, a due match is found after at most this time."""

READ_LIMIT: Final = 1_000
"""The most matches of the log that one step reads."""
BLOCKED_LIMIT: Final = 10_000
"""With this many blocked matches, a subscription reads no further: one contact cannot fill the table."""
_READ_AHEAD: Final = 100
NEVER: Final = 2**62
NO_BOUNDS: Final = SearchBounds()

_delivery = subscription_delivery.c
_match = automation_match.c
_parked = subscription_parked.c
_subscription = subscription_table.c


@dataclass(slots=True)
class _Reading:
    """The matches read from the log: to lease, and blocked ones; `more` if the next step can read on at once."""

    read_position: int
    leased: list[Match] = field(default_factory=list)
    blocked: list[Match] = field(default_factory=list)
    more: bool = False


def step(
    connection: Connection,
    subscription_key: int,
    clock: Callable[[], int],
    settlements: Sequence[Settlement | Undelivered] = (),
    requests: Sequence[DeliveryRequest] = (),
    take_overs: Sequence[TakeOver] = (),
    bounds: SearchBounds = NO_BOUNDS,
) -> StepResult:
    """Settle, take over, expire and lease. Leases last the subscription's ack deadline from the time of the step.

    `clock` is read once the row is locked: no lease runs while the step waits for the step of another server. `bounds`
    are those of the last successful step on this node.

    Due matches go before first deliveries, which are in the order of positions, after the read position. Each consumer
    gets a consecutive share; the consumer with the most capacity gets the remainder. Raise SubscriptionNotFound.
    """
    subscription = lock_subscription(connection, subscription_key)
    now = clock()
    search = _Search.begin(subscription, bounds, now)
    results = settle(connection, subscription, settlements, now)
    kept = [take_over(connection, subscription, request, now) for request in take_overs]
    more, retry_due = expire(connection, subscription, now, search.leases_from)
    outstanding = _outstanding(connection, subscription, requests)
    capacities = [_capacity(request, outstanding[request.consumer_id]) for request in requests]
    due = _due(connection, subscription, sum(capacities), now, search.retries_from)
    reading = _read_log(connection, subscription, sum(capacities) - len(due))
    deliveries = _lease(
        connection, subscription, due, reading, _shares(capacities, len(due) + len(reading.leased)), requests, now
    )
    for batch in deliveries:
        for delivery in batch:
            outstanding[delivery.consumer_id] += 1
    leases = subscription.last_serial + sum(map(len, deliveries))
    written = [result.due_at for group in results for result in group] + [retry_due, now + subscription.ack_deadline]
    search.narrow(min(time for time in written if time), all_due=len(due) < sum(capacities), all_expired=not more)
    moved = _advance(connection, subscription, reading.read_position, leases)
    search.find_next(connection, subscription)
    more = more or reading.more
    exhausted = not more and sum(map(len, deliveries)) < sum(capacities)
    bounds = search.bounds()
    return StepResult(moved, results, kept, deliveries, outstanding, more, exhausted, search.next_due, bounds)


@dataclass(slots=True)
class _Search:
    """Where a step searches for due leases and retries, and for the next ones. See SearchBounds."""

    now: int
    leases_from: int
    retries_from: int
    next_lease: int
    next_retry: int
    full_at: int

    @classmethod
    def begin(cls, subscription: Subscription, bounds: SearchBounds, now: int) -> _Search:
        """Begin where the last step ended, or at the beginning of time."""
        if now >= bounds.full_at or now < max(bounds.leases_from, bounds.retries_from):
            return cls(now, 0, 0, now + 1, now + 1, now + FULL_SEARCH_PERIOD)
        next_lease, next_retry = max(bounds.next_lease, now + 1), max(bounds.next_retry, now + 1)
        if subscription.order is DeliveryOrder.CONTACT:
            # A match that an earlier one of its contact sets free may be due at any time.
            next_retry = now + 1
        return cls(now, bounds.leases_from, bounds.retries_from, next_lease, next_retry, bounds.full_at)

    def narrow(self, earliest_written: int, *, all_due: bool, all_expired: bool) -> None:
        """Update the bounds after the searches and writes of this step."""
        self.next_lease = max(min(self.next_lease, earliest_written), self.now + 1)
        self.next_retry = max(min(self.next_retry, earliest_written), self.now + 1)
        if all_expired:
            self.leases_from = max(0, self.now - BOUNDS_MARGIN)
        if all_due:
            self.retries_from = max(0, self.now - BOUNDS_MARGIN)

    def find_next(self, connection: Connection, subscription: Subscription) -> None:
        """Find when a lease ends and a match is due next, 0 where none is."""
        own = _delivery.subscription_key == subscription.key
        queries = [
            select(func.min(_delivery.due_at)).where(own, _delivery.state == state, _delivery.due_at >= first)
            for state, first in ((LEASED, self.next_lease), (WAITING, self.next_retry))
        ]
        times = connection.execute(select(*(query.scalar_subquery() for query in queries))).one()
        self.next_lease, self.next_retry = (time or 0 for time in times)

    @property
    def next_due(self) -> int:
        """The earlier of both times, 0 if there is neither."""
        return min((time for time in (self.next_lease, self.next_retry) if time), default=0)

    def bounds(self) -> SearchBounds:
        """Return the bounds for the next step; the time is NEVER where no lease ends or no retry is due."""
        next_lease, next_retry = self.next_lease or NEVER, self.next_retry or NEVER
        return SearchBounds(self.leases_from, self.retries_from, next_lease, next_retry, self.full_at)


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
    leased = select(_delivery.consumer_id, func.count().label("leases")).where(
        _delivery.subscription_key == subscription.key,
        _delivery.consumer_id.in_(list(counts)),
        _delivery.state == LEASED,
    )
    first, last = literal(subscription.floor_position + 1, BigInteger), literal(subscription.read_position, BigInteger)
    parts = (between(_delivery.match_position, first, last), REPLAYED & (_delivery.match_position < first))
    query = union_all(*(leased.where(part).group_by(_delivery.consumer_id) for part in parts))
    for consumer, leases in connection.execute(query):
        counts[consumer] += leases
    return counts


def _due(connection: Connection, subscription: Subscription, limit: int, now: int, since: int) -> list[DeliveryRow]:
    """Read due retries: undelivered ones, which are due at 0, and then those due from `since` on."""
    if not limit:
        return []
    ranges = ((0, now),) if not since else ((0, 0), (since, now))
    parts = [
        select(subscription_delivery)
        .where(
            _delivery.subscription_key == subscription.key,
            _delivery.state == WAITING,
            _delivery.due_at >= first,
            _delivery.due_at <= last,
        )
        .order_by(_delivery.due_at, _delivery.match_position)
        .limit(limit)
        for first, last in ranges
    ]
    if len(parts) > 1:
        rows = union_all(*(select(part.subquery()) for part in parts)).subquery()
        parts = [select(rows).order_by(rows.c.due_at, rows.c.match_position).limit(limit)]
    return [to_delivery_row(row) for row in connection.execute(parts[0]).all()]


def _read_log(connection: Connection, subscription: Subscription, capacity: int) -> _Reading:
    """Read the log for first deliveries, over at most READ_LIMIT of its matches."""
    start = subscription.read_position
    if not capacity:
        return _Reading(start)
    unread = (_match.project_key == subscription.project_pk) & (_match.position > start)
    end = connection.scalar(select(func.max(_match.position)).where(unread, _match.position <= start + READ_LIMIT))
    if end is None:
        return _Reading(start)
    # A match that is committed from here on is left to the next step: on PostgreSQL the query below would see it.
    within = unread & (_match.position <= end)
    by_contact = subscription.order is DeliveryOrder.CONTACT
    limit = capacity + _READ_AHEAD if by_contact else capacity
    query = filtered(connection, select(automation_match).where(within), subscription.filter)
    query = query.order_by(_match.position).limit(limit)
    if by_contact:
        query = query.add_columns(_has_earlier(subscription).label("blocked"))
    rows = connection.execute(query).all()
    reading = _Reading(rows[-1].position if len(rows) == limit else end)
    reading.more = len(rows) == limit or end == start + READ_LIMIT
    if by_contact:
        _sort_by_contact(reading, rows, capacity, BLOCKED_LIMIT - _blocked_count(connection, subscription))
    else:
        reading.leased += map(to_match, rows)
    reading.more = reading.more and len(reading.leased) < capacity
    return reading


def _sort_by_contact(reading: _Reading, rows: Sequence[Any], capacity: int, blocked_capacity: int) -> None:
    """Lease the first match of every contact without unsettled matches, block the others, stop at the capacity."""
    busy = set()
    for row in rows:
        match = to_match(row)
        blocked = bool(match.contact_key) and (row.blocked or match.contact_key in busy)
        if (len(reading.blocked) >= blocked_capacity) if blocked else (len(reading.leased) == capacity):
            reading.read_position, reading.more = match.position - 1, False
            return
        (reading.blocked if blocked else reading.leased).append(match)
        busy.add(match.contact_key)


def _has_earlier(subscription: Subscription) -> Any:
    """Return the condition that the contact of a match of the log has unsettled matches; they are all earlier."""
    earlier = select(func.min(_delivery.match_position)).where(
        _delivery.subscription_key == subscription.key,
        _delivery.contact_key == _match.contact_key,
        _delivery.contact_key != literal_column("0"),
    )
    return earlier.scalar_subquery().is_not(None)


def _blocked_count(connection: Connection, subscription: Subscription) -> int:
    query = select(func.count()).where(_delivery.subscription_key == subscription.key, _delivery.state == BLOCKED)
    return connection.scalar(query) or 0


def _lease(
    connection: Connection,
    subscription: Subscription,
    due: Sequence[DeliveryRow],
    reading: _Reading,
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
    made = [
        Delivery(delivery_id(subscription, match.position, serial), consumer, attempt, match, ends, replayed, failure)
        for (match, attempt, replayed, failure), serial, consumer in zip(leases, serials, consumers, strict=True)
    ]
    _write_again(connection, subscription, made[: len(due)], serials)
    _write_first(connection, subscription, made[len(due) :], serials[len(due) :], reading)
    mark_running(
        connection,
        subscription.project_pk,
        sorted((delivery.match for delivery in made if delivery.attempt == 1), key=lambda match: match.run_number),
    )
    dealt = iter(made)
    return [[next(dealt) for _ in range(share)] for share in shares]


def _write_again(
    connection: Connection, subscription: Subscription, again: Sequence[Delivery], serials: Sequence[int]
) -> None:
    rows = [
        {
            "own": subscription.key,
            "at": delivery.match.position,
            "number": serial,
            "times": delivery.attempt,
            "consumer": delivery.consumer_id,
            "ends": delivery.lease_expires_at,
        }
        for delivery, serial in zip(again, serials, strict=False)
    ]
    execute_many(connection, _LEASE_AGAIN, rows)


def _write_first(
    connection: Connection,
    subscription: Subscription,
    first: Sequence[Delivery],
    serials: Sequence[int],
    reading: _Reading,
) -> None:
    by_contact = subscription.order is DeliveryOrder.CONTACT
    rows = [
        _row(
            subscription, delivery.match, by_contact, LEASED, serial, 1, delivery.consumer_id, delivery.lease_expires_at
        )
        for delivery, serial in zip(first, serials, strict=True)
    ]
    rows += [_row(subscription, match, by_contact, BLOCKED, 0, 0, "", 0) for match in reading.blocked]
    if rows:
        _unpark(connection, subscription, [row["match_position"] for row in rows])
        execute_many(connection, _INSERT, rows)


def _row(
    subscription: Subscription,
    match: Match,
    by_contact: bool,
    state: str,
    serial: int,
    attempt: int,
    consumer: str,
    due: int,
) -> dict[str, Any]:
    return {
        "subscription_key": subscription.key,
        "match_position": match.position,
        "state": state,
        "serial": serial,
        "attempt": attempt,
        "consumer_id": consumer,
        "due_at": due,
        "contact_key": match.contact_key if by_contact else 0,
        "replayed": False,
        "last_failure": "",
    }


def _unpark(connection: Connection, subscription: Subscription, positions: Sequence[int]) -> None:
    """Delete parked matches that are delivered because a seek went back to before them."""
    own = _parked.subscription_key == subscription.key
    within = _parked.match_position.between(min(positions), max(positions))
    parked = set(connection.scalars(select(_parked.match_position).where(own, within))).intersection(positions)
    if parked:
        connection.execute(delete(subscription_parked).where(own, _parked.match_position.in_(parked)))


def _advance(connection: Connection, subscription: Subscription, read_position: int, last_serial: int) -> Subscription:
    """Advance the read position, the ack floor and the last serial, and return the subscription."""
    own = _delivery.subscription_key == subscription.key
    # Only replayed matches are at or below the ack floor.
    rest = [
        select(func.min(_delivery.match_position)).where(own, condition).scalar_subquery()
        for condition in (_delivery.match_position > subscription.floor_position, REPLAYED)
    ]
    positions = connection.execute(select(*rest)).one()
    first = min((position for position in positions if position is not None), default=None)
    floor = max(subscription.floor_position, read_position if first is None else first - 1)
    moved = replace(subscription, read_position=read_position, floor_position=floor, last_serial=last_serial)
    if moved != subscription:
        connection.execute(
            update(subscription_table)
            .where(_subscription.key == subscription.key)
            .values(read_position=read_position, floor_position=floor, last_serial=last_serial)
        )
    return moved


_INSERT = insert(subscription_delivery)
_LEASE_AGAIN = (
    update(subscription_delivery)
    .where(_delivery.subscription_key == bindparam("own"), _delivery.match_position == bindparam("at"))
    .values(
        state=LEASED,
        serial=bindparam("number"),
        attempt=bindparam("times"),
        consumer_id=bindparam("consumer"),
        due_at=bindparam("ends"),
    )
)
