"""Reading a project's match log: its ends, positions of times, single matches and filtered ones.

The log is gapless, and `matched_at` never decreases as positions increase: a time is found by bisection, without an
index. Matches before the start of the log (`automation.deletion.retention`) count as deleted; single ones that a
subscription still uses can be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import bindparam, false, func, select

from automation.automation_store import automations_by_key, has_labels
from automation.bulk import among, chunks, packed
from automation.matches import Match, MatchKind
from automation.prepared_statements import PreparedList
from automation.tables import automation_match, hidden_from_planner, match_log_start
from registry.sql.text_columns import as_text, text_of
from registry.sql.unreadable_rows import load_word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Select

    from automation.automations import Automation
    from automation.matches import MatchFilter

READ_LIMIT: Final = 1_000
"""The number of matches that one read of a filtered log examines."""

_match = automation_match.c
_start = match_log_start.c

_KINDS = {kind.value: kind for kind in MatchKind}


class LogStart(NamedTuple):
    """The start of a match log: the position of the earliest available match, or of the next one if it is empty.

    All deleted matches were recorded before the time `gone_before`, which is 0 if none was deleted.
    """

    position: int = 1
    gone_before: int = 0


def log_start(connection: Connection, project_pk: int) -> LogStart:
    """Return the start of the log of a project."""
    row = connection.execute(_START, {"project": project_pk}).one_or_none()
    return LogStart() if row is None else LogStart(*row)


def log_end(connection: Connection, project_pk: int) -> int:
    """Return the position of the newest match of a project, 0 if there never was one."""
    newest = connection.scalar(select(func.max(_match.position)).where(_match.project_key == project_pk)) or 0
    return max(newest, log_start(connection, project_pk).position - 1)


def matched_at(connection: Connection, project_pk: int, position: int) -> int:
    """Return the time at which the match at an available position was recorded."""
    return int(connection.execute(_MATCHED_AT, {"project": project_pk, "at": position}).scalar_one())


def match_id_at(connection: Connection, project_pk: int, position: int) -> str:
    """Return the id of the match at a position, empty if none is available.

    An id has random bits, so it also identifies the history to which the match belongs, for example after a restore.
    """
    return connection.scalar(_ID_AT, {"project": project_pk, "at": position}) or ""


def first_since(connection: Connection, project_pk: int, time: int, first: int, head: int) -> int:
    """Return the position of the first match, from `first` to `head`, recorded at or after a time; else `head` + 1."""
    low, high = first, head + 1
    while low < high:
        middle = (low + high) // 2
        if matched_at(connection, project_pk, middle) < time:
            low = middle + 1
        else:
            high = middle
    return low


def read_filtered(
    connection: Connection, project_pk: int, match_filter: MatchFilter, after: int, limit: int
) -> list[Match]:
    """Return the matches that pass a filter, at most `limit`, among the READ_LIMIT matches after a position."""
    within = (_match.project_key == project_pk) & (_match.position > after) & (_match.position <= after + READ_LIMIT)
    query = filtered(connection, select(*as_text(automation_match)).where(within), match_filter)
    return [to_match(row) for row in connection.execute(query.order_by(_match.position).limit(limit))]


def passes(match: Match, automation: Automation, match_filter: MatchFilter) -> bool:
    """Return whether a match of an automation passes a filter, as `filtered` selects it in SQL."""
    names = match_filter.event_names
    return (not names or match.event_name in names) and _passes(automation, match_filter)


def _passes(automation: Automation, match_filter: MatchFilter) -> bool:
    ids = match_filter.automation_ids
    return (not ids or automation.id in ids) and has_labels(automation, match_filter.labels)


def filtered(connection: Connection, query: Select[Any], match_filter: MatchFilter) -> Select[Any]:
    """Return a query for the matches that pass a filter; it compares the labels that automations have now."""
    if match_filter.event_names:
        query = query.where(_match.event_name.in_(match_filter.event_names))
    if match_filter.automation_ids or match_filter.labels:
        seen = list(connection.scalars(query.with_only_columns(_match.automation_key).distinct()))
        automations = automations_by_key(connection, seen).values() if seen else ()
        keys = [automation.key for automation in automations if _passes(automation, match_filter)]
        query = query.where(_match.automation_key.in_(keys) if keys else false())
    return query


def matches_at(connection: Connection, project_pk: int, positions: Sequence[int]) -> dict[int, Match]:
    """Return the available matches at these positions, by position."""
    if not positions:
        return {}
    rows = _AT.rows(connection, project=project_pk, positions=packed(connection, positions))
    return {row[1]: to_match(row) for row in rows}


def matches_of_events(
    connection: Connection, project_pk: int, event_positions: Sequence[int]
) -> dict[int, list[Match]]:
    """Return the available matches of events, by the positions of the events and in log order."""
    matches: dict[int, list[Match]] = {}
    for chunk in chunks(event_positions):
        query = select(*as_text(automation_match)).where(
            hidden_from_planner(_match.project_key) == project_pk,
            _match.event_position.in_(chunk),
            _match.kind != MatchKind.TIMED_OUT,
        )
        for row in connection.execute(query.order_by(_match.position)):
            matches.setdefault(row.event_position, []).append(to_match(row))
    return matches


def to_match(row: Any) -> Match:
    """Return the match of a row that begins with the columns of the log."""
    _, position, match_id, kind, *rest = row[:11]
    return Match(position, match_id, _KINDS.get(kind) or load_word(MatchKind, "match", match_id, kind), *rest)


def match_values(project_pk: int, match: Match) -> tuple[Any, ...]:
    """Return the values of a match in the order of the columns."""
    return (
        project_pk,
        match.position,
        match.id,
        match.kind,
        match.automation_key,
        match.run_number,
        match.run_id,
        match.event_position,
        match.event_name,
        match.contact_key,
        match.matched_at,
    )


def _at(dialect: str) -> Select[Any]:
    own = _match.project_key == bindparam("project")
    return select(*as_text(automation_match)).where(own, among(_match.position, "positions", dialect))


_AT = PreparedList(_at)
_START = select(_start.position, _start.gone_before).where(_start.project_key == bindparam("project"))
_MATCHED_AT = select(_match.matched_at).where(
    _match.project_key == bindparam("project"), _match.position == bindparam("at")
)
_ID_AT = select(text_of(_match.id)).where(
    _match.project_key == bindparam("project"), _match.position == bindparam("at")
)
