"""SQL of the log: pages of events.

A range of times of receipt is a range of positions. Within it, the candidates for a page are, in the order of the list:

    filters                                  candidates                                 at most
    none, or occurred_at alone               the log itself                             EXAMINED_LOG_ROWS
    name                                     the index by name                          EXAMINED_ROWS
    contact, with or without name            the index by contact (`by_contact`)        EXAMINED_ROWS

No index has `occurred_at`, which the sender chooses, and the index of events without a contact, by address, has no
names. So a filter by these examines that number of candidates and drops those that do not pass: the page may be shorter
than requested, and the next one continues where it ended (`registry.sql.bounded_pages`). Otherwise every candidate
belongs to the page.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from automation.bulk import among, packed
from registry.sql.bounded_pages import EXAMINED_LOG_ROWS, EXAMINED_ROWS
from registry.sql.page_sizes import read_page
from server.storage.contacts import contact_key
from server.storage.events.by_contact import PositionRange, positions_of_contact
from server.storage.events.reading import EVENTS, event_ids, log_head, position_range, to_event
from server.storage.tables import event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from server.model import Event
    from server.storage.events.reading import EventFilter


class EventPage(NamedTuple):
    """A page of events. `resume` is the (position, id) of the event after which the next page begins, None if none."""

    events: list[Event]
    resume: tuple[int, str] | None


def list_events(
    connection: Connection,
    project_pk: int,
    event_filter: EventFilter,
    limit: int,
    *,
    before: int | None,
    after: int | None,
) -> EventPage:
    """List events, newest first before the position `before`, or oldest first after the position `after`.

    Return at most `limit` events of at most PAGE_CHARACTERS of payload.
    """
    positions, occurred = _range(connection, project_pk, event_filter, before, after), _occurred(event_filter)
    query = EVENTS.where(event.c.project_key == project_pk, *occurred).order_by(positions.order())
    if event_filter.contact_id or event_filter.email or event_filter.name:
        candidates, edge = _candidates(connection, project_pk, event_filter, positions, limit + 1)
        query = query.where(among(event.c.position, "candidates", connection.dialect.name), *_named(event_filter))
        query = query.params(candidates=packed(connection, candidates))
    else:
        edge = _edge(positions) if occurred else None
        query = query.where(_part(positions, edge).within())
    return _page(connection, project_pk, query, limit, edge)


def _page(connection: Connection, project_pk: int, query: sa.Select[Any], limit: int, edge: int | None) -> EventPage:
    rows, more = read_page(connection, query, limit, lambda row: len(row.properties) + len(row.coercions))
    events = [to_event(row) for row in rows]
    if more:
        return EventPage(events, (events[-1].position, events[-1].id))
    return EventPage(events, None if edge is None else (edge, event_ids(connection, project_pk, [edge]).get(edge, "")))


def _range(
    connection: Connection, project_pk: int, event_filter: EventFilter, before: int | None, after: int | None
) -> PositionRange:
    """Return the range of a page, with one bound at each end: of two lower ones SQLite would seek only the first."""
    low, high = position_range(connection, project_pk, event_filter)
    high = log_head(connection, project_pk) + 1 if high is None else high
    if after is not None:
        # Within the log: a caller may ask for the events after any position that the column can hold.
        return PositionRange(min(max(low, after + 1), high), high, newest_first=False)
    return PositionRange(low, high if before is None else min(high, before), newest_first=True)


def _edge(positions: PositionRange) -> int | None:
    """Return the last position of the log to examine; None if that is all of them."""
    if positions.high - positions.low <= EXAMINED_LOG_ROWS:
        return None
    return positions.high - EXAMINED_LOG_ROWS if positions.newest_first else positions.low + EXAMINED_LOG_ROWS - 1


def _part(positions: PositionRange, edge: int | None) -> PositionRange:
    """Return the part of a range up to and including an edge."""
    if edge is None:
        return positions
    low, high = (edge, positions.high) if positions.newest_first else (positions.low, edge + 1)
    return PositionRange(low, high, positions.newest_first)


def _candidates(
    connection: Connection, project_pk: int, event_filter: EventFilter, positions: PositionRange, count: int
) -> tuple[list[int], int | None]:
    """Return the candidates of a contact or of a name, in any order, and the last one to examine if there are more.

    Of events that need no examination, the first `count` are enough.
    """
    named, occurred = _named(event_filter), bool(_occurred(event_filter))
    find = partial(positions_of_contact, connection, project_pk, named, positions)
    parts: list[tuple[Sequence[int], bool]] = []
    if not event_filter.contact_id and not event_filter.email:
        # With other columns SQLite would read the whole range by the primary key instead.
        query = sa.select(event.c.position).where(event.c.project_key == project_pk, *named, positions.within())
        query = query.order_by(positions.order()).limit(EXAMINED_ROWS if occurred else count)
        parts.append((connection.scalars(query).all(), occurred))
    else:
        key = contact_key(connection, project_pk, contact_id=event_filter.contact_id, email=event_filter.email)
        if key is not None:
            parts.append((find(EXAMINED_ROWS if occurred else count, contact_key=key, email=""), occurred))
        if not event_filter.contact_id:
            examined = occurred or bool(named)
            found = find(EXAMINED_ROWS if examined else count, contact_key=None, email=event_filter.email)
            parts.append((found, examined))
    edges = [found[-1] for found, examined in parts if examined and len(found) == EXAMINED_ROWS]
    candidates = [position for found, _ in parts for position in found]
    if not edges:
        return candidates, None
    edge = max(edges) if positions.newest_first else min(edges)
    return [
        position for position in candidates if (position >= edge) is positions.newest_first or position == edge
    ], edge


def _named(event_filter: EventFilter) -> list[sa.ColumnElement[bool]]:
    return [event.c.name == event_filter.name] if event_filter.name else []


def _occurred(event_filter: EventFilter) -> list[sa.ColumnElement[bool]]:
    filters: list[sa.ColumnElement[bool]] = []
    if event_filter.occurred_from is not None:
        filters.append(event.c.occurred_at >= event_filter.occurred_from)
    if event_filter.occurred_until is not None:
        filters.append(event.c.occurred_at < event_filter.occurred_until)
    return filters
