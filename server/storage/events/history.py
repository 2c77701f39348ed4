"""SQL of the log: the recorded events of a definition, for backtests and for the traffic of its revisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from registry.coercion.reverse import undo
from registry.sql.page_sizes import PAGE_CHARACTERS, rows_at_once
from registry.sql.unreadable_rows import load_object
from server.storage.events.reading import log_head, position_at, position_range, read_coercions
from server.storage.tables import contact, event

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from registry.definitions.event_definitions import EventDefinition
    from server.storage.events.reading import EventFilter

RECENT_EVENTS: Final = 10_000
"""The number of a definition's newest events that count as its traffic."""

_CLOCK_SKEW: Final = 60_000_000
"""The clocks of servers on one database differ by less than this, in microseconds."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """The number of recent events that a revision validated, and when the last of them was received."""

    revision: int
    event_count: int
    last_seen_at: int


def traffic(
    connection: Connection, project_pk: int, definition: EventDefinition, limit: int, before: int | None = None
) -> list[Traffic]:
    """Return the traffic of a definition's revisions before the revision `before`, newest revision first."""
    recent = (
        sa.select(event.c.revision, event.c.position)
        .where(*_in_lifetime(connection, project_pk, definition), event.c.definition_id == definition.id)
        .order_by(event.c.position.desc())
        .limit(RECENT_EVENTS)
        .subquery()
    )
    revisions = (
        sa.select(recent.c.revision, sa.func.count().label("events"), sa.func.max(recent.c.position).label("last"))
        .group_by(recent.c.revision)
        .order_by(recent.c.revision.desc())
        .limit(limit)
    )
    if before is not None:
        revisions = revisions.where(recent.c.revision < before)
    newest = revisions.subquery()
    at = (event.c.project_key == project_pk) & (event.c.position == newest.c.last)
    query = sa.select(newest.c.revision, newest.c.events, event.c.received_at).join_from(newest, event, at)
    return [Traffic(*row) for row in connection.execute(query.order_by(newest.c.revision.desc()))]


def _in_lifetime(connection: Connection, project_pk: int, definition: EventDefinition) -> list[sa.ColumnElement[bool]]:
    """Return the conditions for events of the definition's name during its life, as another one may have had it."""
    first = position_at(connection, project_pk, definition.created_at - _CLOCK_SKEW)
    within = [event.c.project_key == project_pk, event.c.name == definition.name, event.c.position >= first]
    if definition.deleted_at is not None:
        within.append(event.c.position < position_at(connection, project_pk, definition.deleted_at + _CLOCK_SKEW))
    return within


@dataclass(frozen=True, slots=True)
class NameRange:
    """The events of one name from the position `low` on and before `high`. No later event belongs to them."""

    name: str
    low: int
    high: int
    count: int
    head: int


def name_range(connection: Connection, project_pk: int, event_filter: EventFilter, newest: int) -> NameRange:
    """Return the range of the events with a filter's name and time of receipt; of the `newest` ones, unless it is 0."""
    low, high = position_range(connection, project_pk, event_filter)
    head = log_head(connection, project_pk)
    high = min(head + 1, high or head + 1)
    position = event.c.position
    query = sa.select(position).where(event.c.project_key == project_pk, event.c.name == event_filter.name)
    query = query.where(position >= low, position < high)
    if newest:
        query = query.order_by(position.desc()).limit(newest)
    positions = query.subquery().c.position
    count, first = connection.execute(sa.select(sa.func.count(), sa.func.min(positions))).one()
    return NameRange(event_filter.name, first or high, high, count, head)


class RecordedPayload(NamedTuple):
    """A payload as it is recorded: the JSON of its properties after coercion, and that of the coercions.

    What is left of an `erased` one is not what was sent.
    """

    id: str
    position: int
    revision: int
    properties: str
    coercions: str
    erased: bool = False

    def sent(self) -> dict[str, Any]:
        """Return the properties as they were sent. Raise one of UNREADABLE if they are stored in another form."""
        properties = load_object(self.properties)
        if not self.coercions:
            return properties
        coercions, omitted = read_coercions(self.coercions)
        if omitted:
            raise ValueError(f"{omitted:,} of its coercions were not recorded, so what was sent is not known")
        return undo(properties, coercions)


_RECORDED = sa.select(
    event.c.id,
    event.c.position,
    event.c.revision,
    event.c.properties,
    event.c.coercions,
    (event.c.erased_at != 0) | contact.c.erased_at.is_not(None),
).join_from(event, contact, contact.c.key == event.c.contact_key, isouter=True)


def recorded_payloads(
    connection: Connection, project_pk: int, within: NameRange, after: int, limit: int
) -> list[RecordedPayload]:
    """Return payloads of a range after the position `after`, oldest first.

    They are at most `limit`, and end with the one that exceeds PAGE_CHARACTERS.
    """
    position = event.c.position
    query = _RECORDED.where(event.c.project_key == project_pk, event.c.name == within.name)
    query = query.where(position > after, position < within.high).order_by(position).limit(limit)
    payloads: list[RecordedPayload] = []
    characters = 0
    # A part of the rows at a time, because `limit` large payloads would be far more than PAGE_CHARACTERS.
    with connection.execute(query, execution_options={"yield_per": rows_at_once(connection)}) as rows:
        for row in rows:
            payloads.append(RecordedPayload(*row))
            characters += len(row.properties) + len(row.coercions)
            if characters > PAGE_CHARACTERS:
                break
    return payloads
