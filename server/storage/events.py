"""SQL of the log: reading and paging.

A project's log is clustered by (project, position), and `received_at` never falls as positions rise, so a range of
time is a range of positions: it is found by bisection, without an index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import sqlalchemy as sa

from registry.coercion import Change, ChangeKind
from registry.json_values import MAX_DEPTH, load_nested
from registry.log_ids import position_of
from registry.pages import PAGE_CHARACTERS, read_page
from registry.undo import undo
from registry.unreadable_rows import UNREADABLE, UNREADABLE_ROWS, load_object
from server.errors import EventNotFound
from server.model import Event
from server.storage.contacts import contact_key
from server.storage.tables import WITHOUT_CONTACT, contact, event, project_head

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Row

    from registry.definitions import EventDefinition

_EVENTS = sa.select(
    event,
    contact.c.id.label("contact_id"),
    sa.func.coalesce(contact.c.email, event.c.email).label("contact_email"),
    contact.c.deleted_at.is_not(None).label("contact_deleted"),
).join_from(event, contact, contact.c.key == event.c.contact_key, isouter=True)


RECENT_EVENTS = 10_000
"""So many of a definition's newest events tell of its traffic."""

_CLOCK_SKEW = 60_000_000
"""The clocks of servers on one database differ by less, in microseconds."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events to list. Times in microseconds, from inclusive, until exclusive."""

    name: str = ""
    contact_id: str = ""
    email: str = ""
    received_from: int | None = None
    received_until: int | None = None
    occurred_from: int | None = None
    occurred_until: int | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """How many recent events were judged by a revision, and when the last of them was received."""

    revision: int
    event_count: int
    last_seen_at: int


def get_event(connection: Connection, project_pk: int, event_id: str) -> Event:
    """Read one event. Raises EventNotFound."""
    at = (event.c.project_key == project_pk) & (event.c.position == position_of(event_id))
    row = connection.execute(_EVENTS.where(at, event.c.id == event_id)).one_or_none()
    if row is None:
        raise EventNotFound(event_id)
    return to_event(row)


def event_ids(connection: Connection, project_pk: int, positions: Iterable[int]) -> dict[int, str]:
    """Read the ids of the events at positions."""
    return _texts_at(connection, event.c.id, project_pk, positions)


def log_head(connection: Connection, project_pk: int) -> int:
    """Return the position of the newest event of a project."""
    return connection.scalar(sa.select(project_head.c.position).where(project_head.c.project_key == project_pk)) or 0


def event_names(connection: Connection, project_pk: int, positions: Iterable[int]) -> dict[int, str]:
    """Read the names of the events at positions."""
    return _texts_at(connection, event.c.name, project_pk, positions)


def event_sizes(connection: Connection, project_pk: int, positions: Iterable[int]) -> dict[int, int]:
    """Return the number of characters of the events at positions: payload, coercions, name and address."""
    length = sa.func.length
    size = length(event.c.properties) + length(event.c.coercions) + length(event.c.name) + length(event.c.email)
    wanted = (event.c.project_key == project_pk) & event.c.position.in_(list(positions))
    return {row[0]: row[1] for row in connection.execute(sa.select(event.c.position, size).where(wanted))}


def events_at(connection: Connection, project_pk: int, positions: Iterable[int]) -> dict[int, Event]:
    """Read the events at positions."""
    wanted = (event.c.project_key == project_pk) & event.c.position.in_(list(positions))
    return {row.position: to_event(row) for row in connection.execute(_EVENTS.where(wanted))}


def events_by_idempotency_key(
    connection: Connection, project_pk: int, keys: Sequence[str]
) -> dict[str, tuple[str, Event]]:
    """Find the events that were recorded under idempotency keys, each with its fingerprint."""
    query = _EVENTS.where(event.c.project_key == project_pk, event.c.idempotency_key.in_(keys))
    return {row.idempotency_key: (row.fingerprint, to_event(row)) for row in connection.execute(query)}


def list_events(
    connection: Connection, project_pk: int, wanted: EventFilter, limit: int, *, before: int | None, after: int | None
) -> tuple[list[Event], bool]:
    """List events, newest first below the position `before`, or oldest first above the position `after`.

    Ends at the limit or at PAGE_CHARACTERS of payload; says whether there are more.
    """
    low, high = _position_range(connection, project_pk, wanted)
    place = event.c.position
    within = [event.c.project_key == project_pk, place >= low, *_filters(wanted)]
    if after is not None:
        within.append(place > after)
    else:
        high = high if before is None else min(high or before, before)
    if high is not None:
        within.append(place < high)
    order = place if after is not None else place.desc()
    query = _EVENTS.where(*within)
    if wanted.contact_id or wanted.email:
        query = _EVENTS.where(event.c.project_key == project_pk)
        query = query.where(place.in_(_places_of_contact(connection, project_pk, wanted, within, order, limit + 1)))
    page, more = read_page(
        connection, query.order_by(order), limit, lambda row: len(row.properties) + len(row.coercions)
    )
    return [to_event(row) for row in page], more


def traffic(
    connection: Connection, project_pk: int, definition: EventDefinition, limit: int, before: int | None = None
) -> list[Traffic]:
    """Tell which revisions judged the RECENT_EVENTS newest events of a definition, newest first, below `before`."""
    recent = (
        sa.select(event.c.revision, event.c.position)
        .where(*_in_lifetime(connection, project_pk, definition), event.c.definition_id == definition.id)
        .order_by(event.c.position.desc())
        .limit(RECENT_EVENTS)
        .subquery()
    )
    seen = (
        sa.select(recent.c.revision, sa.func.count().label("events"), sa.func.max(recent.c.position).label("last"))
        .group_by(recent.c.revision)
        .order_by(recent.c.revision.desc())
        .limit(limit)
    )
    if before is not None:
        seen = seen.where(recent.c.revision < before)
    newest = seen.subquery()
    at = (event.c.project_key == project_pk) & (event.c.position == newest.c.last)
    query = sa.select(newest.c.revision, newest.c.events, event.c.received_at).join_from(newest, event, at)
    return [Traffic(*row) for row in connection.execute(query.order_by(newest.c.revision.desc()))]


def _in_lifetime(connection: Connection, project_pk: int, definition: EventDefinition) -> list[sa.ColumnElement[bool]]:
    """Say that an event has the definition's name and came while it lived: another one may have had the name."""
    first = position_at(connection, project_pk, definition.created_at - _CLOCK_SKEW)
    within = [event.c.project_key == project_pk, event.c.name == definition.name, event.c.position >= first]
    if definition.deleted_at is not None:
        within.append(event.c.position < position_at(connection, project_pk, definition.deleted_at + _CLOCK_SKEW))
    return within


def _texts_at(
    connection: Connection, column: sa.Column[str], project_pk: int, positions: Iterable[int]
) -> dict[int, str]:
    wanted = (event.c.project_key == project_pk) & event.c.position.in_(list(positions))
    return {row[0]: row[1] for row in connection.execute(sa.select(event.c.position, column).where(wanted))}


def position_at(connection: Connection, project_pk: int, time: int) -> int:
    """Find the first position that was received at a time or later; one behind the head if there is none."""
    head = sa.select(project_head.c.position).where(project_head.c.project_key == project_pk)
    low, high = 1, int(connection.scalar(head) or 0) + 1
    while low < high:
        middle = (low + high) // 2
        received_at = connection.scalar(_RECEIVED_AT, {"project": project_pk, "middle": middle})
        if received_at is not None and received_at < time:
            low = middle + 1
        else:
            high = middle
    return low


_RECEIVED_AT = sa.select(event.c.received_at).where(
    event.c.project_key == sa.bindparam("project"), event.c.position == sa.bindparam("middle")
)


def to_event(row: Row[Any]) -> Event:
    """Read an event from a row of the log joined with its contact; one that cannot be read is reported."""
    unreadable = ""
    properties: dict[str, Any]
    coercions: tuple[Change, ...]
    try:
        properties, coercions = load_object(row.properties), _changes(row.coercions) if row.coercions else ()
    except UNREADABLE as error:
        properties, coercions = {}, ()
        unreadable = UNREADABLE_ROWS.report("event", row.id, error)
    return Event(
        id=row.id,
        position=row.position,
        name=row.name,
        definition_id=row.definition_id,
        revision=row.revision,
        contact_id=row.contact_id or "",
        email=row.contact_email,
        properties=properties,
        coercions=coercions,
        occurred_at=row.occurred_at,
        received_at=row.received_at,
        match_count=row.match_count,
        ignore_case=bool(row.ignore_case),
        contact_deleted=bool(row.contact_deleted),
        unreadable=unreadable,
    )


def _changes(text: str) -> tuple[Change, ...]:
    # Stored as [[path, kind, from, to], ...], where `from` is at most one level less deep than the payload.
    changes = load_nested(text, MAX_DEPTH + 1)
    return tuple(Change(path, ChangeKind(kind), *values) for path, kind, *values in changes)


def _position_range(connection: Connection, project_pk: int, wanted: EventFilter) -> tuple[int, int | None]:
    low, high = 1, None
    if wanted.received_from is not None:
        low = position_at(connection, project_pk, wanted.received_from)
    if wanted.received_until is not None:
        high = position_at(connection, project_pk, wanted.received_until)
    return low, high


def _filters(wanted: EventFilter) -> list[sa.ColumnElement[bool]]:
    filters: list[sa.ColumnElement[bool]] = []
    if wanted.name:
        filters.append(event.c.name == wanted.name)
    if wanted.occurred_from is not None:
        filters.append(event.c.occurred_at >= wanted.occurred_from)
    if wanted.occurred_until is not None:
        filters.append(event.c.occurred_at < wanted.occurred_until)
    return filters


def _places_of_contact(
    connection: Connection,
    project_pk: int,
    wanted: EventFilter,
    within: Sequence[sa.ColumnElement[bool]],
    order: sa.ColumnElement[Any],
    limit: int,
) -> sa.Select[tuple[int]]:
    """Select the first positions of a contact's events; those recorded without a contact are found by their address.

    Each kind is read from its own index. One query with OR would read the log until it has found enough.
    """
    key = contact_key(connection, project_pk, contact_id=wanted.contact_id, email=wanted.email)
    kinds = [] if key is None else [event.c.contact_key == key]
    if not wanted.contact_id:
        kinds.append(WITHOUT_CONTACT & (event.c.email == wanted.email))
    parts = [sa.select(event.c.position).where(*within, kind).order_by(order).limit(limit).subquery() for kind in kinds]
    if not parts:
        return sa.select(event.c.position).where(sa.false())
    places = sa.union_all(*(sa.select(part.c.position) for part in parts)).subquery()
    return sa.select(places.c.position)


@dataclass(frozen=True, slots=True)
class NameRange:
    """A part of the log that no later event changes: those of one name from the position `low` up to below `high`."""

    name: str
    low: int
    high: int
    count: int
    head: int


def name_range(connection: Connection, project_pk: int, wanted: EventFilter, newest: int) -> NameRange:
    """Find the events of a name and a time of receipt that are recorded now; only so many of the newest if not 0."""
    low, high = _position_range(connection, project_pk, wanted)
    head = connection.scalar(sa.select(project_head.c.position).where(project_head.c.project_key == project_pk)) or 0
    high = min(head + 1, high or head + 1)
    place = event.c.position
    found = sa.select(place).where(event.c.project_key == project_pk, event.c.name == wanted.name)
    found = found.where(place >= low, place < high)
    if newest:
        found = found.order_by(place.desc()).limit(newest)
    positions = found.subquery().c.position
    count, first = connection.execute(sa.select(sa.func.count(), sa.func.min(positions))).one()
    return NameRange(wanted.name, first or high, high, count, head)


class Recorded(NamedTuple):
    """What is recorded of a payload: its text as it was coerced, and that of what coercion changed."""

    id: str
    position: int
    revision: int
    properties: str
    coercions: str

    def sent(self) -> dict[str, Any]:
        """Give the properties as they were sent."""
        properties = msgspec.json.decode(self.properties)
        return undo(properties, _changes(self.coercions)) if self.coercions else properties


_RECORDED = sa.select(event.c.id, event.c.position, event.c.revision, event.c.properties, event.c.coercions)
_ROWS_AT_ONCE = 100


def recorded_payloads(
    connection: Connection, project_pk: int, within: NameRange, after: int, limit: int
) -> list[Recorded]:
    """Read the payloads of a range behind a position, oldest first; ends at the limit or beyond PAGE_CHARACTERS."""
    place = event.c.position
    query = _RECORDED.where(event.c.project_key == project_pk, event.c.name == within.name)
    query = query.where(place > after, place < within.high).order_by(place).limit(limit)
    payloads: list[Recorded] = []
    characters = 0
    # A part of the rows at a time: all of them might be far too many characters.
    with connection.execute(query, execution_options={"yield_per": _ROWS_AT_ONCE}) as rows:
        for row in rows:
            payloads.append(Recorded(*row))
            characters += len(row.properties) + len(row.coercions)
            if characters > PAGE_CHARACTERS:
                break
    return payloads
