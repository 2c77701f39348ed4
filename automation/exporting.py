"""The SQL that reads what automations have recorded about a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select

from automation.bulk import DIALECTS, among, packed
from automation.match_log import to_match
from automation.run_store import to_run
from automation.tables import automation_match, hidden_from_planner, run
from registry.sql.text_columns import as_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from automation.matches import Match
    from automation.runs import Run

_match = automation_match.c
_run = run.c


def all_matches_of_events(
    connection: Connection, project_pk: int, event_positions: Sequence[int], until: int
) -> dict[int, list[Match]]:
    """Return the matches of events up to and including a position, by the positions of the events, in log order.

    Timeouts are among the matches of the event that started the run.
    """
    found: dict[int, list[Match]] = {}
    parameters = {"project": project_pk, "events": packed(connection, event_positions), "until": until}
    for row in connection.execute(_MATCHES[connection.dialect.name], parameters):
        found.setdefault(row.event_position, []).append(to_match(row))
    return found


def runs_at(connection: Connection, project_pk: int, numbers: Sequence[int]) -> list[Run]:
    """Return the runs with these numbers, oldest first."""
    parameters = {"project": project_pk, "numbers": packed(connection, numbers)}
    return [to_run(row) for row in connection.execute(_RUNS[connection.dialect.name], parameters)]


_MATCHES = {
    dialect: select(*as_text(automation_match))
    .where(
        hidden_from_planner(_match.project_key) == bindparam("project"),
        among(_match.event_position, "events", dialect),
        _match.position <= bindparam("until"),
    )
    .order_by(_match.position)
    for dialect in DIALECTS
}
_RUNS = {
    dialect: select(*as_text(run))
    .where(_run.project_key == bindparam("project"), among(_run.number, "numbers", dialect))
    .order_by(_run.number)
    for dialect in DIALECTS
}
