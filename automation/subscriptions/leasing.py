"""The step that advances a subscription: settle deliveries, expire leases, lease the next matches.

One step serves all consumers that wait on one subscription, in one transaction under the lock of its row. Everything is
decided by the tables, so it does not matter which node takes the step, or which was killed before.

A match has a row in `subscription_delivery` from its first delivery until it is settled or parked:

    state      means                                 `due_at`            leaves it by
    (no row)   after the read position: not read yet                     the first lease, or as blocked
    leased     delivered to a consumer               the lease expires   ack, skip (settled), nack, expiry, takeover
    waiting    to be delivered again                 it may be leased    the next lease
    blocked    an earlier match of its contact is    its own retry, 0    the settlement or parking of that one
               not settled; only in CONTACT order    if none
    (no row)   settled; or parked, with a row in `subscription_parked`   a replay, a seek

Invariants:

- Every row is at or before the read position. Every match up to and including the ack floor is settled or parked, those
  replayed since excepted; the floor moves forward only, except in a seek.
- A lease has a serial of its own, which is part of the delivery's id. Whatever is said about an older lease of the same
  match is STALE: a late acknowledgement cannot settle a newer delivery.
- The clock is read only after the row is locked: no lease runs while its step waits for the step of another server.
- Expiry comes before leasing, so that a step delivers again what it has just expired, and the number of attempts stays
  bounded even for a match that crashes its consumers.
- The cost of a step follows the rows that change, not the backlog: searches for due rows begin where the last one ended
  (`SearchBounds`), and counts of leases read the consumer's own leases above the ack floor.

Times are microseconds UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, bindparam, delete, func, insert, literal, literal_column, select, union_all, update

from automation.bulk import between, execute_many
from automation.match_log import filtered, matches_at, to_match
from automation.run_store import mark_running
from automation.subscriptions.settling import expire, settle, take_over, to_unsettled
from automation.subscriptions.store import BLOCKED, LEASED, WAITING, lock_subscription
from automation.subscriptions.tables import REPLAYED, subscription, subscription_delivery, subscription_parked
from automation.subscriptions.values import Delivery, DeliveryOrder, SearchBounds, StepResult, delivery_id
from automation.tables import automation_match

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from automation.matches import Match
    from automation.subscriptions.settling import DeliveryRow
    from automation.subscriptions.values import DeliveryRequest, Settlement, Subscription, TakeOver, Undelivered

BOUNDS_MARGIN: Final = 2_000_000
"""The difference between the clocks of two nodes, in microseconds, up to which a due match is found at once."""
FULL_SEARCH_PERIOD: Final = 10_000_000
"""Beyond that difference, a due match is found within this time."""

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
_subscription = subscription.c


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
    are those of the last step on this node, if it succeeded.

    Due matches go before first deliveries, which are in the order of positions, after the read position. Each consumer
    gets a run of them; the one with the most capacity gets the remainder. Raise SubscriptionNotFound.
    """
    current = lock_subscription(connection, subscription_key)
    now = clock()
    search = _Search.begin(current, bounds, now)
    results = settle(connection, current, settlements, now)
    kept = [take_over(connection, current, each, now) for each in take_overs]
    more, retry_due = expire(connection, current, now, search.leases_from)
    outstanding = _outstanding(connection, current, requests)
    capacities = [_capacity(request, outstanding[request.consumer_id]) for request in requests]
    due = _due(connection, current, sum(capacities), now, search.retries_from)
    reading = _read_log(connection, current, sum(capacities) - len(due))
    deliveries = _lease(
        connection, current, due, reading, _shares(capacities, len(due) + len(reading.leased)), requests, now
    )
    for batch in deliveries:
        for each in batch:
            outstanding[each.consumer_id] += 1
    leases = current.last_serial + sum(map(len, deliveries))
    written = [each.due_at for one in results for each in one] + [retry_due, now + current.ack_deadline]
    search.narrow(min(each for each in written if each), all_due=len(due) < sum(capacities), all_expired=not more)
    moved = _advance(connection, current, reading.read_position, leases)
    search.find_next(connection, current)
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
    def begin(cls, current: Subscription, bounds: SearchBounds, now: int) -> _Search:
        """Begin where the last step ended, or at the beginning of time."""
        if now >= bounds.full_at or now < max(bounds.leases_from, bounds.retries_from):
            return cls(now, 0, 0, now + 1, now + 1, now + FULL_SEARCH_PERIOD)
        next_lease, next_retry = max(bounds.next_lease, now + 1), max(bounds.next_retry, now + 1)
        if current.order is DeliveryOrder.CONTACT:
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

    def find_next(self, connection: Connection, current: Subscription) -> None:
        """Find when a lease ends and a match is due next, 0 where none is."""
        own = _delivery.subscription_key == current.key
        queries = [
            select(func.min(_delivery.due_at)).where(own, _delivery.state == state, _delivery.due_at >= first)
            for state, first in ((LEASED, self.next_lease), (WAITING, self.next_retry))
        ]
        times = connection.execute(select(*(each.scalar_subquery() for each in queries))).one()
        self.next_lease, self.next_retry = (each or 0 for each in times)

    @property
    def next_due(self) -> int:
        """The earlier of both times, 0 if there is neither."""
        return min((each for each in (self.next_lease, self.next_retry) if each), default=0)

    def bounds(self) -> SearchBounds:
        """Return the bounds for the next step. Where nothing is due, what comes next was not written yet."""
        next_lease, next_retry = self.next_lease or NEVER, self.next_retry or NEVER
        return SearchBounds(self.leases_from, self.retries_from, next_lease, next_retry, self.full_at)


def _capacity(request: DeliveryRequest, outstanding: int) -> int:
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


def _outstanding(connection: Connection, current: Subscription, requests: Sequence[DeliveryRequest]) -> dict[str, int]:
    """Count the leases of the consumers: above the ack floor, and of replayed matches at or below it.

    PostgreSQL keeps rows of settled matches while a snapshot may need them; so only those above the floor are visited.
    """
    counts = dict.fromkeys((request.consumer_id for request in requests), 0)
    if not counts:
        return counts
    leased = select(_delivery.consumer_id, func.count().label("leases")).where(
        _delivery.subscription_key == current.key,
        _delivery.consumer_id.in_(list(counts)),
        _delivery.state == LEASED,
    )
    first, last = literal(current.floor_position + 1, BigInteger), literal(current.read_position, BigInteger)
    parts = (between(_delivery.match_position, first, last), REPLAYED & (_delivery.match_position < first))
    query = union_all(*(leased.where(part).group_by(_delivery.consumer_id) for part in parts))
    for consumer, leases in connection.execute(query):
        counts[consumer] += leases
    return counts


def _due(connection: Connection, current: Subscription, limit: int, now: int, since: int) -> list[DeliveryRow]:
    """Read due retries: undelivered ones, which are due at 0, and then those due from `since` on."""
    if not limit:
        return []
    ranges = ((0, now),) if not since else ((0, 0), (since, now))
    parts = [
        select(subscription_delivery)
        .where(
            _delivery.subscription_key == current.key,
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
    return [to_unsettled(row) for row in connection.execute(parts[0]).all()]


def _read_log(connection: Connection, current: Subscription, capacity: int) -> _Reading:
    """Read the log for first deliveries, over at most READ_LIMIT of its matches."""
    start = current.read_position
    if not capacity:
        return _Reading(start)
    unread = (_match.project_key == current.project_pk) & (_match.position > start)
    end = connection.scalar(select(func.max(_match.position)).where(unread, _match.position <= start + READ_LIMIT))
    if end is None:
        return _Reading(start)
    # A match that is committed from here on is left to the next step: on PostgreSQL the query below would see it.
    within = unread & (_match.position <= end)
    by_contact = current.order is DeliveryOrder.CONTACT
    limit = capacity + _READ_AHEAD if by_contact else capacity
    query = filtered(connection, select(automation_match).where(within), current.filter)
    query = query.order_by(_match.position).limit(limit)
    if by_contact:
        query = query.add_columns(_has_earlier(current).label("blocked"))
    rows = connection.execute(query).all()
    reading = _Reading(rows[-1].position if len(rows) == limit else end)
    reading.more = len(rows) == limit or end == start + READ_LIMIT
    if by_contact:
        _sort_by_contact(reading, rows, capacity, BLOCKED_LIMIT - _blocked_count(connection, current))
    else:
        reading.leased += map(to_match, rows)
    reading.more = reading.more and len(reading.leased) < capacity
    return reading


def _sort_by_contact(reading: _Reading, rows: Sequence[Any], capacity: int, blocked_capacity: int) -> None:
    """Lease the first match of each contact without unsettled ones, block the others, stop at the capacity."""
    busy = set()
    for row in rows:
        match = to_match(row)
        blocked = bool(match.contact_key) and (row.blocked or match.contact_key in busy)
        if (len(reading.blocked) >= blocked_capacity) if blocked else (len(reading.leased) == capacity):
            reading.read_position, reading.more = match.position - 1, False
            return
        (reading.blocked if blocked else reading.leased).append(match)
        busy.add(match.contact_key)


def _has_earlier(current: Subscription) -> Any:
    """Return the condition that the contact of a match of the log has unsettled matches; they are all earlier."""
    earlier = select(func.min(_delivery.match_position)).where(
        _delivery.subscription_key == current.key,
        _delivery.contact_key == _match.contact_key,
        _delivery.contact_key != literal_column("0"),
    )
    return earlier.scalar_subquery().is_not(None)


def _blocked_count(connection: Connection, current: Subscription) -> int:
    query = select(func.count()).where(_delivery.subscription_key == current.key, _delivery.state == BLOCKED)
    return connection.scalar(query) or 0


def _lease(
    connection: Connection,
    current: Subscription,
    due: Sequence[DeliveryRow],
    reading: _Reading,
    shares: Sequence[int],
    requests: Sequence[DeliveryRequest],
    now: int,
) -> list[list[Delivery]]:
    """Write the leases and the blocked matches, and return the deliveries of each request."""
    ends = now + current.ack_deadline
    consumers = (request.consumer_id for request, share in zip(requests, shares, strict=True) for _ in range(share))
    serials = range(current.last_serial + 1, current.last_serial + 1 + sum(shares))
    known = matches_at(connection, current.project_pk, [row.match_position for row in due]) if due else {}
    leases = [(known[row.match_position], row.attempt + 1, row.replayed, row.last_failure) for row in due]
    leases += [(match, 1, False, "") for match in reading.leased]
    made = [
        Delivery(delivery_id(current, match.position, serial), consumer, attempt, match, ends, replayed, failure)
        for (match, attempt, replayed, failure), serial, consumer in zip(leases, serials, consumers, strict=True)
    ]
    _write_again(connection, current, made[: len(due)], serials)
    _write_first(connection, current, made[len(due) :], serials[len(due) :], reading)
    mark_running(
        connection,
        current.project_pk,
        sorted((each.match for each in made if each.attempt == 1), key=lambda match: match.run_number),
    )
    dealt = iter(made)
    return [[next(dealt) for _ in range(share)] for share in shares]


def _write_again(
    connection: Connection, current: Subscription, again: Sequence[Delivery], serials: Sequence[int]
) -> None:
    rows = [
        {
            "own": current.key,
            "at": each.match.position,
            "number": serial,
            "times": each.attempt,
            "consumer": each.consumer_id,
            "ends": each.lease_expires_at,
        }
        for each, serial in zip(again, serials, strict=False)
    ]
    execute_many(connection, _LEASE_AGAIN, rows)


def _write_first(
    connection: Connection, current: Subscription, first: Sequence[Delivery], serials: Sequence[int], reading: _Reading
) -> None:
    by_contact = current.order is DeliveryOrder.CONTACT
    rows = [
        _row(current, each.match, by_contact, LEASED, serial, 1, each.consumer_id, each.lease_expires_at)
        for each, serial in zip(first, serials, strict=True)
    ]
    rows += [_row(current, match, by_contact, BLOCKED, 0, 0, "", 0) for match in reading.blocked]
    if rows:
        _unpark(connection, current, [row["match_position"] for row in rows])
        execute_many(connection, _INSERT, rows)


def _row(
    current: Subscription,
    match: Match,
    by_contact: bool,
    state: str,
    serial: int,
    attempt: int,
    consumer: str,
    due: int,
) -> dict[str, Any]:
    return {
        "subscription_key": current.key,
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


def _unpark(connection: Connection, current: Subscription, positions: Sequence[int]) -> None:
    """Delete parked matches that are delivered because a seek went back to before them."""
    own = _parked.subscription_key == current.key
    within = _parked.match_position.between(min(positions), max(positions))
    found = set(connection.scalars(select(_parked.match_position).where(own, within))).intersection(positions)
    if found:
        connection.execute(delete(subscription_parked).where(own, _parked.match_position.in_(found)))


def _advance(connection: Connection, current: Subscription, read_position: int, last_serial: int) -> Subscription:
    """Advance the read position, the ack floor and the last serial, and return the subscription."""
    own = _delivery.subscription_key == current.key
    # Only replayed matches are at or below the ack floor.
    rest = [
        select(func.min(_delivery.match_position)).where(own, condition).scalar_subquery()
        for condition in (_delivery.match_position > current.floor_position, REPLAYED)
    ]
    first = min((each for each in connection.execute(select(*rest)).one() if each is not None), default=None)
    floor = max(current.floor_position, read_position if first is None else first - 1)
    moved = replace(current, read_position=read_position, floor_position=floor, last_serial=last_serial)
    if moved != current:
        connection.execute(
            update(subscription)
            .where(_subscription.key == current.key)
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
