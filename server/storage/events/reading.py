"""SQL of the log: reading. Lists of events are in `pages`.

A project's log is clustered by (project, position), and `received_at` never decreases from one position to the next. So
a range of time is a range of positions, which bisection finds without an index. Positions of deleted events are missing
(`server.storage.events.retention`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from automation.bulk import among, packed
from automation.prepared_statements import PreparedList
from registry.coercion.report import Coercion
from registry.log_ids import position_of
from registry.sql.text_columns import as_text, text_of
from registry.sql.unreadable_rows import UNREADABLE, UNREADABLE_ROWS, load_object
from registry.times.timestamps import check_instant
from registry.values.json_values import MAX_DEPTH
from registry.values.stored_json import load_nested
from server.errors import EventNotFound
from server.model import Event
from server.storage.tables import contact, event, project_head

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection


EVENTS = sa.select(
    *as_text(event),
    sa.cast(contact.c.id, sa.Text).label("contact_id"),
    sa.cast(sa.func.coalesce(contact.c.email, event.c.email), sa.Text).label("contact_email"),
    contact.c.deleted_at.is_not(None).label("contact_deleted"),
    contact.c.erased_at.label("contact_erased_at"),
).join_from(event, contact, contact.c.key == event.c.contact_key, isouter=True)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """The events to list. Times are in microseconds; `from` is inclusive, `until` exclusive."""

    name: str = ""
    contact_id: str = ""
    email: str = ""
    received_from: int | None = None
    received_until: int | None = None
    occurred_from: int | None = None
    occurred_until: int | None = None


def get_event(connection: Connection, project_pk: int, event_id: str) -> Event:
    """Read one event. Raise EventNotFound."""
    position = position_of(event_id) or 0
    at = (event.c.project_key == project_pk) & (event.c.position == position)
    row = connection.execute(EVENTS.where(at, event.c.id == event_id)).one_or_none()
    if row is None:
        raise EventNotFound(event_id, deleted=is_deleted(connection, project_pk, position))
    return to_event(row)


def is_deleted(connection: Connection, project_pk: int, position: int) -> bool:
    """Return whether the event at a position was deleted after its retention period."""
    at = (event.c.project_key == project_pk) & (event.c.position == position)
    exists = connection.scalar(sa.select(event.c.position).where(at)) is not None
    return not exists and 0 < position <= log_head(connection, project_pk)


def event_ids(connection: Connection, project_pk: int, positions: Iterable[int]) -> dict[int, str]:
    """Return the ids of the events at positions, by position."""
    return _texts_at(connection, event.c.id, project_pk, positions)


def log_head(connection: Connection, project_pk: int) -> int:
    """Return the position of the newest event of a project."""
    return connection.scalar(sa.select(project_head.c.position).where(project_head.c.project_key == project_pk)) or 0


def log_end(connection: Connection, project_pk: int) -> tuple[int, int]:
    """Return the position of the newest event of a project, and when it was received; 0 if there is none."""
    query = sa.select(project_head.c.position, project_head.c.received_at)
    row = connection.execute(query.where(project_head.c.project_key == project_pk)).one_or_none()
    return (row.position, row.received_at) if row is not None else (0, 0)


def latest_event_before(connection: Connection, since: int, before: int) -> int:
    """Return when the latest event before a time was received, or any one from `since` on; 0 if there is none.

    Only the projects that received events last are searched.
    """
    head = project_head.c
    latest = sa.select(head.project_key, head.position, head.received_at)
    found = 0
    for row in connection.execute(latest.order_by(head.received_at.desc()).limit(_LATEST_PROJECTS)).all():
        if found >= since:
            break
        if row.received_at < before:
            return max(found, int(row.received_at))
        older = event.c.position < position_at(connection, row.project_key, before)
        received = sa.select(event.c.received_at).where(event.c.project_key == row.project_key, older)
        found = max(found, int(connection.scalar(received.order_by(event.c.position.desc()).limit(1)) or 0))
    return found


_LATEST_PROJECTS: Final = 20


def event_names(connection: Connection, project_pk: int, positions: Iterable[int]) -> dict[int, str]:
    """Return the names of the events at positions, by position."""
    return _texts_at(connection, event.c.name, project_pk, positions)


def event_sizes(connection: Connection, project_pk: int, positions: Iterable[int]) -> dict[int, int]:
    """Return the number of characters of the events at positions: payload, coercions, name and address."""
    rows = _SIZES_AT.rows(connection, project=project_pk, positions=packed(connection, list(positions)))
    return {row[0]: row[1] for row in rows}


def in_portions(
    positions: Sequence[int], sizes: Mapping[int, int], most_rows: int, most_characters: int
) -> list[list[int]]:
    """Return positions in portions of at most `most_rows` events with `most_characters`, but at least one event each.

    `sizes` are those of `event_sizes`.
    """
    portions: list[list[int]] = []
    characters = 0
    for position in positions:
        size = sizes.get(position, 0)
        if not portions or len(portions[-1]) == most_rows or characters + size > most_characters:
            portions.append([])
            characters = 0
        portions[-1].append(position)
        characters += size
    return portions


def events_at(connection: Connection, project_pk: int, positions: Iterable[int]) -> dict[int, Event]:
    """Return the events at positions, by position."""
    rows = _EVENTS_AT.rows(connection, project=project_pk, positions=packed(connection, list(positions)))
    return {row.position: to_event(row) for row in rows}


def events_by_idempotency_key(
    connection: Connection, project_pk: int, keys: Sequence[str]
) -> dict[str, tuple[str, Event]]:
    """Return the events with these idempotency keys, each with its fingerprint, by idempotency key."""
    query = EVENTS.where(event.c.project_key == project_pk, event.c.idempotency_key.in_(keys))
    return {row.idempotency_key: (row.fingerprint, to_event(row)) for row in connection.execute(query)}


def _texts_at(
    connection: Connection, column: sa.Column[str], project_pk: int, positions: Iterable[int]
) -> dict[int, str]:
    at = (event.c.project_key == project_pk) & event.c.position.in_(list(positions))
    return {row[0]: row[1] for row in connection.execute(sa.select(event.c.position, text_of(column)).where(at))}


def position_at(connection: Connection, project_pk: int, time: int) -> int:
    """Return a position before which all events were received before `time`, and after which none was.

    It is the position after the head if no event was received at `time` or later.
    """
    head = sa.select(project_head.c.position).where(project_head.c.project_key == project_pk)
    low, high = 1, int(connection.scalar(head) or 0) + 1
    while low < high:
        middle = (low + high) // 2
        next_event = connection.execute(_NEXT_EVENT, {"project": project_pk, "middle": middle}).one_or_none()
        if next_event is not None and next_event.received_at < time:
            low = next_event.position + 1
        else:
            high = middle
    return low


_NEXT_EVENT = (
    sa.select(event.c.position, event.c.received_at)
    .where(event.c.project_key == sa.bindparam("project"), event.c.position >= sa.bindparam("middle"))
    .order_by(event.c.position)
    .limit(1)
)


# Of any type: what is stored may be damaged.
class _EventRow(msgspec.Struct, array_like=True):
    """A row of the log joined with its contact, with the columns of an event."""

    position: Any
    id: Any
    name: Any
    definition_id: Any
    revision: Any
    contact_id: Any
    contact_email: Any
    properties: Any
    coercions: Any
    occurred_at: Any
    received_at: Any
    match_count: Any
    ignore_case: Any
    contact_deleted: Any
    erased_at: Any
    contact_erased_at: Any
    traceparent: Any


def _at(query: sa.Select[Any], dialect: str) -> sa.Select[Any]:
    """Return the query for the events at positions."""
    return query.where(event.c.project_key == sa.bindparam("project"), among(event.c.position, "positions", dialect))


_EVENT_COLUMNS = EVENTS.with_only_columns(*(EVENTS.selected_columns[name] for name in _EventRow.__struct_fields__))
_EVENTS_AT = PreparedList(partial(_at, _EVENT_COLUMNS), msgspec.json.Decoder(list[_EventRow]).decode)
_SIZE: sa.ColumnElement[int] = sum(
    map(sa.func.length, (event.c.properties, event.c.coercions, event.c.name, event.c.email)), sa.literal_column("0")
)
_SIZES_AT = PreparedList(partial(_at, sa.select(event.c.position, _SIZE)))


def to_event(row: Any) -> Event:
    """Return the event of a row of the log joined with its contact; one that cannot be read has the reason in it.

    `row` is of EVENTS, or has its columns as far as an event has them. An erased event has no coercions, but their
    number.
    """
    unreadable = ""
    properties: dict[str, Any]
    coercions: tuple[Coercion, ...]
    erased_at = row.erased_at or row.contact_erased_at or 0
    try:
        # The events of an erased person are erased one after the other; what is left of them is not shown.
        properties = load_object(row.properties) if row.erased_at or not erased_at else {}
        coercions, omitted = read_coercions(row.coercions) if row.coercions else ((), 0)
        if erased_at:
            coercions, omitted = (), omitted + len(coercions)
        occurred_at, received_at = check_instant(row.occurred_at), check_instant(row.received_at)
    except UNREADABLE as error:
        properties, coercions, omitted, occurred_at, received_at = {}, (), 0, 0, 0
        unreadable = UNREADABLE_ROWS.report("event", row.id, error)
    # The first six by position: Python calls with this many names by way of a dict, which takes 1 us.
    return Event(
        row.id,
        row.position,
        row.name,
        row.definition_id,
        row.revision,
        row.contact_id or "",
        email=row.contact_email,
        properties=properties,
        coercions=coercions,
        occurred_at=occurred_at,
        received_at=received_at,
        match_count=row.match_count,
        ignore_case=bool(row.ignore_case),
        contact_deleted=bool(row.contact_deleted),
        unreadable=unreadable,
        omitted_coercions=omitted,
        erased_at=erased_at,
        traceparent=row.traceparent,
    )


# Typed: the objects are made by the decoder, in a quarter of the time.
_RECORDED = msgspec.json.Decoder(list[Coercion | int])


def read_coercions(text: str) -> tuple[tuple[Coercion, ...], int]:
    """Return the coercions of an event from their recorded JSON, and how many further ones were not recorded."""
    # Stored as [[path, kind, from, to], ...], where `from` is at most one level less deep than the payload. The number
    # of further ones comes last, if there are any.
    recorded = load_nested(text, MAX_DEPTH + 1, _RECORDED.decode)
    omitted = recorded.pop() if recorded and type(recorded[-1]) is int else 0
    if int in map(type, recorded):
        raise ValueError("a number is among its coercions")
    return tuple(recorded), omitted


def position_range(connection: Connection, project_pk: int, event_filter: EventFilter) -> tuple[int, int | None]:
    """Return the positions of the filter's time of receipt: the first one, and the one after the last, if any."""
    low, high = 1, None
    if event_filter.received_from is not None:
        low = position_at(connection, project_pk, event_filter.received_from)
    if event_filter.received_until is not None:
        high = position_at(connection, project_pk, event_filter.received_until)
    return low, high
