"""SQL of the retention of events: how long each project keeps them, and their deletion.

An event is due when it was received longer ago than its period. It is deleted then unless it is in use: as the event of
an available match, which a consumer may still read, or as the event that started a waiting run, which a timeout names.
The newest event of a project always stays, because cached contacts are valid as long as it does (`server.ingest`).

The positions of deleted events are not used again: the log has gaps where events were deleted, and only there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, select

from automation.bulk import among, packed
from automation.tables import WAITING, automation_match, hidden_from_planner, run
from registry.storage.tables import RETAINED, event_definition
from server.storage.events.reading import log_head, position_at
from server.storage.tables import event, project

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

_event = event.c
_match = automation_match.c
_definition = event_definition.c


@dataclass(frozen=True, slots=True)
class RetentionPeriods:
    """How long a project keeps its events, in microseconds; 0 is for ever.

    `by_name` has the periods of definitions, which apply in place of the one of the project.
    """

    of_project: int = 0
    by_name: Mapping[str, int] = field(default_factory=dict)

    @property
    def finite(self) -> dict[str, int]:
        """The periods after which events are deleted, by name; that of all other names is under the empty name."""
        periods = {"": self.of_project, **self.by_name}
        return {name: period for name, period in periods.items() if period}


def event_retentions(connection: Connection) -> dict[int, RetentionPeriods]:
    """Return the retention of each project that has one, or a definition that has one, by `project_pk`."""
    found: dict[int, dict[str, int]] = {}
    query = select(project.c.key, _definition.name, _definition.event_retention)
    for row in connection.execute(
        query.join_from(event_definition, project, project.c.id == _definition.project_id).where(RETAINED)
    ):
        found.setdefault(row.key, {})[row.name] = row.event_retention
    periods = match_retentions(connection)
    return {key: RetentionPeriods(periods.get(key, 0), found.get(key, {})) for key in periods.keys() | found.keys()}


def match_retentions(connection: Connection) -> dict[int, int]:
    """Return how long projects keep their events, and so their matches, in microseconds; only those with a period."""
    query = select(project.c.key, project.c.event_retention).where(project.c.event_retention > 0)
    return {row.key: row.event_retention for row in connection.execute(query)}


def end_of_due(connection: Connection, project_pk: int, before: int) -> int:
    """Return the position before which all events were received before a time. The newest event is not among them."""
    return min(position_at(connection, project_pk, before), log_head(connection, project_pk))


def due_events(
    connection: Connection, project_pk: int, name: str, others: Sequence[str], after: int, end: int, limit: int
) -> tuple[Sequence[int], int | None]:
    """Return events of a name; if it is empty, of all names but `others`. Examine `limit` of them, after a position.

    Return the positions of those before `end`, and the position after which to continue, None at the end.
    """
    query = select(_event.position, _event.name).where(_event.project_key == project_pk, _event.position < end)
    query = query.where(_event.position > after).order_by(_event.position).limit(limit)
    if name:
        query = query.where(_event.name == name)
    rows = connection.execute(query).all()
    positions = [row.position for row in rows if row.name not in others]
    return positions, rows[-1].position if len(rows) == limit else None


def delete_events(connection: Connection, project_pk: int, positions: Sequence[int]) -> int:
    """Delete due events, except those in use. Return how many were deleted.

    It is one statement: between two of them, a wait could time out after its run was examined and before its matches.
    """
    of_match = (hidden_from_planner(_match.project_key) == project_pk) & (_match.event_position == _event.position)
    of_run = (run.c.contact_key == _event.contact_key) & (run.c.event_position == _event.position) & WAITING
    own_run = hidden_from_planner(run.c.project_key) == project_pk
    due = (_event.project_key == project_pk) & among(_event.position, "positions", connection.dialect.name)
    in_use = exists().where(of_match) | exists().where(of_run, own_run)
    statement = delete(event).where(due, ~in_use)
    return connection.execute(statement, {"positions": packed(connection, positions)}).rowcount
