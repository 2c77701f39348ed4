"""Reading a project's match log: its ends, its places in time, single matches, and what a filter lets through.

The log is gapless, and `matched_at` never falls as positions rise: a time is found by bisection, without an index.
What is older than it keeps (`automation.retention`) is gone; of that, only single matches may still be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import bindparam, false, func, select

from automation.automation_store import automations_by_key, has_labels
from automation.bulk import chunks
from automation.matches import Match, MatchKind
from automation.tables import automation_match, hidden, match_log_start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Select

    from automation.subscriptions.values import MatchFilter

READ_LIMIT: Final = 1_000
"""So many matches of the log are looked through at once."""

_match = automation_match.c
_start = match_log_start.c

_KINDS = {kind.value: kind for kind in MatchKind}


class LogStart(NamedTuple):
    """Where a match log begins: the position of the earliest match that it keeps, or of the next one if it is empty.

    All that is gone was recorded before the time `gone_before`, which is 0 where nothing is.
    """

    position: int = 1
    gone_before: int = 0


def log_start(connection: Connection, project_pk: int) -> LogStart:
    """Read where the log of a project begins."""
    row = connection.execute(_START, {"project": project_pk}).one_or_none()
    return LogStart() if row is None else LogStart(*row)


def log_end(connection: Connection, project_pk: int) -> int:
    """Return the position of the newest match of a project, 0 where there never was one."""
    newest = connection.scalar(select(func.max(_match.position)).where(_match.project_key == project_pk)) or 0
    return max(newest, log_start(connection, project_pk).position - 1)


def matched_at(connection: Connection, project_pk: int, position: int) -> int:
    """Say when the match at a position that is kept was recorded."""
    return int(connection.execute(_MATCHED_AT, {"project": project_pk, "at": position}).scalar_one())


def match_id_at(connection: Connection, project_pk: int, position: int) -> str:
    """Return the id of the match at a position, empty where none is kept.

    The id has random bits of its own, so it also identifies the history that led to it.
    """
    return connection.scalar(_ID_AT, {"project": project_pk, "at": position}) or ""


def first_since(connection: Connection, project_pk: int, time: int, first: int, head: int) -> int:
    """Find the first of the matches from `first` to `head` that was recorded at a time or later, else `head` + 1."""
    low, high = first, head + 1
    while low < high:
        middle = (low + high) // 2
        if matched_at(connection, project_pk, middle) < time:
            low = middle + 1
        else:
            high = middle
    return low


def read_filtered(connection: Connection, project_pk: int, wanted: MatchFilter, after: int, limit: int) -> list[Match]:
    """Read, from behind a position, what a filter lets through of the next READ_LIMIT matches."""
    within = (_match.project_key == project_pk) & (_match.position > after) & (_match.position <= after + READ_LIMIT)
    query = filtered(connection, select(automation_match).where(within), wanted)
    return [to_match(row) for row in connection.execute(query.order_by(_match.position).limit(limit))]


def filtered(connection: Connection, query: Select[Any], wanted: MatchFilter) -> Select[Any]:
    """Narrow a reading of the log to what a filter lets through; labels are those that automations have now."""
    if wanted.event_names:
        query = query.where(_match.event_name.in_(wanted.event_names))
    if wanted.automation_ids or wanted.labels:
        seen = list(connection.scalars(query.with_only_columns(_match.automation_key).distinct()))
        known = automations_by_key(connection, seen).values() if seen else ()
        keys = [
            each.key
            for each in known
            if has_labels(each, wanted.labels) and (not wanted.automation_ids or each.id in wanted.automation_ids)
        ]
        query = query.where(_match.automation_key.in_(keys) if keys else false())
    return query


def matches_at(connection: Connection, project_pk: int, positions: Sequence[int]) -> dict[int, Match]:
    """Read the matches at positions, those that are kept."""
    found: dict[int, Match] = {}
    for chunk in chunks(positions):
        query = select(automation_match).where(_match.project_key == project_pk, _match.position.in_(chunk))
        found.update((row.position, to_match(row)) for row in connection.execute(query))
    return found


def matches_of_events(
    connection: Connection, project_pk: int, event_positions: Sequence[int]
) -> dict[int, list[Match]]:
    """Read what events set off, as far as it is kept: by their positions, the matches in the order of the log."""
    found: dict[int, list[Match]] = {}
    for chunk in chunks(event_positions):
        query = select(automation_match).where(
            hidden(_match.project_key) == project_pk,
            _match.event_position.in_(chunk),
            _match.kind != MatchKind.TIMED_OUT,
        )
        for row in connection.execute(query.order_by(_match.position)):
            found.setdefault(row.event_position, []).append(to_match(row))
    return found


def to_match(row: Any) -> Match:
    """Read a match from a row that begins with the columns of the log."""
    _, position, match_id, kind, *rest = row[:11]
    return Match(position, match_id, _KINDS[kind], *rest)


def match_values(project_pk: int, match: Match) -> tuple[Any, ...]:
    """Return the columns of a match, in their order."""
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


_START = select(_start.position, _start.gone_before).where(_start.project_key == bindparam("project"))
_MATCHED_AT = select(_match.matched_at).where(
    _match.project_key == bindparam("project"), _match.position == bindparam("at")
)
_ID_AT = select(_match.id).where(_match.project_key == bindparam("project"), _match.position == bindparam("at"))
