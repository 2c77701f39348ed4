"""SQL of the log: finding the events of one contact.

On SQLite the index of events by contact is divided into segments of the log (`server.storage.tables`), so a contact is
looked up in one segment after the other, in the order of the list. A contact with many events fills its page from the
first segments. For others, segments without their events are passed over, at 4 us each: 2.5 ms for five million events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import sqlalchemy as sa

from automation.tables import hidden_from_planner
from server.storage.tables import SEGMENT, SEGMENT_BITS, WITHOUT_CONTACT, event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

SEGMENTS_SEARCHED: Final = 1_024
"""The most segments whose events of a contact one statement counts."""

SEGMENTS_READ: Final = 16
"""The most segments of which one statement reads all events of a contact. Even if all are the contact's, it takes
milliseconds."""

_SEGMENTS = sa.select(sa.func.json_each(sa.bindparam("segments", type_=sa.Text)).table_valued("value").c.value)
"""The numbers of some segments, `_packed`."""


@dataclass(frozen=True, slots=True)
class PositionRange:
    """Positions from `low` on and before `high`, and the order in which they are listed."""

    low: int
    high: int
    newest_first: bool

    def within(self) -> sa.ColumnElement[bool]:
        """Return the condition that an event has one of the positions."""
        return (event.c.position >= self.low) & (event.c.position < self.high)

    def order(self) -> sa.ColumnElement[int]:
        """Return the order of the positions."""
        return event.c.position.desc() if self.newest_first else event.c.position.asc()

    def segments(self) -> range:
        """Return the segments of the log, in the order of the positions."""
        first, last = self.low >> SEGMENT_BITS, (self.high - 1) >> SEGMENT_BITS
        return range(last, first - 1, -1) if self.newest_first else range(first, last + 1)


def positions_of_contact(
    connection: Connection,
    project_pk: int,
    filters: Sequence[sa.ColumnElement[bool]],
    positions: PositionRange,
    limit: int,
    *,
    contact_key: int | None,
    email: str,
) -> list[int]:
    """Return the first positions of a contact's events that pass filters.

    They are the events of the contact with this key, unless it is None, and the events that were recorded without a
    contact for this address, unless it is empty. Each kind has its own index, because a query with OR would read the
    log from its end. Events without a contact are not filtered, because their index has no names.
    """
    conditions = [*filters, positions.within()]
    in_project = event.c.project_key == project_pk
    found: list[int] = []
    if contact_key is not None:
        conditions_of_contact = [*conditions, event.c.contact_key == contact_key]
        if connection.dialect.name == "sqlite":
            hidden = hidden_from_planner(event.c.project_key) == project_pk
            found += _in_segments(connection, [*conditions_of_contact, hidden], positions, limit)
        else:
            found += _first(connection, [*conditions_of_contact, in_project], positions, limit)
    if email:
        without_contact = [positions.within(), in_project, WITHOUT_CONTACT & (event.c.email == email)]
        found += _first(connection, without_contact, positions, limit)
    return sorted(found, reverse=positions.newest_first)[:limit]


def _first(
    connection: Connection, conditions: Sequence[sa.ColumnElement[bool]], positions: PositionRange, limit: int
) -> Sequence[int]:
    query = sa.select(event.c.position).where(*conditions).order_by(positions.order()).limit(limit)
    return connection.scalars(query).all()


def _in_segments(
    connection: Connection, conditions: Sequence[sa.ColumnElement[bool]], positions: PositionRange, limit: int
) -> list[int]:
    """Return the first positions, searching one segment, then SEGMENTS_READ, then SEGMENTS_SEARCHED at a time."""
    segments = positions.segments()
    # Built once for all searches: to build one takes longer than to run it.
    read = sa.select(event.c.position).where(*conditions, SEGMENT.in_(_SEGMENTS)).order_by(positions.order())
    read = read.limit(sa.bindparam("limit", type_=sa.Integer))
    found: list[int] = []
    start, count = 0, 1
    while start < len(segments) and len(found) < limit:
        searched: Sequence[int] = segments[start : start + count]
        if count > SEGMENTS_READ:
            searched = _enough(connection, conditions, searched, limit - len(found))
        if searched:
            found += connection.scalars(read, {"segments": _packed(searched), "limit": limit - len(found)})
        start, count = start + count, min(SEGMENTS_READ * count, SEGMENTS_SEARCHED)
    return found


def _enough(
    connection: Connection, conditions: Sequence[sa.ColumnElement[bool]], segments: Sequence[int], limit: int
) -> list[int]:
    """Return the first of the segments that together have `limit` events that meet the conditions.

    If they have fewer, return all that have any. Only a part of `limit` is counted of each segment, so that counting
    takes no longer if they are full of the contact's events, and no more than SEGMENTS_READ of such are returned.
    """
    part = -(-limit // SEGMENTS_READ)
    segment = _SEGMENTS.selected_columns[0]
    counted = sa.select(event.c.position).where(*conditions, segment == SEGMENT).limit(part)
    number = sa.select(sa.func.count()).select_from(counted.correlate(segment.table).subquery()).scalar_subquery()
    counts = dict(connection.execute(sa.select(segment, number), {"segments": _packed(segments)}).tuples().all())
    enough: list[int] = []
    for each in segments:
        if limit > 0 and counts[each]:
            enough.append(each)
            limit -= counts[each]
    return enough


def _packed(segments: Sequence[int]) -> str:
    return msgspec.json.encode([*segments]).decode()
