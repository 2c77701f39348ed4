"""Reading the match log for first deliveries.

Without a filter, which is the common case, one prepared statement reads the matches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Integer, bindparam, func, literal_column, select

from automation.bulk import among, packed
from automation.match_log import filtered, passes, to_match
from automation.matches import MatchFilter
from automation.prepared_statements import Prepared, PreparedList
from automation.subscriptions.store import BLOCKED
from automation.subscriptions.tables import subscription_delivery
from automation.subscriptions.values import DeliveryOrder
from automation.tables import automation_match
from registry.sql.text_columns import as_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from automation.automations import Automation
    from automation.matches import Match
    from automation.subscriptions.values import Subscription

READ_LIMIT: Final = 1_000
"""The most matches of the log that one step reads."""
PIGGYBACK_READ_LIMIT: Final = 100
"""The most matches that a step reads in a transaction of events, whose senders wait for it."""
BLOCKED_LIMIT: Final = 10_000
"""With this many blocked matches, a subscription reads no further: one contact cannot fill the table."""
_READ_AHEAD: Final = 100
_NO_FILTER: Final = MatchFilter()

_delivery = subscription_delivery.c
_match = automation_match.c


@dataclass(slots=True)
class Reading:
    """The matches read from the log: to lease, and blocked ones; `more` if the next step can read on at once."""

    read_position: int
    leased: list[Match] = field(default_factory=list)
    blocked: list[Match] = field(default_factory=list)
    more: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """The matches that a transaction has recorded, and the automations of the project by key."""

    matches: Sequence[Match] = ()
    automations: Mapping[int, Automation] = field(default_factory=dict)

    def after(self, position: int) -> bool:
        """Return whether these are all matches after a position, with their automations."""
        known = self.automations
        return (
            bool(self.matches)
            and self.matches[0].position == position + 1
            and all(match.automation_key in known for match in self.matches)
        )

    def of(self, match_filter: MatchFilter) -> Iterator[Match]:
        """Yield those that pass a filter."""
        for match in self.matches:
            if passes(match, self.automations[match.automation_key], match_filter):
                yield match


def read_log(
    connection: Connection, subscription: Subscription, capacity: int, recorded: Recorded | None = None
) -> Reading:
    """Read the log for first deliveries, over at most READ_LIMIT of its matches.

    Of a transaction that has `recorded` matches, these are known without a query. If there are earlier ones to read, up
    to PIGGYBACK_READ_LIMIT are read, because others wait for the transaction; with a filter, all are left to a later
    step.
    """
    start = subscription.read_position
    if not capacity:
        return Reading(start)
    by_contact = subscription.order is DeliveryOrder.CONTACT
    limit = min(READ_LIMIT, capacity + _READ_AHEAD if by_contact else capacity)
    caught_up = recorded is not None and recorded.after(start)
    if recorded is not None and recorded.matches and not caught_up:
        if subscription.filter != _NO_FILTER:
            return Reading(start, more=True)
        limit = min(limit, PIGGYBACK_READ_LIMIT)
    if recorded is not None and caught_up:
        matches: Sequence[Match] = [*islice(recorded.of(subscription.filter), limit)]
        end = min(recorded.matches[-1].position, start + READ_LIMIT)
        matches = [match for match in matches if match.position <= end]
    else:
        matches, end = _read(connection, subscription, limit)
    reading = Reading(matches[-1].position if len(matches) == limit else end)
    reading.more = len(matches) == limit or end == start + READ_LIMIT
    if by_contact:
        _sort_by_contact(connection, subscription, reading, matches, capacity)
    else:
        reading.leased += matches
    reading.more = reading.more and len(reading.leased) < capacity
    return reading


def _read(connection: Connection, subscription: Subscription, limit: int) -> tuple[Sequence[Match], int]:
    """Return the next matches of the filter, and the position up to which the log was read for them."""
    start = subscription.read_position
    if subscription.filter == _NO_FILTER:
        rows = _UNREAD.rows(connection, project=subscription.project_pk, start=start, limit=limit)
        matches = [to_match(row) for row in rows]
        return matches, matches[-1].position if matches else start
    unread = (_match.project_key == subscription.project_pk) & (_match.position > start)
    end = connection.scalar(select(func.max(_match.position)).where(unread, _match.position <= start + READ_LIMIT))
    if end is None:
        return [], start
    # A match that is committed from here on is left to the next step: on PostgreSQL the query below would see it.
    within = unread & (_match.position <= end)
    query = filtered(connection, select(*as_text(automation_match)).where(within), subscription.filter)
    return [to_match(row) for row in connection.execute(query.order_by(_match.position).limit(limit))], end


def _sort_by_contact(
    connection: Connection, subscription: Subscription, reading: Reading, matches: Sequence[Match], capacity: int
) -> None:
    """Lease the first match of every contact without unsettled matches, block the others, stop at the capacity."""
    busy = _busy_contacts(connection, subscription, {match.contact_key for match in matches if match.contact_key})
    blocked_capacity: int | None = None
    for match in matches:
        blocked = match.contact_key in busy
        if blocked and blocked_capacity is None:
            blocked_capacity = BLOCKED_LIMIT - _BLOCKED_COUNT.row(connection, own=subscription.key)[0]
        if len(reading.blocked) >= (blocked_capacity or 0) if blocked else len(reading.leased) == capacity:
            reading.read_position, reading.more = match.position - 1, False
            return
        (reading.blocked if blocked else reading.leased).append(match)
        if match.contact_key:
            busy.add(match.contact_key)


def _busy_contacts(connection: Connection, subscription: Subscription, contact_keys: set[int]) -> set[int]:
    """Return which of these contacts have unsettled matches; these are earlier than all that is read."""
    if not contact_keys:
        return set()
    packed_keys = packed(connection, [*contact_keys])
    return {row[0] for row in _BUSY.rows(connection, own=subscription.key, contacts=packed_keys)}


_UNREAD = PreparedList(
    lambda _dialect: (
        select(*as_text(automation_match))
        .where(_match.project_key == bindparam("project"), _match.position > bindparam("start"))
        .order_by(_match.position)
        .limit(bindparam("limit", type_=Integer))
    )
)
_BLOCKED_COUNT = Prepared(
    select(func.count()).where(_delivery.subscription_key == bindparam("own"), _delivery.state == BLOCKED)
)


def _busy(dialect: str) -> Any:
    return (
        select(_delivery.contact_key)
        .distinct()
        .where(
            _delivery.subscription_key == bindparam("own"),
            among(_delivery.contact_key, "contacts", dialect),
            _delivery.contact_key != literal_column("0"),
        )
    )


_BUSY = Prepared(_busy("sqlite"), _busy("postgresql"))
